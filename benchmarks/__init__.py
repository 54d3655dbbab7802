"""`make bench`: every budget of a decision measured beside its yardstick. See docs/benchmarks.md."""
