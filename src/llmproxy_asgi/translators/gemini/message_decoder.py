"""What callers write in `systemInstruction` and `contents`, read into messages and parts.

Strict where Google is (roles, one payload a part), lenient where protobuf's JSON is. Parts that we have no word for
become `Opaque` at their place. Calls without an id get one that follows from their place, results without one are given
to the first unanswered call of their name. Google's answers are streamed as pieces that its clients send back piece by
piece, so neighbouring texts of the model are one text again, and neighbouring contents of the model one message.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

from llmproxy_asgi.conversation import (
    InlineData,
    JSONObject,
    Link,
    Media,
    Message,
    Opaque,
    Part,
    Reasoning,
    Seal,
    StoredFile,
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.translators.fields import missing
from llmproxy_asgi.translators.gemini.mappings import RESOLUTIONS_IN, media_kind
from llmproxy_asgi.translators.gemini.proto import Proto
from llmproxy_asgi.translators.gemini.reasoning import decode_signature, give_back_to_thought, is_of_part
from llmproxy_asgi.translators.gemini.schema import PROTOCOL
from llmproxy_asgi.translators.names import derived

_PAYLOADS = (
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
_BESIDE = ("thought", "thoughtSignature")
_OWN_HOST = "generativelanguage.googleapis.com"


def decode_system(instruction: Proto) -> Message | None:
    """The instruction; its texts stay apart."""
    if type(instruction.value) is str:
        parts: tuple[Part, ...] = (Text(text=instruction.value),)
    else:
        given = instruction.get("parts")
        parts = tuple(_Contents().parts(given, "user")) if given else ()
    return Message(role="system", authority="system", parts=parts) if parts else None


def decode_contents(contents: Proto) -> list[Message]:
    """All turns in their order."""
    entries = contents.entries()
    if not entries:
        contents.fail("at least one content is required.")
    reader = _Contents()
    messages: list[Message] = []
    said: list[Part] = []  # what the model says in contents that follow each other
    turn = False
    for entry in entries:
        role = entry.get("role")
        word = role.text() if role else ""
        if role and word not in {"user", "model", "function", ""}:
            role.choice(("user", "model"))
        given = entry.get("parts")
        parts = reader.parts(given, "model" if word == "model" else "user") if given else []
        if word == "model":
            turn = True
            said += parts
            continue
        if turn:
            messages.append(Message(role="assistant", parts=_pieced(said)))
            said, turn = [], False
        messages += _user(parts)
    if turn:
        messages.append(Message(role="assistant", parts=_pieced(said)))
    return messages


def _user(parts: Sequence[Part]) -> Iterable[Message]:
    results = tuple(part for part in parts if isinstance(part, ToolResult))
    rest = tuple(part for part in parts if not isinstance(part, ToolResult))
    if results:
        yield Message(role="tool", parts=results)
    if rest or not results:
        yield Message(role="user", parts=rest)


def _pieced(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The model's parts: what came in pieces in one piece, and seals of others' thoughts on those thoughts."""
    made = _Joined()
    for part in parts:
        foreign = [seal for seal in part.seals if not is_of_part(seal)]
        for seal in foreign:
            made.give_back(seal)
        own = tuple(seal for seal in part.seals if is_of_part(seal))
        if not own and part == Text(text="", seals=part.seals):
            continue  # it was there for its signature alone, or with the finish
        made.add(msgspec.structs.replace(part, seals=own) if foreign else part)
    return tuple(made.parts)


class _Joined:
    """Parts in which neighbouring pieces of one text are one text. Pieces are joined once, however many they are."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._pieces: list[str] = []  # of the last part, behind what it holds already

    @property
    def parts(self) -> list[Part]:
        """All of them, whole."""
        last = self._parts[-1] if self._parts else None
        if self._pieces and isinstance(last, Text | Reasoning):
            self._parts[-1] = msgspec.structs.replace(last, text=last.text + "".join(self._pieces))
            self._pieces = []
        return self._parts

    def add(self, part: Part) -> None:
        """One more part, or piece."""
        last = self._parts[-1] if self._parts else None
        if isinstance(part, Text) and isinstance(last, Text):
            goes_on = not (last.seals or last.extras or part.extras) and bool(part.text or not part.seals)
        else:
            goes_on = isinstance(part, Reasoning) and isinstance(last, Reasoning) and not last.seals
        if not goes_on or not isinstance(part, Text | Reasoning) or last is None:
            self.parts.append(part)
            return
        self._pieces.append(part.text)
        if part.seals:
            self._parts[-1] = msgspec.structs.replace(last, seals=part.seals)

    def give_back(self, seal: Seal) -> None:
        """A seal for the thought before it, or for a new one where none waits for it."""
        give_back_to_thought(self.parts, seal)


class _Contents:
    """Reads contents in their order, and remembers which calls wait for a result."""

    def __init__(self) -> None:
        self._waiting: dict[str, OrderedDict[str, int]] = {}  # name to ids, and how many calls have such an id
        self._names: dict[str, set[str]] = {}  # of every call's id
        self._calls = 0

    def parts(self, given: Proto, role: str) -> list[Part]:
        """The parts of one content."""
        made: list[Part] = []
        for node in given.entries():
            value = node.value
            if type(value) is dict and len(value) == 1 and type(value.get("text")) is str:
                made.append(Text(text=value["text"]))  # nearly every part; all that `_part` would find
            else:
                made.append(self._part(node, role))
        return made

    def _part(self, node: Proto, role: str) -> Part:
        present = [key for key in _PAYLOADS if node.get(key) is not None]
        kind = present[0] if present else None
        if len(present) > 1:
            node.fail(f"holds both {present[0]} and {present[1]}; a part is one of them.")
        match kind:
            case "text":
                return self._text(node)
            case "functionCall":
                return self._call(node)
            case "functionResponse":
                if role != "user":
                    node.fail("results may only stand in the user's contents.")
                return self._result(node.need("functionResponse"))
            case "inlineData" | "fileData":
                return _media(node, kind)
            case None:
                return self._unknown(node)
            case _:
                return Opaque(protocol=PROTOCOL, kind=kind, data=node.rest())

    def _unknown(self, node: Proto) -> Part:
        fields = node.rest()
        kind = next((key for key in fields if key not in _BESIDE), None)
        if kind is None and node.get("thoughtSignature") is None:
            node.fail("is empty; a part needs one of its payloads.")
        if kind is None:
            return Text(text="", seals=_seals(node))
        return Opaque(protocol=PROTOCOL, kind=kind, data=fields)

    def _text(self, node: Proto) -> Part:
        text = node.need("text").text()
        thought = node.get("thought")
        seals = _seals(node)
        if thought and thought.boolean():
            return Reasoning(text=text, style="summary", seals=seals)
        return Text(text=text, seals=seals, extras=node.extras("text", *_BESIDE))

    def _call(self, node: Proto) -> ToolCall:
        call = node.need("functionCall")
        name = call.need("name").text()
        arguments, given = call.get("args"), call.get("id")
        text = msgspec.json.encode(arguments.object() if arguments else {}).decode()
        call_id = given.text() if given else ""
        if not call_id:
            call_id = derived("call_", "call", str(self._calls), name)
        self._calls += 1
        waiting = self._waiting.setdefault(name, OrderedDict())
        waiting[call_id] = waiting.get(call_id, 0) + 1
        self._names.setdefault(call_id, set()).add(name)
        return ToolCall(call_id=call_id, name=name, arguments=text, seals=_seals(node))

    def _result(self, node: Proto) -> ToolResult:
        name = node.need("name").text()
        given = node.get("id")
        response = node.get("response")
        fields = response.object() if response else {}
        parts = node.get("parts")
        media = [_result_media(part) for part in parts.entries()] if parts else []
        text, failed = _said(fields)
        return ToolResult(
            call_id=self._answered(node, given.text() if given else "", name),
            name=name,
            content=(*([Text(text=text)] if text or not media else []), *media),
            is_error=failed,
            extras=node.extras("name", "id", "response", "parts"),
        )

    def _answered(self, node: Proto, call_id: str, name: str) -> str:
        """The id of the call that a result answers."""
        if call_id and call_id in self._names:
            for called in self._names[call_id]:
                self._waiting[called].pop(call_id, None)
            return call_id
        waiting = self._waiting.get(name)
        if not waiting:
            node.fail(f"answers no call of {name[:100]!r} that waits for a result.")
        found, calls = next(iter(waiting.items()))
        if calls > 1:
            waiting[found] = calls - 1
        else:
            del waiting[found]
        return found


def _said(fields: JSONObject) -> tuple[str, bool]:
    """A result in words, and whether it tells of a failure."""
    for key, failed in (("output", False), ("error", True)):
        if len(fields) == 1 and key in fields:
            value = fields[key]
            return (value if isinstance(value, str) else msgspec.json.encode(value).decode()), failed
    return msgspec.json.encode(fields).decode(), "error" in fields and "output" not in fields


def _result_media(node: Proto) -> Media | Opaque:
    for kind in ("inlineData", "fileData"):
        if node.get(kind) is not None:
            return _media(node, kind)
    fields = node.rest()
    return Opaque(protocol=PROTOCOL, kind=next(iter(fields), "part"), data=fields)


def _media(node: Proto, kind: str) -> Media:
    given = node.need(kind)
    name = given.get("displayName")
    declared = given.get("mimeType")
    media_type = declared.text() if declared else None
    if kind == "inlineData":
        if media_type is None:
            raise missing(f"{given.path}.mimeType")
        source: InlineData | StoredFile | Link = InlineData(data=given.need("data").base64())
    else:
        address = given.need("fileUri").text()
        source = StoredFile(protocol=PROTOCOL, id=address) if is_own_file(address) else Link(url=address)
    level = node.get("mediaResolution")
    word = level.get("level") if level else None
    detail = RESOLUTIONS_IN.get(word.word()) if word else None
    known = (kind, *_BESIDE, *(("mediaResolution",) if detail else ()))
    return Media(
        kind=media_kind(media_type),
        source=source,
        media_type=media_type,
        name=name.text() if name else None,
        detail=detail,
        seals=_seals(node),
        extras=node.extras(*known),
    )


def is_own_file(address: str) -> bool:
    """Whether an address is that of a file that Google keeps for whoever put it there, however it is spelled."""
    scheme, split, _ = address.strip().lower().partition("://")
    if not split or scheme == "gs":
        return True
    try:
        host = urlsplit(address.strip()).hostname or ""
    except ValueError:
        return True  # no address, so at best a name
    return host.rstrip(".").endswith(_OWN_HOST)


def _seals(node: Proto) -> tuple[Seal, ...]:
    given = node.get("thoughtSignature")
    seal = decode_signature(given.text()) if given else None
    return (seal,) if seal else ()
