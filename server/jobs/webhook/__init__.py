"""Tells notes to an endpoint of the operator's: signed, in order, at least once."""
