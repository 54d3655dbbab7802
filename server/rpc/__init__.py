"""What speaks gRPC. It knows the gate and the domain, and nothing of the store."""
