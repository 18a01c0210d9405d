"""Decode a caller's input items into messages.

Items are flat: texts, reasoning and calls of the model follow each other. Adjacent items of the model become one
message, and so do adjacent tool results. Items that only this protocol has are kept unchanged at their position, in a
message of the side that created them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.fields import Node
from llmproxy_asgi.translators.media import data_url, standard_base64
from llmproxy_asgi.translators.openai.mappings import DETAILS, NATIVE_ISSUER, cache_mark, decode_audio, image_source
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_responses.response_decoder import (
    decode_annotation,
    decode_web_search,
    reasoning_of,
    reasoning_text,
)
from llmproxy_asgi.translators.seals import unwrap

_ROLES = ("user", "assistant", "system", "developer")
_PHASES: tuple[ir.Phase, ...] = ("commentary", "final_answer")
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
        self._phases: set[ir.Phase | None] = set()

    def add(
        self,
        side: Literal["assistant", "tool"],
        *parts: ir.Part,
        phase: ir.Phase | None = None,
        is_message: bool = False,
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
            self._messages.append(ir.Message(role=self._side, parts=tuple(self._parts), phase=phase))
        self._side = None
        self._parts = []
        self._phases = set()


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _item(item: Node, builder: _MessageBuilder) -> None:
    kind = item.optional_text("type")
    if kind is None:
        kind = "message" if item.get("role") else item.required_text("type")
    match kind:
        case "message":
            _message(item, builder)
        case "reasoning":
            if (reasoning := _reasoning(item)) is not None:
                builder.add("assistant", reasoning)
        case "function_call" | "custom_tool_call":
            builder.add("assistant", _call(item, kind))
        case "function_call_output" | "custom_tool_call_output":
            builder.add("tool", _result(item, kind))
        case "web_search_call":
            builder.add("assistant", *decode_web_search(item.object()))
        case "additional_tools":
            item.required_array("tools")  # declared with the other tools: `tool_decoder.offered`
        case _:
            _opaque(item, kind, builder)


def _opaque(item: Node, kind: str, builder: _MessageBuilder) -> None:
    part = ir.Opaque(protocol=PROTOCOL, kind=kind, data=dict(item.object()), id=_id(item))
    if kind in _MADE_BY_MODEL:
        builder.add("assistant", part)
    else:
        builder.add_message(ir.Message(role="user", parts=(part,)))


def _message(item: Node, builder: _MessageBuilder) -> None:
    role = item.required_choice("role", _ROLES)
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
    phase = item.optional_choice("phase", _PHASES)
    extras: ir.Extras = {PROTOCOL: {"phase": phase}} if phase else ir.EMPTY
    own = _id(item)
    parts = [
        msgspec.structs.replace(part, id=own, extras=extras or part.extras)
        if type(part) is ir.Text or type(part) is ir.Refusal
        else part
        for part in _parts(content)
    ]
    builder.add("assistant", *parts, phase=phase, is_message=True)


def _reasoning(item: Node) -> ir.Reasoning | None:
    """Decode a reasoning item; return None without text and state."""
    blob = item.optional_text("encrypted_content")
    text, plain = reasoning_text(item.object())
    own = _id(item)
    seals: tuple[ir.Seal, ...] = ()
    if blob:
        seals = (unwrap(blob) or ir.Seal(issuer=NATIVE_ISSUER, kind="encrypted", data=blob, item_id=own),)
    if not (text or seals):
        return None
    return reasoning_of(item.object(), text, plain=plain, seals=seals)


def _call(item: Node, kind: str) -> ir.ToolCall:
    is_custom = kind == "custom_tool_call"
    caller = item.optional_object("caller")
    return ir.ToolCall(
        call_id=item.filled_text("call_id"),
        name=item.filled_text("name"),
        arguments=item.optional_text("input" if is_custom else "arguments") or "",
        kind="custom" if is_custom else "function",
        namespace=item.optional_text("namespace"),
        caller=caller,
        id=_id(item),
        extras=ir.EMPTY if caller is None else {PROTOCOL: {}},
    )


def _result(item: Node, kind: str) -> ir.ToolResult:
    output = item.get("output")
    parts = _parts(output) if output else ()
    return ir.ToolResult(
        call_id=item.filled_text("call_id"),
        content=tuple([part for part in parts if isinstance(part, ir.ResultPart)]),
        name=item.optional_text("name"),
        kind="custom" if kind == "custom_tool_call_output" else "function",
    )


def _id(item: Node) -> str | None:
    return item.optional_text("id") or None


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
    if type(part) is not ir.Reasoning or part.text or not part.seals:
        return None
    owner = part.seals[0].item_id
    return owner if owner and owner != part.id and not owner.startswith("rs_") else None


def _owners(messages: Sequence[ir.Message]) -> set[str]:
    found: set[str] = set()
    for message in messages:
        for part in message.parts:
            if type(part) is ir.ToolCall:
                found.add(part.call_id)
            elif type(part) is ir.Text and part.id and message.role == "assistant":
                found.add(part.id)
    return found


def _sealed(part: ir.Part, state: dict[str, list[ir.Seal]]) -> ir.Part:
    """Add a part's seals; of several texts of one message, the first one gets them."""
    key = part.call_id if type(part) is ir.ToolCall else part.id if type(part) is ir.Text else None
    seals = state.pop(key, None) if key else None
    return msgspec.structs.replace(part, seals=(*part.seals, *seals)) if seals else part


# ── contents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(content: Node) -> tuple[ir.Part, ...]:
    if type(content.value) is str:
        return (ir.Text(text=content.value),)
    if type(content.value) is not list:
        content.refuse("a string or an array of parts")
    return tuple([_part(node) for node in content.array()])


def _part(node: Node) -> ir.Part:
    if type(node.value) is str:  # some clients mix bare strings in
        return ir.Text(text=node.value)
    kind = node.required_text("type")
    if kind == "input_text" and len(node.value) == 2:  # the most common part
        return ir.Text(text=node.required_text("text"))
    decode = _DECODERS.get(kind)
    if decode is not None:
        return decode(node)
    data, mark = dict(node.object()), cache_mark(node)
    return ir.Opaque(protocol=PROTOCOL, kind=kind, data=data, cache_mark=mark, extras=WITHIN)


def _text(node: Node) -> ir.Text:
    text, annotations = node.required_text("text"), node.optional_array("annotations")
    citations = (decode_annotation(each.value) for each in annotations)
    return ir.Text(
        text=text,
        citations=tuple(each for each in citations if each is not None) if annotations else (),
        cache_mark=cache_mark(node),
    )


def _refusal(node: Node) -> ir.Refusal:
    return ir.Refusal(text=node.required_text("refusal"), cache_mark=cache_mark(node))


def _image(node: Node) -> ir.Media:
    detail = node.optional_choice("detail", DETAILS)
    source, media_type = _image_source(node)
    return ir.Media(kind="image", source=source, media_type=media_type, detail=detail, cache_mark=cache_mark(node))


def _image_source(node: Node) -> tuple[ir.Source, str | None]:
    stored = node.optional_text("file_id")
    if stored is not None:
        return ir.StoredFile(protocol=PROTOCOL, id=stored), None
    address = node.need("image_url")
    return image_source(address.need("url") if type(address.value) is dict else address)  # an object, as in Chat


def _file(node: Node) -> ir.Media:
    name = node.optional_text("filename")
    source, media_type = _file_source(node, name or "")
    return ir.Media(kind="document", source=source, media_type=media_type, name=name, cache_mark=cache_mark(node))


def _file_source(node: Node, name: str) -> tuple[ir.Source, str | None]:
    stored, address = node.optional_text("file_id"), node.optional_text("file_url")
    if stored is not None:
        return ir.StoredFile(protocol=PROTOCOL, id=stored), None
    if address is not None:
        return ir.Link(url=address), _document_type(address)
    inline = node.need("file_data")
    media_type, data = data_url(inline)
    if data is None:
        data = standard_base64(inline.text())
    return ir.InlineData(data=data), media_type or _document_type(name)


def _document_type(name: str) -> str:
    return _DOCUMENT_TYPES.get(name.rpartition(".")[2].lower(), "application/pdf")


_DECODERS: Mapping[str, Callable[[Node], ir.Part]] = {
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
