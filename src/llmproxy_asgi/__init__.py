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
    from llmproxy_asgi.conversation import (
        ArgumentsDelta,
        CitationDelta,
        Ended,
        Failed,
        Finished,
        FinishReason,
        LogprobsDelta,
        Media,
        MediaDelta,
        Message,
        PartDelta,
        PartEnded,
        PartStarted,
        Passed,
        Reasoning,
        ReasoningDelta,
        RefusalDelta,
        Response,
        SealDelta,
        Started,
        StreamEvent,
        Text,
        TextDelta,
        ToolCall,
        ToolResult,
        Usage,
        UsageReported,
    )
    from llmproxy_asgi.errors import CallerError, ConfigError, GatewayError, MisuseError, UnknownArgument, UpstreamError
    from llmproxy_asgi.facts import Observer
    from llmproxy_asgi.gateway import Gateway
    from llmproxy_asgi.principal import Principal
    from llmproxy_asgi.runtime import Forgotten
    from llmproxy_asgi.telemetry.opentelemetry import Tracing
    from llmproxy_asgi.translators.embeddings.records import Embeddings

__all__ = [
    "ArgumentsDelta",
    "CallerError",
    "CitationDelta",
    "Config",
    "ConfigError",
    "Embeddings",
    "Ended",
    "Failed",
    "FinishReason",
    "Finished",
    "Forgotten",
    "Gateway",
    "GatewayError",
    "LLMClient",
    "LLMProxy",
    "LLMProxyMiddleware",
    "LogprobsDelta",
    "MaskKeys",
    "Media",
    "MediaDelta",
    "Message",
    "MisuseError",
    "Observer",
    "PartDelta",
    "PartEnded",
    "PartStarted",
    "Passed",
    "Principal",
    "Reasoning",
    "ReasoningDelta",
    "RefusalDelta",
    "Response",
    "SealDelta",
    "Started",
    "StreamEvent",
    "Text",
    "TextDelta",
    "ToolCall",
    "ToolResult",
    "Tracing",
    "UnknownArgument",
    "UpstreamError",
    "Usage",
    "UsageReported",
    "create_llm_client",
    "load_config",
]

_HOMES = {
    "ArgumentsDelta": "conversation",
    "CallerError": "errors",
    "CitationDelta": "conversation",
    "Config": "config.schema",
    "ConfigError": "errors",
    "Embeddings": "translators.embeddings.records",
    "Ended": "conversation",
    "Failed": "conversation",
    "FinishReason": "conversation",
    "Finished": "conversation",
    "Forgotten": "runtime",
    "Gateway": "gateway",
    "GatewayError": "errors",
    "LLMClient": "client",
    "LLMProxy": "app",
    "LLMProxyMiddleware": "app",
    "LogprobsDelta": "conversation",
    "MaskKeys": "access_log",
    "Media": "conversation",
    "MediaDelta": "conversation",
    "Message": "conversation",
    "MisuseError": "errors",
    "Observer": "facts",
    "PartDelta": "conversation",
    "PartEnded": "conversation",
    "PartStarted": "conversation",
    "Passed": "conversation",
    "Principal": "principal",
    "Reasoning": "conversation",
    "ReasoningDelta": "conversation",
    "RefusalDelta": "conversation",
    "Response": "conversation",
    "SealDelta": "conversation",
    "Started": "conversation",
    "StreamEvent": "conversation",
    "Text": "conversation",
    "TextDelta": "conversation",
    "ToolCall": "conversation",
    "ToolResult": "conversation",
    "Tracing": "telemetry.opentelemetry",
    "UnknownArgument": "errors",
    "UpstreamError": "errors",
    "Usage": "conversation",
    "UsageReported": "conversation",
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
