"""Stores of records: one small protocol and a backend per file; none of them interprets a record."""
