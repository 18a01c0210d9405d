"""llmproxy-asgi in a Starlette application: mounted, with its life and its signed-in user."""

from llmproxy_starlette.identity import principal_of
from llmproxy_starlette.mount import mount

__all__ = ["mount", "principal_of"]
