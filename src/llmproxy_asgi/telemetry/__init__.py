"""Observers of facts: metrics, a page for Prometheus, spans for OpenTelemetry, records for `logging`.

None of them changes a call, reads a prompt or stores a secret.
"""
