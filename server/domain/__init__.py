"""The rules, pure: no I/O, no clock. Everything here is a value or a function of values."""
