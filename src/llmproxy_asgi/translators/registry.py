"""Which protocols there are. One line a protocol; the halves are imported when the protocol is first used."""

from functools import cache
from importlib import import_module

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.translators.base import AnyTranslator, Translator

TRANSLATORS: dict[str, str] = {
    "openai-chat": "llmproxy_asgi.translators.openai_chat",
    "openai-responses": "llmproxy_asgi.translators.openai_responses",
    "anthropic-messages": "llmproxy_asgi.translators.anthropic_messages",
    "gemini": "llmproxy_asgi.translators.gemini",
}
"""Protocol id to the package whose `TRANSLATOR` speaks it. Each of these can say whatever a conversation holds."""

NARROW: dict[str, str] = {
    "openai-completions": "llmproxy_asgi.translators.openai_completions",
    "openai-embeddings": "llmproxy_asgi.translators.embeddings.openai",
    "gemini-embeddings": "llmproxy_asgi.translators.embeddings.gemini",
}
"""Likewise, protocols that are no conversation, or only the poorest kind of one."""


@cache
def translator(protocol: str) -> AnyTranslator:
    """Return the translator of a protocol.

    Raises:
        MisuseError: No such protocol; the message lists those there are.
    """
    path = TRANSLATORS.get(protocol) or NARROW.get(protocol)
    if path is None:
        raise MisuseError(f"unknown protocol {protocol!r}; known: {', '.join((*TRANSLATORS, *NARROW))}")
    found = import_module(path).TRANSLATOR
    assert isinstance(found, Translator)
    return found
