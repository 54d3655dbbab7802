--[[ A hold's record: msgpack values one behind the other.
1 state  2 created_ms  3 lease's end, in ms since created (0: no lease)  4 longest end, in ms since created
5 figures of the grant (checks.lua)  6 fingerprint and figures key (opaque)  7 lease_ms  8 tombstone_ms  9 note (opaque)
10 number of meters, then per meter: name, reserved, reported (-1: never), uncollected
then the number of takes, then per take: kind, meter (0: follows no report), scope ('' for the standing cells, else the
windows' key behind the tag), field, amount, ms since created, base, last, param (a balance's debt bound; a window's
length in ms, negative where a release returns even the request; a quota's cycle and thresholds, packed)
A balance's bound is -1 - bound where it has a ledger. With what was drawn from grants that are kept apart it is a
msgpack sequence, so that what is not used returns where it came from: the bound, then in turn source, expires_ms,
units. What is charged comes off their front. With marks, too, it is a sequence, whose bound is one itself: the bound,
then the marks, the highest first.
Of a hold that waits in a queue 3 is 0: until when stands in the due set alone, so that a ticket is renewed there. 4
counts from its turn on, and its take of the pool has taken nothing yet (queues.lua).
Once a hold is settled or released, 3, 4, 7 and 8 are 0: a tombstone is kept small. ]]
local ACTIVE, SETTLED, RELEASED, EXPIRED, SETTLED_LATE, DONE, QUEUED, PROMOTED, LEFT = 1, 2, 3, 4, 5, 6, 7, 8, 9
local METERS, METER_SIZE, TAKE_SIZE = 10, 4, 9
-- Added to a meter's number times METER_SIZE: where its values are.
local NAME, RESERVED, REPORTED, UNCOLLECTED = 7, 8, 9, 10
