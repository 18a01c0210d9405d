"""Writers of the output items of a streamed response, one for each part.

Deltas are written from prefixes that are built once per part, because a stream consists almost only of deltas.
"""

from collections.abc import Callable, Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.codec.parts import PartWriter
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


class OutputItems:
    """The output items of one response and the sequence numbers of its events, which it appends to `out`."""

    __slots__ = ("_answer", "_ids", "_items", "_unfinished", "out", "sequence", "withheld")

    def __init__(self, answer: str, out: list[bytes]) -> None:
        self._answer = answer
        self.out = out
        self._items: list[JSONObject] = []
        self._unfinished: dict[int, Callable[[str], JSONObject]] = {}
        self._ids: set[str] = set()
        self.sequence = 0
        """The next event's sequence number."""
        self.withheld: dict[str, list[ir.Seal]] = {}
        """Seals that no item contains, by the id of the item that they belong to."""

    def event(self, name: str, fields: JSONObject, *, numbered: bool = True) -> None:
        """Write one event; `numbered` replaces its sequence number by the next one."""
        found: JSONObject = {"type": name, **fields}
        if numbered:
            found["sequence_number"] = self.sequence
            self.sequence += 1
        self.out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), _json(found)))

    def prefix(self, name: str, fields: JSONObject) -> bytes:
        """Encode an event up to its delta."""
        head = _json({"type": name, **fields})[:-1]
        return b'event: %b\ndata: %b,"delta":' % (name.encode(), head)

    def allocate(self, prefix: str, wanted: str | None = None) -> tuple[int, str]:
        """Return the index and the id of a new item: the wanted id if it is valid and unused."""
        index = len(self._items)
        found = legal_item_id(wanted, prefix)
        if found is None or found in self._ids:
            found = item_id(prefix, self._answer, index)
        self._ids.add(found)
        self._items.append({})
        return index, found

    def add(self, index: int, item: JSONObject, *, snapshot: Callable[[str], JSONObject] | None = None) -> None:
        """Write the start of an item; `snapshot` encodes it with a status if the response breaks off."""
        self._items[index] = item
        if snapshot is not None:
            self._unfinished[index] = snapshot
        self.event("response.output_item.added", {"output_index": index, "item": item})

    def done(self, index: int, item: JSONObject) -> None:
        """Write the end of an item."""
        self._items[index] = item
        self._unfinished.pop(index, None)
        self.event("response.output_item.done", {"output_index": index, "item": item})

    def upcoming_id(self, prefix: str, wanted: str | None, *, behind: int) -> str:
        """Return the id of an item that will follow after `behind` other new items."""
        found = legal_item_id(wanted, prefix)
        return found if found and found not in self._ids else item_id(prefix, self._answer, len(self._items) + behind)

    def withhold(self, owner: str, seals: Sequence[ir.Seal]) -> None:
        """Withhold seals that arrive late: clients would take an item after the message for the response."""
        self.withheld.setdefault(owner, []).extend(seals)

    def items(self) -> list[JSONObject]:
        """Return all items; unfinished ones are incomplete."""
        for index, snapshot in self._unfinished.items():
            self._items[index] = snapshot("incomplete")
        return [item for item in self._items if item]


class ItemWriter(PartWriter):
    """The writer of one part as an output item, or as a part of one."""

    def __init__(self, part: ir.Part, output: OutputItems) -> None:
        super().__init__(part, output.out)
        self.output = output
        self.item, self.id = -1, ""
        """The item's index and id."""


class DeltaWriter(ItemWriter):
    """The writer of a part whose pieces are written at once."""

    def __init__(self, part: ir.Part, output: OutputItems) -> None:
        super().__init__(part, output)
        self.location: JSONObject = {}
        self.head = b""
        """What precedes a piece, once `begin` has set it."""
        self.middle = b',"sequence_number":'
        self.keeps = False

    def begin(self) -> None:
        """Write what precedes the first piece, and set `head`."""

    @override
    def write(self, text: str) -> None:
        if not self.head:
            self.begin()
        self.pieces.append(text)
        output = self.output
        self.out.append(b"%b%b%b%d}\n\n" % (self.head, _json(text), self.middle, output.sequence))
        output.sequence += 1


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class MessageWriter:
    """The writer of a message item, which contains one or more texts."""

    __slots__ = ("_open", "_source", "_status", "contents", "id", "index", "output", "phase")

    def __init__(self, output: OutputItems, part: ir.Text | ir.Refusal) -> None:
        self.output = output
        self.phase = phase_of(part)
        self._source = part.id
        if part.seals:
            owner = output.upcoming_id("msg_", part.id, behind=len(part.seals))
            for seal in part.seals:
                _write_seal(output, seal, owner)
        self.index, self.id = output.allocate("msg_", part.id)
        self.contents: list[TextWriter] = []
        self._open = 0
        self._status: str | None = None
        output.add(self.index, self._item("in_progress"), snapshot=self._item)

    def accepts(self, part: ir.Text | ir.Refusal) -> bool:
        """Return whether a text belongs to this message."""
        return phase_of(part) == self.phase and (part.id is None or part.id == self._source)

    def expect(self) -> None:
        """Keep the message open for a part that may become a content; `end` follows in any case."""
        self._open += 1

    def end(self) -> None:
        """End a part."""
        self._open -= 1
        self._finish()

    def seal(self, seals: Sequence[ir.Seal]) -> None:
        """Withhold seals of a text that arrive after the message started."""
        self.output.withhold(self.id, seals)

    def complete(self, status: str) -> None:
        """Close the message with a status; the item is done when all of its content parts are."""
        self._status = status
        self._finish()

    def _finish(self) -> None:
        if self._status is None or self._open:
            return
        self.output.done(self.index, self._item(self._status))

    def _item(self, status: str) -> JSONObject:
        contents = [writer.content() for writer in self.contents]
        return message_item(self.id, contents, status=status, phase=self.phase)


class TextWriter(DeltaWriter):
    """The writer of a text or a refusal, which is one content part of a message.

    An empty text after another one becomes a content part with its first piece: some upstreams send a text's seal in an
    empty text after it.
    """

    def __init__(self, part: ir.Text | ir.Refusal, message: MessageWriter) -> None:
        super().__init__(part, message.output)
        self._message = message
        self._is_text = isinstance(part, ir.Text)
        self._annotations: list[JSONObject] = []
        self._logprobs: list[msgspec.Raw] = []
        message.expect()  # a part that starts meanwhile must not complete the message

    @override
    def start(self) -> None:
        if not (self._message.contents and self._is_text):
            self.begin()
        super().start()

    @override
    def begin(self) -> None:
        message = self._message
        place = {"item_id": message.id, "output_index": message.index, "content_index": len(message.contents)}
        message.contents.append(self)
        self.location = place
        self.head = self.output.prefix(
            "response.output_text.delta" if self._is_text else "response.refusal.delta", place
        )
        if self._is_text:
            self.middle = b',"logprobs":[],"sequence_number":'
        self.output.event("response.content_part.added", {**place, "part": self.content()})

    @override
    def cite(self, citation: ir.Citation) -> None:
        entry = annotation(citation, self.counted)
        if entry is None or not self._is_text:
            return
        if not self.head:
            self.begin()
        fields: JSONObject = {**self.location, "annotation_index": len(self._annotations), "annotation": entry}
        self._annotations.append(entry)
        self.output.event("response.output_text.annotation.added", fields)

    @override
    def write_logprobs(self, tokens: Sequence[ir.TokenLogprob]) -> None:
        """Write the log probabilities of the previous delta's text with an empty delta."""
        if not self._is_text:
            return
        if not self.head:
            self.begin()
        entries = [encode_logprob(token) for token in tokens]
        self._logprobs += entries
        self.output.event("response.output_text.delta", {**self.location, "delta": "", "logprobs": entries})

    @override
    def seal(self, seal: ir.Seal) -> None:
        self._message.seal((seal,))

    @override
    def end(self, part: ir.Part) -> None:
        if self.head:
            content = self.content()
            if self._is_text:
                fields: JSONObject = {"text": content["text"], "logprobs": self._logprobs}
                self.output.event("response.output_text.done", {**self.location, **fields})
            else:
                self.output.event("response.refusal.done", {**self.location, "refusal": content["refusal"]})
            self.output.event("response.content_part.done", {**self.location, "part": content})
        self._message.end()

    def content(self) -> JSONObject:
        """Encode the content part so far."""
        text = "".join(self.pieces)
        if not self._is_text:
            return {"type": "refusal", "refusal": text}
        details = {"annotations": list(self._annotations), "logprobs": list(self._logprobs)}
        return {"type": "output_text", "text": text, **details}


# ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ReasoningWriter(DeltaWriter):
    """The writer of reasoning: raw text as content, other text as one summary, and the seal at the end."""

    part: ir.Reasoning

    @override
    def start(self) -> None:
        part = self.part
        native = part.id or next((seal.item_id for seal in part.seals if seal.item_id), None)
        self.item, self.id = self.output.allocate("rs_", native)
        numbered = "content_index" if part.raw else "summary_index"
        self.location = {"item_id": self.id, "output_index": self.item, numbered: 0}
        self.output.add(self.item, self._item("in_progress"), snapshot=self._item)
        super().start()

    @override
    def begin(self) -> None:
        self._part("added", "")
        name = "response.reasoning_text.delta" if self.part.raw else "response.reasoning_summary_text.delta"
        self.head = self.output.prefix(name, self.location)

    @override
    def end(self, part: ir.Part) -> None:
        if self.head:
            text = "".join(self.pieces)
            name = "response.reasoning_text.done" if self.part.raw else "response.reasoning_summary_text.done"
            self.output.event(name, {**self.location, "text": text})
            self._part("done", text)
        self.output.done(self.item, self._item("completed", self.seals[0] if self.seals else None))
        for seal in self.seals[1:]:
            _write_seal(self.output, seal, None)

    def _part(self, what: str, text: str) -> None:
        if self.part.raw:
            name, kind = f"response.content_part.{what}", "reasoning_text"
        else:
            name, kind = f"response.reasoning_summary_part.{what}", "summary_text"
        self.output.event(name, {**self.location, "part": {"type": kind, "text": text}})

    def _item(self, status: str, seal: ir.Seal | None = None) -> JSONObject:
        return reasoning_item(self.id, "".join(self.pieces), seal, as_content=self.part.raw, status=status)


def _write_seal(output: OutputItems, seal: ir.Seal, owner: str | None) -> None:
    """Write a seal as a separate reasoning item that contains the id of its owner."""
    if owner is not None and seal.item_id is None:
        seal = msgspec.structs.replace(seal, item_id=owner)
    index, found = output.allocate("rs_")
    output.add(index, reasoning_item(found, "", None, as_content=False, status="in_progress"))
    output.done(index, reasoning_item(found, "", seal, as_content=False, status="completed"))


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class ToolCallWriter(DeltaWriter):
    """The writer of a call to one of the caller's tools. Its late seals are stored under its id, as all calls' are."""

    part: ir.ToolCall

    def __init__(self, part: ir.ToolCall, output: OutputItems, namespace: str | None) -> None:
        super().__init__(part, output)
        self._namespace = namespace
        self._custom = part.kind == "custom"
        self._ended = False
        self._status: str | None = None

    @override
    def start(self) -> None:
        for seal in self.part.seals:
            _write_seal(self.output, seal, self.part.call_id)
        self.item, self.id = self.output.allocate("ctc_" if self._custom else "fc_", self.part.id)
        self.location = {"item_id": self.id, "output_index": self.item}
        stem = "response.custom_tool_call_input" if self._custom else "response.function_call_arguments"
        self.head = self.output.prefix(f"{stem}.delta", self.location)
        self.output.add(self.item, self._item("in_progress"), snapshot=self._item)
        super().start()

    @override
    def end(self, part: ir.Part) -> None:
        self._ended = True
        self._finish()

    def complete(self, status: str) -> None:
        """Close the call with a status; the item is done when its part has ended."""
        self._status = status
        self._finish()

    def _finish(self) -> None:
        if self._status is None or not self._ended:
            return
        arguments = "".join(self.pieces)
        if self._custom:
            self.output.event("response.custom_tool_call_input.done", {**self.location, "input": arguments})
        else:
            fields: JSONObject = {"name": self.part.name, "arguments": arguments}
            self.output.event("response.function_call_arguments.done", {**self.location, **fields})
        self.output.done(self.item, self._item(self._status))

    def _item(self, status: str) -> JSONObject:
        call = msgspec.structs.replace(self.part, arguments="".join(self.pieces))
        return call_item(self.id, call, namespace=self._namespace, status=status)


class WebSearchWriter(ItemWriter):
    """The writer of a web search that the upstream runs; its end contains the query."""

    part: ir.ServerToolCall

    @override
    def start(self) -> None:
        super().start()
        part = self.part
        item = search_item("", part, status="in_progress")
        if item is None:
            return
        native = part.extras.get(PROTOCOL)
        if native:
            self.item, self.id = self.output.allocate("", native.get("id") or part.call_id)
            return
        self.item, self.id = self.output.allocate("ws_", part.call_id)
        self.output.add(self.item, {**item, "id": self.id})
        for step in ("in_progress", "searching"):
            self._write_step(step)

    @override
    def end(self, part: ir.Part) -> None:
        assert isinstance(part, ir.ServerToolCall)
        if self.item < 0:
            return
        call = msgspec.structs.replace(part, arguments=self.arguments(part))
        item = search_item(self.id, call, status="completed") or {}
        if PROTOCOL in self.part.extras:
            self.output.add(self.item, item)
        else:
            self._write_step("completed")
        self.output.done(self.item, item)

    def _write_step(self, step: str) -> None:
        self.output.event(f"response.web_search_call.{step}", {"item_id": self.id, "output_index": self.item})


# ── complete items ───────────────────────────────────────────────────────────────────────────────────────────────────


class ImageWriter(ItemWriter):
    """The writer of an image, which is written when it is complete."""

    @override
    def end(self, part: ir.Part) -> None:
        if not isinstance(part, ir.Media) or part.kind != "image":
            return
        source = self.media(part).source
        if not isinstance(source, ir.InlineData) or not source.data:
            return  # an image by URL: this protocol has no item for it
        index, found = self.output.allocate("ig_", part.id)
        item = image_item(found, part, source.data)
        self.output.add(index, {**item, "status": "in_progress", "result": None})
        self.output.done(index, item)


class PassthroughItem(ItemWriter):
    """The writer of an item that only this protocol has; it is passed through unchanged."""

    part: ir.Opaque

    @override
    def end(self, part: ir.Part) -> None:
        item = self.part.data
        index, _ = self.output.allocate("", item.get("id"))
        self.output.add(index, item)
        self.output.done(index, item)
