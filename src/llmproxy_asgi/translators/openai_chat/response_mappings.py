"""Mappings that whole and streamed responses of Chat Completions share."""

from collections.abc import Sequence
from typing import Any

from msgspec import MsgspecError, Raw

from llmproxy_asgi.conversation import (
    Citation,
    FinishReason,
    InlineData,
    Link,
    Media,
    Source,
    TokenLogprob,
)
from llmproxy_asgi.translators.media import picture_type
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.logprobs import decode_entries, encode_logprob
from llmproxy_asgi.translators.openai_chat.mappings import FINISH_OUT, PROTOCOL
from llmproxy_asgi.translators.raw_json import split_object

_ANSWER_PREFIX = "chatcmpl-"


def answer_id(found: str, nonce: str = "") -> str:
    """Return the upstream's id if it has this protocol's format, else one derived from it."""
    if found.startswith(_ANSWER_PREFIX) and len(found) <= 128:
        return found
    return derived(_ANSWER_PREFIX, found, nonce)


def finish_word(reason: FinishReason, *, refused: bool, legacy: bool) -> str:
    """Encode a finish reason; callers that declared `functions` expect another one for a call."""
    if legacy and reason is FinishReason.TOOL_CALLS:
        return "function_call"
    if reason is FinishReason.REFUSAL and not refused:
        return "content_filter"  # without a refusal text, "stop" would look like a normal end
    return FINISH_OUT[reason]


def annotation(citation: Citation, offset: int, end: int) -> dict[str, Any] | None:
    """Encode a citation as `url_citation`, counted from the message's start; None if it has no address.

    Args:
        citation: With its span within its own text part.
        offset: Code points of the message before that part.
        end: Code points of the message so far, for a citation without a span.
    """
    if citation.url is None:
        return None
    start = offset + citation.start if citation.start is not None else offset
    stop = offset + citation.end if citation.end is not None else end
    native = {k: v for k, v in citation.extras.get(PROTOCOL, {}).items() if k not in {"start_index", "end_index"}}
    inner = {**native, "start_index": start, "end_index": stop, "url": citation.url, "title": citation.title or ""}
    return {"type": "url_citation", "url_citation": inner}


def decode_annotation(found: Any) -> Citation | None:
    """Decode a `url_citation` with its span in the message; None for other annotations."""
    if type(found) is not dict or type(inner := found.get("url_citation")) is not dict:
        return None
    url, title = inner.get("url"), inner.get("title")
    start, end = inner.get("start_index"), inner.get("end_index")
    spanned = type(start) is int and type(end) is int and 0 <= start <= end
    extras = {k: v for k, v in inner.items() if k not in {"url", "title", "start_index", "end_index"}}
    if type(url) is not str:
        return None
    return Citation(
        url=url,
        title=title if type(title) is str and title else None,
        start=start if spanned else None,
        end=end if spanned else None,
        extras={PROTOCOL: extras} if extras else {},
    )


def image_entry(media: Media, source: Source, index: int) -> dict[str, Any]:
    """Encode an image for the `images` list, which other gateways send and their clients read."""
    match source:
        case InlineData(data=data):
            url = f"data:{picture_type(data, media.media_type)};base64,{data}"
        case Link(url=url):
            pass
        case _:
            url = ""
    return {"index": index, "type": "image_url", "image_url": {"url": url}}


def logprobs_object(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Encode log probabilities, separately for content and refusal."""
    refusal = [encode_logprob(token) for token in tokens if token.refusal]
    content = [encode_logprob(token) for token in tokens if not token.refusal]
    return {"content": content or (None if refusal else []), "refusal": refusal or None}


def decode_logprobs(found: Any) -> tuple[TokenLogprob, ...]:
    """Decode the log probabilities of a choice; skip unreadable entries."""
    if type(found) is Raw:
        try:
            found = split_object(found)
        except MsgspecError:
            return ()
    if type(found) is not dict:
        return ()
    return decode_entries(found.get("content")) + decode_entries(found.get("refusal"), refusal=True)
