"""The HTTP endpoints: plain ASGI, one file per family of paths."""
