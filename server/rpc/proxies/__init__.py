"""Protocols that proxies speak already, answered by the gate: each in a module of its own."""
