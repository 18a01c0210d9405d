"""What is made of facts: counters, a page for Prometheus, spans for OpenTelemetry, records for `logging`.

Each of them is an `Observer`. None of them changes a call, reads a prompt or keeps a secret.
"""
