"""llmproxy-asgi for fastapi."""
