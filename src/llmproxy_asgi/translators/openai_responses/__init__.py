"""OpenAI Responses and compatible servers.

`TRANSLATOR` is created on first use: stored responses need `state` but not the codecs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmproxy_asgi.translators.base import Translator

    TRANSLATOR: Translator

__all__ = ["TRANSLATOR"]


def __getattr__(name: str) -> Any:
    if name != "TRANSLATOR":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmproxy_asgi.translators.base import Translator
    from llmproxy_asgi.translators.openai_responses.inbound import ResponsesInbound
    from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL
    from llmproxy_asgi.translators.openai_responses.outbound import ResponsesOutbound

    made = globals()[name] = Translator(PROTOCOL, ResponsesInbound(), ResponsesOutbound())
    return made
