"""Decode output items into parts, for complete responses and for streams.

Servers may send any JSON in an item, so the type of each field is checked.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.media import standard_base64
from llmproxy_asgi.translators.openai_responses.mappings import BETWEEN_SUMMARIES, PROTOCOL
from llmproxy_asgi.translators.seals import unwrap

CALLS = {"function_call": "function", "custom_tool_call": "custom"}
"""Items that call the caller's own tools."""


def text_of(found: Mapping[str, Any], key: str) -> str:
    """Return a string field of an item, or an empty string."""
    value = found.get(key)
    return value if type(value) is str else ""


def entries_of(found: Mapping[str, Any], key: str) -> list[JSONObject]:
    """Return the objects in a list field of an item."""
    value = found.get(key)
    return [entry for entry in value if type(entry) is dict] if type(value) is list else []


def call_fields(item: JSONObject) -> dict[str, Any]:
    """Return the fields of a call's part beside its name, call id and arguments."""
    caller = item.get("caller")
    return {
        "namespace": text_of(item, "namespace") or None,
        "caller": caller if type(caller) is dict else None,
        "id": text_of(item, "id") or None,
        "extras": {PROTOCOL: {}} if type(caller) is dict else ir.EMPTY,
    }


def decode_seal(item: JSONObject, upstream: Upstream) -> tuple[ir.Seal, ...]:
    """Decode the seal of a reasoning item."""
    blob = text_of(item, "encrypted_content")
    if not blob:
        return ()
    item_id = text_of(item, "id") or None
    own = ir.Seal(issuer=upstream.issuer, kind="encrypted", data=blob, model=upstream.model, item_id=item_id)
    return (unwrap(blob) or own,)


def decode_item(item: JSONObject) -> tuple[ir.Part, ...]:
    """Decode a complete item that is not a message, reasoning or a call."""
    kind = text_of(item, "type")
    if kind == "web_search_call":
        return decode_web_search_output(item)
    if kind == "image_generation_call" and text_of(item, "result"):
        return (_image(item),)
    return (ir.Opaque(protocol=PROTOCOL, kind=kind or "item", data=item, id=text_of(item, "id") or None),)


def reasoning_text(item: JSONObject) -> tuple[str, bool]:
    """Return the text of a reasoning item, and whether it is raw reasoning instead of a summary."""
    plain = [text_of(entry, "text") for entry in entries_of(item, "content")]
    if any(plain):
        return "".join(plain), True
    return BETWEEN_SUMMARIES.join(text_of(entry, "text") for entry in entries_of(item, "summary")), False


def reasoning_of(item: JSONObject, text: str, *, plain: bool, seals: tuple[ir.Seal, ...]) -> ir.Reasoning:
    """Build the part of a reasoning item with this text."""
    return ir.Reasoning(
        text=text,
        style="full" if plain else "summary",
        raw=plain,
        redacted=not text and any(seal.kind == "redacted" for seal in seals),
        seals=seals,
        id=text_of(item, "id") or None,
        extras=reasoning_extras(item, plain=plain),
    )


def reasoning_extras(item: JSONObject, *, plain: bool) -> ir.Extras:
    """Return the details of reasoning that only this protocol has: raw text, or the parts of a summary."""
    if plain:
        return {PROTOCOL: {"content": True}}
    summary = [text_of(entry, "text") for entry in entries_of(item, "summary")]
    return {PROTOCOL: {"summary": summary}} if len(summary) > 1 else ir.EMPTY


def decode_annotation(found: Any) -> ir.Citation | None:
    """Decode an annotation; return None if it is unreadable."""
    if type(found) is not dict or not text_of(found, "type"):
        return None
    start, end = found.get("start_index"), found.get("end_index")
    spanned = type(start) is int and type(end) is int and 0 <= start <= end
    known: dict[str, Any] = {"start": start if spanned else None, "end": end if spanned else None}
    url = text_of(found, "url")
    if found["type"] != "url_citation" or not url:
        return ir.Citation(kind="file", title=text_of(found, "filename") or None, extras={PROTOCOL: found}, **known)
    extras = {key: value for key, value in found.items() if key not in _URL_CITATION}
    return ir.Citation(
        url=url, title=text_of(found, "title") or None, extras={PROTOCOL: extras} if extras else ir.EMPTY, **known
    )


_URL_CITATION = frozenset({"type", "url", "title", "start_index", "end_index"})


def decode_web_search(item: JSONObject) -> tuple[ir.Part, ...]:
    """Decode a web search, and its result if the item has sources."""
    action = item.get("action")
    known: JSONObject = action if type(action) is dict else {}
    asked = {key: known[key] for key in ("query", "url", "pattern") if type(known.get(key)) is str}
    call_id = text_of(item, "id") or "ws_0"
    call = ir.ServerToolCall(
        call_id=call_id,
        tool="web_search",
        arguments=msgspec.json.encode(asked).decode(),
        status=text_of(item, "status") or None,
        id=text_of(item, "id") or None,
        extras={PROTOCOL: item},
    )
    hits = tuple(
        ir.SearchHit(url=url, title=text_of(source, "title") or None)
        for source in entries_of(known, "sources")
        if (url := text_of(source, "url"))
    )
    return (call, ir.ServerToolResult(call_id=call_id, tool="web_search", hits=hits)) if hits else (call,)


def decode_web_search_output(item: JSONObject) -> tuple[ir.Part, ...]:
    """Decode a web search of a response, in which each search has a result, even if it is empty."""
    call, *found = decode_web_search(item)
    action = item.get("action")
    kind = action.get("type", "search") if type(action) is dict else "search"
    if (
        found or kind != "search" or not isinstance(call, ir.ServerToolCall)
    ):  # other actions open a page or search in one
        return (call, *found)
    return (call, ir.ServerToolResult(call_id=call.call_id, tool=call.tool))


def _image(item: JSONObject) -> ir.Media:
    form = text_of(item, "output_format") or "png"
    rest = {key: value for key, value in item.items() if key not in {"result", "id", "type", "status"}}
    return ir.Media(
        kind="image",
        source=ir.InlineData(data=standard_base64(text_of(item, "result"))),
        media_type=f"image/{form}",
        id=text_of(item, "id") or None,
        extras={PROTOCOL: rest},
    )
