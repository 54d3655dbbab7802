-- What is due besides holds, which have no such ids: a change of grants, a change of an allowance with thresholds.
-- Mirrors server/engine/keys.py.
local GRANTS_DUE, LIMITS_DUE = '', '\1'
