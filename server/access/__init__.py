"""Who may ask what about whom: callers, what they may do, and the one place where that is asked of a tenant."""
