"""llmproxy-asgi for flask."""
