"""llmproxy-asgi for starlette."""
