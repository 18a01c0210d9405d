"""Decode a caller's input items into messages.

Items are flat: texts, reasoning and calls of the model follow each other. Adjacent items of the model become one
message, and so do adjacent tool results. Items that only this protocol has are kept unchanged at their position, in a
message of the side that created them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.media import data_url, image_type, standard_base64
from llmproxy_asgi.translators.openai.mappings import NATIVE_ISSUER, cache_mark, decode_audio
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_responses.response_decoder import (
    decode_annotation,
    decode_web_search,
    reasoning_of,
    reasoning_text,
)
from llmproxy_asgi.translators.seals import unwrap

_ROLES = ("user", "assistant", "system", "developer")
_PHASES = ("commentary", "final_answer")
_MADE_BY_MODEL = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "computer_call",
        "image_generation_call",
        "code_interpreter_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_call",
        "tool_search_call",
        "compaction",
        "tool_search_output",
        "program",
    }
)
"""Types of items that the model creates; other unknown items belong to the caller."""
WITHIN: ir.Extras = {PROTOCOL: {"within": "message"}}
"""Marks an opaque part as a content part of its message; without it, it is an item."""
_DOCUMENT_TYPES = {"txt": "text/plain", "md": "text/markdown", "csv": "text/csv", "json": "application/json"}


def decode_items(node: Node) -> tuple[ir.Message, ...]:
    """Decode an input, which is a string or a list of items, into messages."""
    if type(node.value) is str:
        return (ir.Message(role="user", parts=(ir.Text(text=node.value),)),)
    builder = _MessageBuilder()
    for item in node.array():
        _item(item, builder)
    return builder.messages()


class _MessageBuilder:
    """The messages so far; adjacent parts of one side become one message."""

    def __init__(self) -> None:
        self._messages: list[ir.Message] = []
        self._side: ir.Role | None = None
        self._parts: list[ir.Part] = []
        self._phases: set[str | None] = set()

    def add(
        self, side: Literal["assistant", "tool"], *parts: ir.Part, phase: str | None = None, is_message: bool = False
    ) -> None:
        """Add parts to the message of the model or of tool results."""
        if self._side != side:
            self._close()
            self._side = side
        self._parts += parts
        if is_message:
            self._phases.add(phase)

    def add_message(self, message: ir.Message) -> None:
        """Add a separate message."""
        self._close()
        self._messages.append(message)

    def messages(self) -> tuple[ir.Message, ...]:
        """Return all messages, with detached seals on their owners."""
        self._close()
        return _with_state(self._messages)

    def _close(self) -> None:
        if self._side is not None and self._parts:
            phase = next(iter(self._phases)) if len(self._phases) == 1 else None
            self._messages.append(
                ir.Message(role=self._side, parts=tuple(self._parts), phase=cast("ir.Phase | None", phase))
            )
        self._side = None
        self._parts = []
        self._phases = set()


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _item(item: Node, builder: _MessageBuilder) -> None:
    kind = item.get("type")
    word = kind.text() if kind else "message" if item.get("role") else None
    if word is None:
        raise missing(f"{item.path}.type")
    if word == "message":
        _message(item, builder)
    elif word == "reasoning":
        reasoning = _reasoning(item)
        if reasoning is not None:
            builder.add("assistant", reasoning)
    elif word in {"function_call", "custom_tool_call"}:
        builder.add("assistant", _call(item, word))
    elif word in {"function_call_output", "custom_tool_call_output"}:
        builder.add("tool", _result(item, word))
    elif word == "additional_tools":
        item.need("tools").array()  # declared with the other tools: `tool_decoder.offered`
    elif word == "web_search_call":
        builder.add("assistant", *decode_web_search(item.object()))
    else:
        part = ir.Opaque(protocol=PROTOCOL, kind=word, data=dict(item.object()), id=_id(item))
        if word in _MADE_BY_MODEL:
            builder.add("assistant", part)
        else:
            builder.add_message(ir.Message(role="user", parts=(part,)))


def _message(item: Node, builder: _MessageBuilder) -> None:
    role = item.need("role").choice(_ROLES)
    content = item.need("content")
    if role != "assistant":
        builder.add_message(
            ir.Message(
                role="user" if role == "user" else "system",
                authority=None if role == "user" else "developer" if role == "developer" else "system",
                parts=_parts(content),
                id=_id(item),
            )
        )
        return
    phase = item.get("phase")
    word = phase.choice(_PHASES) if phase else None
    known: ir.Extras = {PROTOCOL: {"phase": word}} if word else ir.EMPTY
    own = _id(item)
    parts = tuple(
        msgspec.structs.replace(part, id=own, extras=known or part.extras)
        if isinstance(part, ir.Text | ir.Refusal)
        else part
        for part in _parts(content)
    )
    builder.add("assistant", *parts, phase=word, is_message=True)


def _reasoning(item: Node) -> ir.Reasoning | None:
    """Decode a reasoning item; return None without text and state."""
    blob = item.get("encrypted_content")
    found = item.object()
    text, plain = reasoning_text(found)
    own = _id(item)
    seals: tuple[ir.Seal, ...] = ()
    if blob is not None and blob.text():
        native = ir.Seal(issuer=NATIVE_ISSUER, kind="encrypted", data=blob.value, item_id=own)
        seals = (unwrap(blob.value) or native,)
    if not (text or seals):
        return None
    return reasoning_of(found, text, plain=plain, seals=seals)


def _call(item: Node, word: str) -> ir.ToolCall:
    custom = word == "custom_tool_call"
    given = item.get("input" if custom else "arguments")
    namespace, caller = item.get("namespace"), item.get("caller")
    return ir.ToolCall(
        call_id=_filled(item.need("call_id")),
        name=_filled(item.need("name")),
        arguments=given.text() if given else "",
        kind="custom" if custom else "function",
        namespace=namespace.text() if namespace else None,
        caller=caller.object() if caller else None,
        id=_id(item),
        extras={PROTOCOL: {}} if caller else ir.EMPTY,
    )


def _result(item: Node, word: str) -> ir.ToolResult:
    output = item.get("output")
    name = item.get("name")
    parts = _parts(output) if output else ()
    return ir.ToolResult(
        call_id=_filled(item.need("call_id")),
        content=tuple(part for part in parts if isinstance(part, ir.Text | ir.Media | ir.Opaque)),
        name=name.text() if name else None,
        kind="custom" if word == "custom_tool_call_output" else "function",
    )


def _id(item: Node) -> str | None:
    found = item.get("id")
    return found.text() or None if found else None


def _filled(node: Node) -> str:
    if not node.text():
        node.fail("must not be empty.")
    return node.text()


# ── detached seals ───────────────────────────────────────────────────────────────────────────────────────────────────


def _with_state(messages: Sequence[ir.Message]) -> tuple[ir.Message, ...]:
    """Move seals in separate reasoning items back to their calls and texts, which have no field for them."""
    owners = _owners(messages)
    detached = {
        id(part): owner
        for message in messages
        for part in message.parts
        if (owner := _owner(part)) is not None and owner in owners
    }
    if not detached:
        return tuple(messages)
    state: dict[str, list[ir.Seal]] = {}
    for message in messages:
        for part in message.parts:
            if id(part) in detached:
                bare = (msgspec.structs.replace(seal, item_id=None) for seal in part.seals)
                state.setdefault(detached[id(part)], []).extend(bare)
    kept: list[ir.Message] = []
    for message in messages:
        parts = tuple(_sealed(part, state) for part in message.parts if id(part) not in detached)
        if parts:
            kept.append(msgspec.structs.replace(message, parts=parts))
    return tuple(kept)


def _owner(part: ir.Part) -> str | None:
    """Return the id of the owner of a reasoning item that only contains a detached seal."""
    if not isinstance(part, ir.Reasoning) or part.text or not part.seals:
        return None
    owner = part.seals[0].item_id
    return owner if owner and owner != part.id and not owner.startswith("rs_") else None


def _owners(messages: Sequence[ir.Message]) -> set[str]:
    found: set[str] = set()
    for message in messages:
        for part in message.parts:
            if isinstance(part, ir.ToolCall):
                found.add(part.call_id)
            elif isinstance(part, ir.Text) and part.id and message.role == "assistant":
                found.add(part.id)
    return found


def _sealed(part: ir.Part, state: dict[str, list[ir.Seal]]) -> ir.Part:
    """Add a part's seals; of several texts of one message, the first one gets them."""
    key = part.call_id if isinstance(part, ir.ToolCall) else part.id if isinstance(part, ir.Text) else None
    seals = state.pop(key, None) if key else None
    return msgspec.structs.replace(part, seals=(*part.seals, *seals)) if seals else part


# ── contents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(content: Node) -> tuple[ir.Part, ...]:
    if type(content.value) is str:
        return (ir.Text(text=content.value),)
    if type(content.value) is not list:
        content.refuse("a string or an array of parts")
    return tuple(_part(node) for node in content.array())


def _part(node: Node) -> ir.Part:
    if type(node.value) is str:  # some clients mix bare strings in
        return ir.Text(text=node.value)
    kind = node.need("type").text()
    read = _READERS.get(kind)
    if read is None:
        return ir.Opaque(
            protocol=PROTOCOL, kind=kind, data=dict(node.object()), cache_mark=cache_mark(node), extras=WITHIN
        )
    return read(node)


def _text(node: Node) -> ir.Text:
    text = node.need("text").text()
    found = node.get("annotations")
    entries = found.array() if found else ()
    citations = tuple(each for entry in entries if (each := decode_annotation(entry.value)) is not None)
    return ir.Text(text=text, citations=citations, cache_mark=cache_mark(node))


def _refusal(node: Node) -> ir.Refusal:
    return ir.Refusal(text=node.need("refusal").text(), cache_mark=cache_mark(node))


def _image(node: Node) -> ir.Media:
    detail = node.get("detail")
    known: dict[str, Any] = {
        "kind": "image",
        "detail": cast("ir.Detail", detail.choice(("auto", "low", "high", "original"))) if detail else None,
        "cache_mark": cache_mark(node),
    }
    stored = node.get("file_id")
    if stored is not None:
        return ir.Media(source=ir.StoredFile(protocol=PROTOCOL, id=stored.text()), **known)
    address = node.need("image_url")
    if type(address.value) is dict:  # as in Chat
        address = address.need("url")
    media_type, data = data_url(address)
    if data is None:
        return ir.Media(source=ir.Link(url=address.text()), **known)
    return ir.Media(source=ir.InlineData(data=data), media_type=image_type(data, media_type), **known)


def _file(node: Node) -> ir.Media:
    name = node.get("filename")
    known: dict[str, Any] = {
        "kind": "document",
        "name": name.text() if name else None,
        "cache_mark": cache_mark(node),
    }
    stored, address = node.get("file_id"), node.get("file_url")
    if stored is not None:
        return ir.Media(source=ir.StoredFile(protocol=PROTOCOL, id=stored.text()), **known)
    if address is not None:
        return ir.Media(source=ir.Link(url=address.text()), media_type=_document_type(address.text()), **known)
    inline = node.need("file_data")
    media_type, data = data_url(inline)
    if data is None:
        data = standard_base64(inline.text())
    return ir.Media(
        source=ir.InlineData(data=data), media_type=media_type or _document_type(known["name"] or ""), **known
    )


def _document_type(name: str) -> str:
    return _DOCUMENT_TYPES.get(name.rpartition(".")[2].lower(), "application/pdf")


_READERS: Mapping[str, Callable[[Node], ir.Part]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "image_url": _image,
    "input_file": _file,
    "input_audio": decode_audio,
}
"""The decoders of content parts; some clients send the two types of Chat."""
