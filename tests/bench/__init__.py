"""The benchmark: what one call costs through a mounted gateway, beside a relay written by hand."""
