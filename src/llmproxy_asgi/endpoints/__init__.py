"""What is served over HTTP: raw ASGI, one file per family of paths."""
