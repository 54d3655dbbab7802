"""The fast transport: gRPC as an ASGI application, run by h2corn, an HTTP/2 server in Rust."""
