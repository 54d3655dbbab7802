"""Traces in the form of OpenTelemetry, where they are asked for: nothing else knows the libraries."""
