"""An LLM gateway that mounts inside a Python web app and shares its login.

The names below are the public ones. They are imported when they are first used, so that importing the package is quick
and brings nothing along.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmproxy_asgi.access_log import MaskKeys
    from llmproxy_asgi.app import LLMProxy, LLMProxyMiddleware
    from llmproxy_asgi.client import LLMClient, create_llm_client
    from llmproxy_asgi.config.loader import load_config
    from llmproxy_asgi.config.schema import Config
    from llmproxy_asgi.conversation import Message, Response, StreamEvent
    from llmproxy_asgi.errors import CallerError, ConfigError, GatewayError, MisuseError, UpstreamError
    from llmproxy_asgi.facts import Observer
    from llmproxy_asgi.gateway import Gateway
    from llmproxy_asgi.principal import Principal
    from llmproxy_asgi.runtime import Forgotten
    from llmproxy_asgi.telemetry.opentelemetry import Tracing
    from llmproxy_asgi.translators.embeddings.records import Embeddings

__all__ = [
    "CallerError",
    "Config",
    "ConfigError",
    "Embeddings",
    "Forgotten",
    "Gateway",
    "GatewayError",
    "LLMClient",
    "LLMProxy",
    "LLMProxyMiddleware",
    "MaskKeys",
    "Message",
    "MisuseError",
    "Observer",
    "Principal",
    "Response",
    "StreamEvent",
    "Tracing",
    "UpstreamError",
    "create_llm_client",
    "load_config",
]

_HOMES = {
    "CallerError": "errors",
    "Config": "config.schema",
    "ConfigError": "errors",
    "Embeddings": "translators.embeddings.records",
    "Forgotten": "runtime",
    "Gateway": "gateway",
    "GatewayError": "errors",
    "LLMClient": "client",
    "LLMProxy": "app",
    "LLMProxyMiddleware": "app",
    "MaskKeys": "access_log",
    "Message": "conversation",
    "MisuseError": "errors",
    "Observer": "facts",
    "Principal": "principal",
    "Response": "conversation",
    "StreamEvent": "conversation",
    "Tracing": "telemetry.opentelemetry",
    "UpstreamError": "errors",
    "create_llm_client": "client",
    "load_config": "config.loader",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
