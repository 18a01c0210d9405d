"""Rules that the encoders of Chat Completions and Responses share: prefills, tool errors, cache marks."""

from collections.abc import Sequence

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.openai.mappings import ERROR_PREFIX, MOST_MARKS

MARK = "prompt_cache_breakpoint"


def refuse_prefill(messages: Sequence[ir.Message], request: ir.Request, upstream: Upstream, protocol: str) -> None:
    """Refuse a trailing assistant message of another protocol: OpenAI's models respond to it and do not continue it.

    Args:
        messages: The messages to send.
        request: Their request.
        upstream: The upstream.
        protocol: The upstream's protocol; its own callers may use prefills if the model supports them.

    Raises:
        Unsupported: The last message is the assistant's.
    """
    continued = request.protocol == protocol and upstream.capabilities.prefill
    if messages and messages[-1].role == "assistant" and not continued:
        raise refusals.prefill(request.model)


def flag_error(entries: list[JSONObject], kind: str) -> list[JSONObject]:
    """Mark the content of a tool result as an error in its first text, as neither protocol has a field for it.

    Args:
        entries: The encoder's own entries, changed in place, so that counted cache marks stay valid.
        kind: The type of a text entry.
    """
    first = next((entry for entry in entries if entry["type"] == kind), None)
    if first is None:
        return [{"type": kind, "text": ERROR_PREFIX.strip()}, *entries]
    first["text"] = ERROR_PREFIX + first["text"]
    return entries


def keep_last_marks(marked: Sequence[JSONObject], losses: Losses) -> None:
    """Remove all cache marks but the last ones, which cover the longest prefixes: the vendor limits their number."""
    for entry in marked[:-MOST_MARKS]:
        del entry[MARK]
        losses.add("clamped:cache_breakpoints")
