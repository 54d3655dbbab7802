--[[ window: a rolling-window rate. Twin of server/domain/limits/window.py.

A cell is one string: the entries (instant 6 bytes, amount 7), oldest first, then total (7) and the first instant of the
newest entry (6). A window of length W at t covers (t - W, t]; an entry made at t0 stops counting at t0 + W.
Up to 64 entries every instant is kept apart. Beyond that an entry made within W/1000 of the first instant of the
newest one joins it at the later instant: it counts longer by at most W/1000, never shorter, so that a window has
at most about 1,064 entries (14 KB) whatever the amounts. ]]
local WINDOW_ENTRY, WINDOW_TAIL, WINDOW_EXACT = 13, 13, 64
