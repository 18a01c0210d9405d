"""llmproxy-asgi in a Flask application: a blueprint that uses the application's own sessions and hooks."""

try:
    import flask as _flask  # noqa: F401  only whether it is there
except ModuleNotFoundError as error:
    if error.name != "flask":
        raise
    raise ImportError('llmproxy_flask needs Flask: pip install "llmproxy-asgi[flask]"', name="flask") from error

from llmproxy_flask.extension import LLMProxy
from llmproxy_flask.identity import principal_of

__all__ = ["LLMProxy", "principal_of"]
