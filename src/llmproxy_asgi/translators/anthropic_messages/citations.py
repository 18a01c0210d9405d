"""Decode and encode citations: Anthropic attaches them to text blocks, a `Citation` has its own span."""

from collections.abc import Mapping
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.anthropic_messages.server_tools import FOREIGN_MARK

_TITLES = {
    "web_search_result_location": "title",
    "search_result_location": "title",
    "char_location": "document_title",
    "page_location": "document_title",
    "content_block_location": "document_title",
}


def decode_citation(native: Mapping[str, Any], length: int | None = None) -> ir.Citation:
    """Decode one citation; `length` is the length of its text, in code points."""
    kind = _text(native, "type") or ""
    url = _text(native, "url")
    source = _text(native, "source")
    if url is None and source is not None and source.startswith(("http://", "https://")):
        url = source
    return ir.Citation(
        kind="url" if url else "document",
        url=url,
        title=_text(native, _TITLES.get(kind, "title")),
        cited_text=_text(native, "cited_text"),
        start=None if length is None else 0,
        end=length,
        source=source,
        extras={PROTOCOL: dict(native)} if native else ir.EMPTY,
    )


def encode_citation(citation: ir.Citation) -> JSONObject | None:
    """Encode one citation; None where Anthropic's format can't express it."""
    native = citation.extras.get(PROTOCOL)
    if native:
        return dict(native)
    if citation.url is None:
        return None
    return {
        "type": "web_search_result_location",
        "url": citation.url,
        "title": citation.title,
        "cited_text": citation.cited_text or "",
        "encrypted_index": FOREIGN_MARK,
    }


def is_foreign(native: object) -> bool:
    """Return whether a citation in a caller's request comes from another vendor: Anthropic would refuse it."""
    return isinstance(native, dict) and native.get("encrypted_index") == FOREIGN_MARK


def _text(native: Mapping[str, Any], key: str) -> str | None:
    value = native.get(key)
    return value if isinstance(value, str) and value else None
