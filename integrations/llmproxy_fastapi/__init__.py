"""llmproxy-asgi in a FastAPI application, with the application's own dependencies."""

try:
    import fastapi as _fastapi  # noqa: F401  only whether it is there
except ModuleNotFoundError as error:
    if error.name != "fastapi":
        raise
    raise ImportError('llmproxy_fastapi needs FastAPI: pip install "llmproxy-asgi[fastapi]"', name="fastapi") from error

from llmproxy_fastapi.identity import principal_of
from llmproxy_fastapi.mount import include_llm

__all__ = ["include_llm", "principal_of"]
