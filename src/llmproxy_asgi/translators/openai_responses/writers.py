"""The items of a streamed answer, each written by one of these while its part goes on.

Deltas are written from prefixes that are built once per part, because they are nearly all that a stream consists of.
"""

from collections.abc import Callable, Sequence

import msgspec
from typing_extensions import override

from llmproxy_asgi.conversation import (
    ArgumentsDelta,
    Citation,
    CitationDelta,
    Delta,
    InlineData,
    JSONObject,
    LogprobsDelta,
    Media,
    MediaDelta,
    Part,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Seal,
    SealDelta,
    ServerToolCall,
    Text,
    TextDelta,
    TokenLogprob,
    ToolCall,
)
from llmproxy_asgi.translators.openai.logprobs import encode_logprob
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, item_id, legal_item_id
from llmproxy_asgi.translators.openai_responses.response_encoder import (
    annotation,
    call_item,
    image_item,
    message_item,
    phase_of,
    reasoning_item,
    search_item,
)

_json = msgspec.json.Encoder().encode


class Output:
    """The items of one answer and the numbers of its events."""

    __slots__ = ("_answer", "_ids", "_items", "_unfinished", "sequence", "withheld")

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self._items: list[JSONObject] = []
        self._unfinished: dict[int, Callable[[str], JSONObject]] = {}
        self._ids: set[str] = set()
        self.sequence = 0
        """Of the next event."""
        self.withheld: dict[str, list[Seal]] = {}
        """State that no item tells, by the id of the item that it hangs on."""

    def event(self, name: str, fields: JSONObject, out: list[bytes], *, numbered: bool = True) -> None:
        """Write one event. `numbered`: with the next number, in the place of one that it may have."""
        found: JSONObject = {"type": name, **fields}
        if numbered:
            found["sequence_number"] = self.sequence
            self.sequence += 1
        out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), _json(found)))

    def prefix(self, name: str, fields: JSONObject) -> bytes:
        """An event up to its delta."""
        head = _json({"type": name, **fields})[:-1]
        return b'event: %b\ndata: %b,"delta":' % (name.encode(), head)

    def place(self, prefix: str, wanted: str | None = None) -> tuple[int, str]:
        """The place of a new item and its id: the wanted one if it is legal and free."""
        index = len(self._items)
        found = legal_item_id(wanted, prefix)
        if found is None or found in self._ids:
            found = item_id(prefix, self._answer, index)
        self._ids.add(found)
        self._items.append({})
        return index, found

    def add(
        self, index: int, item: JSONObject, out: list[bytes], *, so_far: Callable[[str], JSONObject] | None = None
    ) -> None:
        """An item begins. `so_far` makes it of a status and what has come by then, should the answer break off."""
        self._items[index] = item
        if so_far is not None:
            self._unfinished[index] = so_far
        self.event("response.output_item.added", {"output_index": index, "item": item}, out)

    def done(self, index: int, item: JSONObject, out: list[bytes]) -> None:
        """An item is complete."""
        self._items[index] = item
        self._unfinished.pop(index, None)
        self.event("response.output_item.done", {"output_index": index, "item": item}, out)

    def coming(self, prefix: str, wanted: str | None, *, behind: int) -> str:
        """The id that an item will get which is placed behind this many others, that have ids of their own."""
        found = legal_item_id(wanted, prefix)
        return found if found and found not in self._ids else item_id(prefix, self._answer, len(self._items) + behind)

    def withhold(self, owner: str, seals: Sequence[Seal]) -> None:
        """Keep back state that comes too late: an item behind the message it hangs on would be taken for the answer."""
        self.withheld.setdefault(owner, []).extend(seals)

    def items(self) -> list[JSONObject]:
        """All items; those that are not done as far as they came."""
        for index, so_far in self._unfinished.items():
            self._items[index] = so_far("incomplete")
        return [item for item in self._items if item]


class Writer:
    """Writes one part."""

    __slots__ = ()

    def delta(self, delta: Delta, out: list[bytes]) -> None:
        """The part goes on."""

    def end(self, part: Part | None, out: list[bytes]) -> None:
        """The part is complete; `part`: as the upstream restated it."""


class Unwritten(Writer):
    """A part for which this protocol has no item."""

    __slots__ = ()


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Message:
    """A message item, which one or more texts fill."""

    __slots__ = ("_contents", "_open", "_source", "_status", "id", "index", "output", "phase")

    def __init__(self, output: Output, part: Text | Refusal, out: list[bytes]) -> None:
        self.output = output
        self.phase = phase_of(part)
        self._source = part.id
        if part.seals:
            owner = output.coming("msg_", part.id, behind=len(part.seals))
            for seal in part.seals:
                _write_state(output, seal, owner, out)
        self.index, self.id = output.place("msg_", part.id)
        self._contents: list[Words] = []
        self._open = 0
        self._status: str | None = None
        output.add(self.index, self._item("in_progress"), out, so_far=self._item)

    def takes(self, part: Text | Refusal) -> bool:
        """Whether a text belongs to this message too."""
        return phase_of(part) == self.phase and (part.id is None or part.id == self._source)

    @property
    def begun(self) -> bool:
        """Whether it has a content."""
        return bool(self._contents)

    def begin(self, words: "Words") -> int:
        """The index of a new content."""
        self._contents.append(words)
        self._open += 1
        return len(self._contents) - 1

    def expect(self) -> None:
        """Keep the message open for a part that may become a content; `end` follows in any case."""
        self._open += 1

    def end(self, out: list[bytes]) -> None:
        """A content, or a part that was expected to become one, is complete."""
        self._open -= 1
        self._finish(out)

    def seal(self, seals: Sequence[Seal]) -> None:
        """State that hangs on one of the texts and comes too late to stand before the message."""
        self.output.withhold(self.id, seals)

    def complete(self, status: str, out: list[bytes]) -> None:
        """Nothing more will be added; the item is done when all contents are."""
        self._status = status
        self._finish(out)

    def _finish(self, out: list[bytes]) -> None:
        if self._status is None or self._open:
            return
        self.output.done(self.index, self._item(self._status), out)

    def _item(self, status: str) -> JSONObject:
        return message_item(self.id, [words.content() for words in self._contents], status=status, phase=self.phase)


class Words(Writer):
    """A text, or the words of a refusal: one content of a message."""

    __slots__ = (
        "_annotations",
        "_length",
        "_logprobs",
        "_message",
        "_middle",
        "_output",
        "_pieces",
        "_place",
        "_prefix",
        "_text",
    )

    def __init__(self, message: Message, part: Text | Refusal, out: list[bytes]) -> None:
        self._message = message
        self._output = message.output
        self._text = isinstance(part, Text)
        self._pieces: list[str] = []
        self._length = 0
        self._annotations: list[JSONObject] = []
        self._logprobs: list[JSONObject] = []
        self._place: JSONObject = {
            "item_id": message.id,
            "output_index": message.index,
            "content_index": message.begin(self),
        }
        name = "response.output_text.delta" if self._text else "response.refusal.delta"
        self._prefix = self._output.prefix(name, self._place)
        self._middle = b',"logprobs":[],"sequence_number":' if self._text else b',"sequence_number":'
        self._output.event("response.content_part.added", {**self._place, "part": self.content()}, out)
        self.delta(TextDelta(part.text), out)
        if isinstance(part, Text):
            for citation in part.citations:
                self._cite(citation, out)

    @override
    def delta(self, delta: Delta, out: list[bytes]) -> None:
        if type(delta) is TextDelta or type(delta) is RefusalDelta:
            text = delta.text
            if text:
                self._pieces.append(text)
                self._length += len(text)
                output = self._output
                out.append(b"%b%b%b%d}\n\n" % (self._prefix, _json(text), self._middle, output.sequence))
                output.sequence += 1
        elif type(delta) is CitationDelta:
            self._cite(delta.citation, out)
        elif type(delta) is LogprobsDelta and self._text:
            self._weigh(delta.tokens, out)
        elif type(delta) is SealDelta:
            self._message.seal((delta.seal,))

    @override
    def end(self, part: Part | None, out: list[bytes]) -> None:
        if isinstance(part, Text | Refusal) and not self._pieces:
            self.delta(TextDelta(part.text), out)
        content = self.content()
        if self._text:
            told: JSONObject = {"text": content["text"], "logprobs": self._logprobs}
            self._output.event("response.output_text.done", {**self._place, **told}, out)
        else:
            self._output.event("response.refusal.done", {**self._place, "refusal": content["refusal"]}, out)
        self._output.event("response.content_part.done", {**self._place, "part": content}, out)
        self._message.end(out)

    def content(self) -> JSONObject:
        """As far as it has come."""
        text = "".join(self._pieces)
        if not self._text:
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": list(self._annotations),
            "logprobs": list(self._logprobs),
        }

    def _weigh(self, tokens: Sequence[TokenLogprob], out: list[bytes]) -> None:
        """How likely the words were; they came with the delta before, so this one holds no words."""
        entries = [encode_logprob(token) for token in tokens]
        self._logprobs += entries
        fields: JSONObject = {**self._place, "delta": "", "logprobs": entries}
        self._output.event("response.output_text.delta", fields, out)

    def _cite(self, citation: Citation, out: list[bytes]) -> None:
        entry = annotation(citation, self._length)
        if entry is None or not self._text:
            return
        fields: JSONObject = {**self._place, "annotation_index": len(self._annotations), "annotation": entry}
        self._annotations.append(entry)
        self._output.event("response.output_text.annotation.added", fields, out)


class LateWords(Writer):
    """A text that begins empty behind another one of its message: a content of its own as soon as it says something.

    Some upstreams put the state of a text into an empty one behind it.
    """

    __slots__ = ("_message", "_part", "_words")

    def __init__(self, message: Message, part: Text) -> None:
        self._message = message
        self._part = part
        self._words: Words | None = None
        message.expect()  # a part that starts meanwhile must not complete the message

    @override
    def delta(self, delta: Delta, out: list[bytes]) -> None:
        if type(delta) is SealDelta:
            self._message.seal((delta.seal,))
            return
        if self._words is None:
            self._words = Words(self._message, self._part, out)
        self._words.delta(delta, out)

    @override
    def end(self, part: Part | None, out: list[bytes]) -> None:
        if self._words is None and isinstance(part, Text) and part.text:
            self._words = Words(self._message, self._part, out)
        if self._words is not None:
            self._words.end(part, out)
        self._message.end(out)


# ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Thought(Writer):
    """Reasoning: its text word for word where that is what it is, else as one summary; its state at the end."""

    __slots__ = ("_as_content", "_id", "_index", "_output", "_pieces", "_place", "_prefix", "_seals")

    def __init__(self, output: Output, part: Reasoning, out: list[bytes]) -> None:
        self._output = output
        self._as_content = part.raw
        self._seals = list(part.seals)
        native = part.id or next((seal.item_id for seal in part.seals if seal.item_id), None)
        self._index, self._id = output.place("rs_", native)
        self._pieces: list[str] = []
        self._prefix = b""
        numbered = "content_index" if self._as_content else "summary_index"
        self._place: JSONObject = {"item_id": self._id, "output_index": self._index, numbered: 0}
        output.add(self._index, self._item("in_progress"), out, so_far=self._item)
        self._think(part.text, out)

    @override
    def delta(self, delta: Delta, out: list[bytes]) -> None:
        if type(delta) is ReasoningDelta:
            self._think(delta.text, out)
        elif type(delta) is SealDelta:
            self._seals.append(delta.seal)

    @override
    def end(self, part: Part | None, out: list[bytes]) -> None:
        seals = self._seals
        if isinstance(part, Reasoning):
            seals = list(part.seals) or seals
            if not self._pieces:
                self._think(part.text, out)
        if self._pieces:
            text = "".join(self._pieces)
            name = "response.reasoning_text.done" if self._as_content else "response.reasoning_summary_text.done"
            self._output.event(name, {**self._place, "text": text}, out)
            self._part("done", text, out)
        self._output.done(self._index, self._item("completed", seals[0] if seals else None), out)
        for seal in seals[1:]:
            _write_state(self._output, seal, None, out)

    def _think(self, text: str, out: list[bytes]) -> None:
        if not text:
            return
        if not self._pieces:
            self._part("added", "", out)
            name = "response.reasoning_text.delta" if self._as_content else "response.reasoning_summary_text.delta"
            self._prefix = self._output.prefix(name, self._place)
        self._pieces.append(text)
        out.append(b'%b%b,"sequence_number":%d}\n\n' % (self._prefix, _json(text), self._output.sequence))
        self._output.sequence += 1

    def _part(self, what: str, text: str, out: list[bytes]) -> None:
        if self._as_content:
            name, kind = f"response.content_part.{what}", "reasoning_text"
        else:
            name, kind = f"response.reasoning_summary_part.{what}", "summary_text"
        self._output.event(name, {**self._place, "part": {"type": kind, "text": text}}, out)

    def _item(self, status: str, seal: Seal | None = None) -> JSONObject:
        text = "".join(self._pieces)
        return reasoning_item(self._id, text, seal, as_content=self._as_content, status=status)


def _write_state(output: Output, seal: Seal, owner: str | None, out: list[bytes]) -> None:
    """State that is nobody's thought to read: an item of its own, which remembers on what it hung."""
    if owner is not None and seal.item_id is None:
        seal = msgspec.structs.replace(seal, item_id=owner)
    index, found = output.place("rs_")
    bare = reasoning_item(found, "", None, as_content=False, status="in_progress")
    output.add(index, bare, out)
    output.done(index, reasoning_item(found, "", seal, as_content=False, status="completed"), out)


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Call(Writer):
    """A call of the caller's tools."""

    __slots__ = (
        "_custom",
        "_ended",
        "_header",
        "_id",
        "_index",
        "_namespace",
        "_output",
        "_pieces",
        "_place",
        "_prefix",
        "_status",
    )

    def __init__(self, output: Output, part: ToolCall, namespace: str | None, out: list[bytes]) -> None:
        for seal in part.seals:
            _write_state(output, seal, part.call_id, out)
        self._output = output
        self._custom = part.kind == "custom"
        self._namespace = namespace
        self._header = msgspec.structs.replace(part, arguments="")
        self._index, self._id = output.place("ctc_" if self._custom else "fc_", part.id)
        self._place: JSONObject = {"item_id": self._id, "output_index": self._index}
        stem = "response.custom_tool_call_input" if self._custom else "response.function_call_arguments"
        self._prefix = output.prefix(f"{stem}.delta", self._place)
        self._pieces: list[str] = []
        self._ended = False
        self._status: str | None = None
        output.add(self._index, self._item("in_progress"), out, so_far=self._item)
        self._go_on(part.arguments, out)

    @override
    def delta(self, delta: Delta, out: list[bytes]) -> None:
        if type(delta) is ArgumentsDelta:
            self._go_on(delta.text, out)
        # State that comes late is kept under the call's id, as that of every call is.

    @override
    def end(self, part: Part | None, out: list[bytes]) -> None:
        if not self._pieces and isinstance(part, ToolCall):
            self._go_on(part.arguments, out)
        if not self._pieces and not self._custom:
            self._go_on("{}", out)
        self._ended = True
        self._finish(out)

    def complete(self, status: str, out: list[bytes]) -> None:
        """Something else comes now, or nothing: the call is done, if it has ended."""
        self._status = status
        self._finish(out)

    def _finish(self, out: list[bytes]) -> None:
        if self._status is None or not self._ended:
            return
        arguments = "".join(self._pieces)
        if self._custom:
            self._output.event("response.custom_tool_call_input.done", {**self._place, "input": arguments}, out)
        else:
            told: JSONObject = {"name": self._header.name, "arguments": arguments}
            self._output.event("response.function_call_arguments.done", {**self._place, **told}, out)
        self._output.done(self._index, self._item(self._status), out)

    def _go_on(self, text: str, out: list[bytes]) -> None:
        if text:
            self._pieces.append(text)
            out.append(b'%b%b,"sequence_number":%d}\n\n' % (self._prefix, _json(text), self._output.sequence))
            self._output.sequence += 1

    def _item(self, status: str) -> JSONObject:
        whole = msgspec.structs.replace(self._header, arguments="".join(self._pieces))
        return call_item(self._id, whole, namespace=self._namespace, status=status)


class Search(Writer):
    """What the upstream looked up by itself; told of when it begins, with its words when it ends."""

    __slots__ = ("_header", "_id", "_index", "_output", "_pieces", "_written")

    def __init__(self, output: Output, part: ServerToolCall, out: list[bytes]) -> None:
        self._output = output
        self._header = part
        self._pieces = [part.arguments] if part.arguments else []
        self._written = search_item("", part, status="in_progress") is not None
        self._index, self._id = -1, ""
        if not self._written:
            return
        native = part.extras.get(PROTOCOL)
        if native:
            self._index, self._id = output.place("", native.get("id") or part.call_id)
            return
        self._index, self._id = output.place("ws_", part.call_id)
        output.add(self._index, search_item(self._id, part, status="in_progress") or {}, out)
        for step in ("in_progress", "searching"):
            self._tell(step, out)

    @override
    def delta(self, delta: Delta, out: list[bytes]) -> None:
        if type(delta) is ArgumentsDelta:
            self._pieces.append(delta.text)

    @override
    def end(self, part: Part | None, out: list[bytes]) -> None:
        if not self._written:
            return
        call = part if isinstance(part, ServerToolCall) else self._header
        if not call.arguments and self._pieces:
            call = msgspec.structs.replace(call, arguments="".join(self._pieces))
        item = search_item(self._id, call, status="completed") or {}
        if PROTOCOL in self._header.extras:
            self._output.add(self._index, item, out)
        else:
            self._tell("completed", out)
        self._output.done(self._index, item, out)

    def _tell(self, step: str, out: list[bytes]) -> None:
        self._output.event(f"response.web_search_call.{step}", {"item_id": self._id, "output_index": self._index}, out)


# ── what comes whole ─────────────────────────────────────────────────────────────────────────────────────────────────


class Picture(Writer):
    """A picture, written when it is complete."""

    __slots__ = ("_header", "_output", "_pieces")

    def __init__(self, output: Output, part: Media) -> None:
        self._output = output
        self._header = part
        self._pieces: list[str] = []

    @override
    def delta(self, delta: Delta, out: list[bytes]) -> None:
        if type(delta) is MediaDelta:
            self._pieces.append(delta.data)

    @override
    def end(self, part: Part | None, out: list[bytes]) -> None:
        media = part if isinstance(part, Media) else self._header
        data = media.source.data if isinstance(media.source, InlineData) else ""
        data = data or "".join(self._pieces)
        if media.kind != "image" or not data:
            return  # a sound, or a picture elsewhere: this protocol has no words for it
        index, found = self._output.place("ig_", media.id)
        item = image_item(found, media, data)
        self._output.add(index, {**item, "status": "in_progress", "result": None}, out)
        self._output.done(index, item, out)


class Whole(Writer):
    """An item that only this protocol knows, as it came."""

    __slots__ = ("_item", "_output")

    def __init__(self, output: Output, item: JSONObject) -> None:
        self._output = output
        self._item = item

    @override
    def end(self, part: Part | None, out: list[bytes]) -> None:
        index, _ = self._output.place("", self._item.get("id"))
        self._output.add(index, self._item, out)
        self._output.done(index, self._item, out)
