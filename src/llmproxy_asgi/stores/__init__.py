"""Where records are kept: one small protocol, a backend per file, and nothing that knows what a record means."""
