"""The wire formats, one module a protocol: recorded bodies and streams, and builders of made-up ones."""
