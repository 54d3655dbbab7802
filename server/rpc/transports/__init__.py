"""Ways in which calls reach the servicers: bytes, streams, deadlines and drain."""
