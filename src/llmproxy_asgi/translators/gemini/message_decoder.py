"""Decode `systemInstruction` and `contents` of a caller's request into messages and parts.

Strict where Google is (roles, one payload per part), lenient where protobuf's JSON is. Unknown parts become `Opaque` in
the same position. Calls without an id get one derived from their position; results without one answer the first
unanswered call of their name. Google's clients send streamed responses back piece by piece, so adjacent texts of the
model are merged into one text, and adjacent contents of the model into one message.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.gemini.mappings import RESOLUTIONS_IN, media_kind
from llmproxy_asgi.translators.gemini.proto import ProtoNode, camel
from llmproxy_asgi.translators.gemini.reasoning import attach_to_reasoning, decode_signature, is_part_seal
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.names import derived

_PAYLOAD_FIELDS = (
    "functionCall",
    "functionResponse",
    "inlineData",
    "fileData",
    "text",
    "executableCode",
    "codeExecutionResult",
    "toolCall",
    "toolResponse",
    "audioTranscription",
)
_COMMON_FIELDS = frozenset({"thought", "thoughtSignature"})
_TEXT_FIELDS = _COMMON_FIELDS | {"text"}
_RESULT_FIELDS = frozenset({"name", "id", "response", "parts"})
_EMPTY_TEXT = ir.Text(text="")
_OWN_HOST = "generativelanguage.googleapis.com"


def decode_system(instruction: ProtoNode) -> ir.Message | None:
    """Decode the system instruction; its texts stay separate parts."""
    if type(instruction.value) is str:
        parts: tuple[ir.Part, ...] = (ir.Text(text=instruction.value),)
    else:
        parts = tuple(_PartDecoder().parts(instruction, "user"))
    return ir.Message(role="system", authority="system", parts=parts) if parts else None


def decode_contents(contents: ProtoNode) -> list[ir.Message]:
    """Decode all contents in order."""
    entries = contents.array()
    if not entries:
        contents.fail("at least one content is required.")
    decoder = _PartDecoder()
    messages: list[ir.Message] = []
    model_parts: list[ir.Part] = []  # of adjacent contents of the model
    in_model_content = False
    for entry in entries:
        role = entry.optional_text("role") or ""
        if role not in {"user", "model", "function", ""}:
            entry.required_choice("role", ("user", "model"))
        parts = decoder.parts(entry, role)
        if role == "model":
            in_model_content = True
            model_parts += parts
            continue
        if in_model_content:
            messages.append(ir.Message(role="assistant", parts=_merged(model_parts)))
            model_parts, in_model_content = [], False
        messages += _user(parts)
    if in_model_content:
        messages.append(ir.Message(role="assistant", parts=_merged(model_parts)))
    return messages


def _user(parts: Sequence[ir.Part]) -> Iterable[ir.Message]:
    results = tuple(part for part in parts if type(part) is ir.ToolResult)
    rest = tuple(part for part in parts if type(part) is not ir.ToolResult)
    if results:
        yield ir.Message(role="tool", parts=results)
    if rest or not results:
        yield ir.Message(role="user", parts=rest)


def _merged(parts: Sequence[ir.Part]) -> tuple[ir.Part, ...]:
    """Merge the model's parts: join pieces of a text, and move other issuers' seals to the reasoning they belong to."""
    merged = _PartMerger()
    for part in parts:
        kept = part
        reasoning_seals = [seal for seal in part.seals if not is_part_seal(seal)]
        for seal in reasoning_seals:
            merged.attach(seal)
        if reasoning_seals:
            kept = msgspec.structs.replace(part, seals=tuple(seal for seal in part.seals if is_part_seal(seal)))
        if kept != _EMPTY_TEXT:  # an empty one only carried the signature, or the finish
            merged.add(kept)
    return tuple(merged.parts)


class _PartMerger:
    """Parts with adjacent pieces of a text merged; pieces are joined once, in linear time."""

    def __init__(self) -> None:
        self._parts: list[ir.Part] = []
        self._pieces: list[str] = []  # of the last part, after its own text

    @property
    def parts(self) -> list[ir.Part]:
        """Return all parts, merged."""
        last = self._parts[-1] if self._parts else None
        if self._pieces and isinstance(last, ir.Text | ir.Reasoning):
            self._parts[-1] = msgspec.structs.replace(last, text=last.text + "".join(self._pieces))
            self._pieces = []
        return self._parts

    def add(self, part: ir.Part) -> None:
        """Add a part or a piece."""
        last = self._parts[-1] if self._parts else None
        if type(part) is ir.Text and type(last) is ir.Text:
            continues = not (last.seals or last.extras or part.extras) and bool(part.text or not part.seals)
        else:
            continues = type(part) is ir.Reasoning and type(last) is ir.Reasoning and not last.seals
        if not continues or not isinstance(part, ir.Text | ir.Reasoning) or last is None:
            self.parts.append(part)
            return
        self._pieces.append(part.text)
        if part.seals:
            self._parts[-1] = msgspec.structs.replace(last, seals=part.seals)

    def attach(self, seal: ir.Seal) -> None:
        """Attach a seal to the reasoning before it, or to a new one."""
        attach_to_reasoning(self.parts, seal)


class _PartDecoder:
    """The decoder of contents' parts; tracks which calls have no result yet."""

    def __init__(self) -> None:
        self._unanswered: dict[str, OrderedDict[str, int]] = {}  # name to ids, and the number of calls with each id
        self._names: dict[str, set[str]] = {}  # call id to tool names
        self._calls = 0

    def parts(self, content: ProtoNode, role: str) -> list[ir.Part]:
        """Decode the parts of one content."""
        return [self._part(node, role) for node in content.optional_array("parts")]

    def _part(self, node: ProtoNode, role: str) -> ir.Part:
        fields = node.object()
        if len(fields) == 1 and type(fields.get("text")) is str:  # the most common part
            return ir.Text(text=fields["text"])
        names = set(map(camel, fields))
        present = [key for key in _PAYLOAD_FIELDS if key in names and node.member(key) is not None]
        if len(present) > 1:
            node.fail(f"holds both {present[0]} and {present[1]}; a part is one of them.")
        match present[0] if present else None:
            case "text":
                return self._text(node)
            case "functionCall":
                return self._call(node)
            case "functionResponse":
                if role == "model":
                    node.fail("function responses are only allowed in user contents.")
                return self._result(node.need("functionResponse"))
            case "inlineData" | "fileData" as kind:
                return _media(node, kind)
            case None:
                return self._unknown(node)
            case kind:
                return ir.Opaque(protocol=PROTOCOL, kind=kind, data=node.rest())

    def _unknown(self, node: ProtoNode) -> ir.Part:
        fields = node.rest()
        kind = next((key for key in fields if key not in _COMMON_FIELDS), None)
        if kind is not None:
            return ir.Opaque(protocol=PROTOCOL, kind=kind, data=fields)
        if "thoughtSignature" not in fields:
            node.fail("is empty; a part needs one of its payloads.")
        return ir.Text(text="", seals=_seals(node))

    def _text(self, node: ProtoNode) -> ir.Part:
        text, seals = node.required_text("text"), _seals(node)
        if node.optional_boolean("thought"):
            return ir.Reasoning(text=text, style="summary", seals=seals)
        return ir.Text(text=text, seals=seals, extras=node.extras(PROTOCOL, _TEXT_FIELDS))

    def _call(self, node: ProtoNode) -> ir.ToolCall:
        call = node.need("functionCall")
        name = call.required_text("name")
        text = msgspec.json.encode(call.optional_object("args") or {}).decode()
        call_id = call.optional_text("id")
        if not call_id:
            call_id = derived("call_", "call", str(self._calls), name)
        self._calls += 1
        unanswered = self._unanswered.setdefault(name, OrderedDict())
        unanswered[call_id] = unanswered.get(call_id, 0) + 1
        self._names.setdefault(call_id, set()).add(name)
        return ir.ToolCall(call_id=call_id, name=name, arguments=text, seals=_seals(node))

    def _result(self, node: ProtoNode) -> ir.ToolResult:
        name = node.required_text("name")
        text, failed = _result_text(node.optional_object("response") or {})
        media = [_result_media(part) for part in node.optional_array("parts")]
        return ir.ToolResult(
            call_id=self._matching_call(node, node.optional_text("id") or "", name),
            name=name,
            content=(*([ir.Text(text=text)] if text or not media else []), *media),
            is_error=failed,
            extras=node.extras(PROTOCOL, _RESULT_FIELDS),
        )

    def _matching_call(self, node: ProtoNode, call_id: str, name: str) -> str:
        """Return the id of the call that a result answers."""
        if call_id and call_id in self._names:
            for called in self._names[call_id]:
                self._unanswered[called].pop(call_id, None)
            return call_id
        unanswered = self._unanswered.get(name)
        if not unanswered:
            node.fail(f"answers no pending call of {name[:100]!r}.")
        found, calls = next(iter(unanswered.items()))
        if calls > 1:
            unanswered[found] = calls - 1
        else:
            del unanswered[found]
        return found


def _result_text(fields: JSONObject) -> tuple[str, bool]:
    """Return a result as text, and whether it is an error."""
    for key, failed in (("output", False), ("error", True)):
        if len(fields) == 1 and key in fields:
            value = fields[key]
            return (value if isinstance(value, str) else msgspec.json.encode(value).decode()), failed
    return msgspec.json.encode(fields).decode(), "error" in fields and "output" not in fields


def _result_media(node: ProtoNode) -> ir.Media | ir.Opaque:
    for kind in ("inlineData", "fileData"):
        if node.member(kind) is not None:
            return _media(node, kind)
    fields = node.rest()
    return ir.Opaque(protocol=PROTOCOL, kind=next(iter(fields), "part"), data=fields)


def _media(node: ProtoNode, kind: str) -> ir.Media:
    given = node.need(kind)
    if kind == "inlineData":
        media_type: str | None = given.required_text("mimeType")
        source: ir.Source = ir.InlineData(data=given.need("data").base64())
    else:
        media_type, address = given.optional_text("mimeType"), given.required_text("fileUri")
        source = ir.StoredFile(protocol=PROTOCOL, id=address) if is_google_file(address) else ir.Link(url=address)
    resolution = node.get("mediaResolution")
    level = resolution.get("level") if resolution else None
    detail = RESOLUTIONS_IN.get(level.enum_value()) if level else None
    return ir.Media(
        kind=media_kind(media_type),
        source=source,
        media_type=media_type,
        name=given.optional_text("displayName"),
        detail=detail,
        seals=_seals(node),
        extras=node.extras(PROTOCOL, _COMMON_FIELDS | {kind, *(["mediaResolution"] if detail else ())}),
    )


def is_google_file(address: str) -> bool:
    """Return whether an address names a file stored at Google, in any spelling."""
    scheme, split, _ = address.strip().lower().partition("://")
    if not split or scheme == "gs":
        return True
    try:
        host = urlsplit(address.strip()).hostname or ""
    except ValueError:
        return True  # not a URL, so at best a file name
    return host.rstrip(".").endswith(_OWN_HOST)


def _seals(node: ProtoNode) -> tuple[ir.Seal, ...]:
    seal = decode_signature(node.optional_text("thoughtSignature") or "")
    return (seal,) if seal else ()
