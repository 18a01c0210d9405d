"""An upstream's items, read as parts: what its whole answers and its streams have in common.

An item holds whatever its server put there, so every field is looked at before it is believed.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from llmproxy_asgi.conversation import (
    EMPTY,
    Citation,
    Extras,
    InlineData,
    JSONObject,
    Media,
    Opaque,
    Part,
    Reasoning,
    Seal,
    SearchHit,
    ServerToolCall,
    ServerToolResult,
    ToolCall,
)
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.custom_tools import unwrapped_input
from llmproxy_asgi.translators.media import standard_base64
from llmproxy_asgi.translators.openai_responses.mappings import BETWEEN_SUMMARIES, PROTOCOL
from llmproxy_asgi.translators.seals import unwrap

CALLS = {"function_call": "function", "custom_tool_call": "custom"}
"""Items that call the caller's own tools."""


def text_of(found: Mapping[str, Any], key: str) -> str:
    """A text of an item; empty where it has none."""
    value = found.get(key)
    return value if type(value) is str else ""


def entries_of(found: Mapping[str, Any], key: str) -> list[JSONObject]:
    """The objects in a list of an item."""
    value = found.get(key)
    return [entry for entry in value if type(entry) is dict] if type(value) is list else []


class Items:
    """Reads the items of one answer.

    Args:
        upstream_request: The request that is answered, for names and ids that went under others.
        upstream: Where it went.
    """

    __slots__ = ("_upstream", "_upstream_request")

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        self._upstream_request = upstream_request
        self._upstream = upstream

    @property
    def nonce(self) -> str:
        """See `UpstreamRequest.nonce`."""
        return self._upstream_request.nonce

    def call(self, item: JSONObject, arguments: str = "") -> ToolCall | None:
        """A call with these arguments; None where it does not say what it calls. Its id is empty where it has none."""
        name, call_id = text_of(item, "name"), text_of(item, "call_id") or text_of(item, "id")
        if not name:
            return None
        custom = item.get("type") == "custom_tool_call" or self.is_emulated(item)
        caller = item.get("caller")
        return ToolCall(
            call_id=self._upstream_request.call_ids.get(call_id, call_id),
            name=self._upstream_request.names.get(name, name),
            arguments=arguments,
            kind="custom" if custom else "function",
            namespace=text_of(item, "namespace") or None,
            caller=caller if type(caller) is dict else None,
            id=text_of(item, "id") or None,
            extras={PROTOCOL: {}} if type(caller) is dict else EMPTY,
        )

    def is_emulated(self, item: JSONObject) -> bool:
        """Whether a call is of a free-text tool that went as a function."""
        return item.get("type") == "function_call" and text_of(item, "name") in self._upstream_request.emulated

    def arguments(self, item: JSONObject, streamed: str) -> str:
        """A call's arguments when they are whole: as they were streamed, else as the item has them."""
        if item.get("type") == "custom_tool_call":
            return streamed or text_of(item, "input")
        said = streamed or text_of(item, "arguments")
        if self.is_emulated(item):
            return unwrapped_input(said)
        return said if said.strip() else "{}"

    def seals(self, item: JSONObject) -> tuple[Seal, ...]:
        """The state of a reasoning item."""
        blob = text_of(item, "encrypted_content")
        if not blob:
            return ()
        own = Seal(
            issuer=self._upstream.issuer,
            kind="encrypted",
            data=blob,
            model=self._upstream.model,
            item_id=text_of(item, "id") or None,
        )
        return (unwrap(blob) or own,)

    def whole(self, item: JSONObject) -> tuple[Part, ...]:
        """An item that is neither said, thought nor called: read when it is complete."""
        kind = text_of(item, "type")
        if kind == "web_search_call":
            return searched(item)
        if kind == "image_generation_call" and text_of(item, "result"):
            return (_picture(item),)
        return (Opaque(protocol=PROTOCOL, kind=kind or "item", data=item, id=text_of(item, "id") or None),)


def thought_of(item: JSONObject) -> tuple[str, bool]:
    """The readable text of a reasoning item, and whether it is plain reasoning rather than a summary."""
    plain = [text_of(entry, "text") for entry in entries_of(item, "content")]
    if any(plain):
        return "".join(plain), True
    return BETWEEN_SUMMARIES.join(text_of(entry, "text") for entry in entries_of(item, "summary")), False


def reasoning_of(item: JSONObject, text: str, *, plain: bool, seals: tuple[Seal, ...]) -> Reasoning:
    """A reasoning item whose text is known."""
    return Reasoning(
        text=text,
        style="full" if plain else "summary",
        raw=plain,
        redacted=not text and any(seal.kind == "redacted" for seal in seals),
        seals=seals,
        id=text_of(item, "id") or None,
        extras=reasoning_extras(item, plain=plain),
    )


def reasoning_extras(item: JSONObject, *, plain: bool) -> Extras:
    """What only this protocol says of reasoning: that it is plain, or how its summary was divided."""
    if plain:
        return {PROTOCOL: {"content": True}}
    summary = [text_of(entry, "text") for entry in entries_of(item, "summary")]
    return {PROTOCOL: {"summary": summary}} if len(summary) > 1 else EMPTY


def decode_annotation(found: Any) -> Citation | None:
    """An annotation of a text; None for what cannot be read."""
    if type(found) is not dict or not text_of(found, "type"):
        return None
    start, end = found.get("start_index"), found.get("end_index")
    spanned = type(start) is int and type(end) is int and 0 <= start <= end
    known: dict[str, Any] = {"start": start if spanned else None, "end": end if spanned else None}
    url = text_of(found, "url")
    if found["type"] != "url_citation" or not url:
        return Citation(kind="file", title=text_of(found, "filename") or None, extras={PROTOCOL: found}, **known)
    extras = {key: value for key, value in found.items() if key not in _URL_CITATION}
    return Citation(
        url=url, title=text_of(found, "title") or None, extras={PROTOCOL: extras} if extras else EMPTY, **known
    )


_URL_CITATION = frozenset({"type", "url", "title", "start_index", "end_index"})


def web_search(item: JSONObject) -> tuple[Part, ...]:
    """A look into the web, and what it found where the item tells that."""
    action = item.get("action")
    known: JSONObject = action if type(action) is dict else {}
    asked = {key: known[key] for key in ("query", "url", "pattern") if type(known.get(key)) is str}
    call_id = text_of(item, "id") or "ws_0"
    call = ServerToolCall(
        call_id=call_id,
        tool="web_search",
        arguments=msgspec.json.encode(asked).decode(),
        status=text_of(item, "status") or None,
        id=text_of(item, "id") or None,
        extras={PROTOCOL: item},
    )
    hits = tuple(
        SearchHit(url=url, title=text_of(source, "title") or None)
        for source in entries_of(known, "sources")
        if (url := text_of(source, "url"))
    )
    return (call, ServerToolResult(call_id=call_id, tool="web_search", hits=hits)) if hits else (call,)


def searched(item: JSONObject) -> tuple[Part, ...]:
    """As `web_search`, in an answer: a search always has a result there, maybe one that tells nothing."""
    call, *found = web_search(item)
    action = item.get("action")
    kind = action.get("type", "search") if type(action) is dict else "search"
    if found or kind != "search" or not isinstance(call, ServerToolCall):  # others open a page, or look within one
        return (call, *found)
    return (call, ServerToolResult(call_id=call.call_id, tool=call.tool))


def _picture(item: JSONObject) -> Media:
    form = text_of(item, "output_format") or "png"
    rest = {key: value for key, value in item.items() if key not in {"result", "id", "type", "status"}}
    return Media(
        kind="image",
        source=InlineData(data=standard_base64(text_of(item, "result"))),
        media_type=f"image/{form}",
        id=text_of(item, "id") or None,
        extras={PROTOCOL: rest},
    )
