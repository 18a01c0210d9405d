"""Attempts: one target after another until one has something to say, and the clocks that bound each."""
