"""Holdgate: one atomic quota decision per request, over gRPC."""
