-- Read by tools/lint_lua.py, which checks the assembled scripts.
std = "lua51"
-- What a Redis script is given. cjson is left out: it loses digits of large amounts.
read_globals = { "redis", "cmsgpack", "struct", "bit", "KEYS", "ARGV" }
