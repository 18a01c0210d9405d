"""llmproxy-asgi in a Starlette application, with the application's lifespan and its signed-in user."""

from llmproxy_starlette.identity import principal_of
from llmproxy_starlette.mount import mount

__all__ = ["mount", "principal_of"]
