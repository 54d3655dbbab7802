"""Engines: where a plan is decided and kept. All implement `base.Engine`; the memory engine is the reference."""
