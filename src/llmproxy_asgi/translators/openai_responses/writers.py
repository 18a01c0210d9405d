"""Writers of the output items of a streamed response, one for each part.

Deltas are written from prefixes that are built once per part, because a stream consists almost only of deltas.
"""

from collections.abc import Callable, Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
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
    """The output items of one response and the sequence numbers of its events."""

    __slots__ = ("_answer", "_ids", "_items", "_unfinished", "sequence", "withheld")

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self._items: list[JSONObject] = []
        self._unfinished: dict[int, Callable[[str], JSONObject]] = {}
        self._ids: set[str] = set()
        self.sequence = 0
        """The next event's sequence number."""
        self.withheld: dict[str, list[ir.Seal]] = {}
        """Seals that no item contains, by the id of the item that they belong to."""

    def event(self, name: str, fields: JSONObject, out: list[bytes], *, numbered: bool = True) -> None:
        """Write one event; `numbered` replaces its sequence number by the next one."""
        found: JSONObject = {"type": name, **fields}
        if numbered:
            found["sequence_number"] = self.sequence
            self.sequence += 1
        out.append(b"event: %b\ndata: %b\n\n" % (name.encode(), _json(found)))

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

    def add(
        self, index: int, item: JSONObject, out: list[bytes], *, snapshot: Callable[[str], JSONObject] | None = None
    ) -> None:
        """Write the start of an item; `snapshot` encodes it with a status if the response breaks off."""
        self._items[index] = item
        if snapshot is not None:
            self._unfinished[index] = snapshot
        self.event("response.output_item.added", {"output_index": index, "item": item}, out)

    def done(self, index: int, item: JSONObject, out: list[bytes]) -> None:
        """Write the end of an item."""
        self._items[index] = item
        self._unfinished.pop(index, None)
        self.event("response.output_item.done", {"output_index": index, "item": item}, out)

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


class Writer:
    """The writer of one part."""

    __slots__ = ()

    def delta(self, delta: ir.Delta, out: list[bytes]) -> None:
        """Write a delta of the part."""

    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        """Write the end of the part; `part` is the upstream's final version of it."""


class NullWriter(Writer):
    """A writer of parts that this protocol has no item for; it writes nothing."""

    __slots__ = ()


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class MessageWriter:
    """The writer of a message item, which contains one or more texts."""

    __slots__ = ("_contents", "_open", "_source", "_status", "id", "index", "output", "phase")

    def __init__(self, output: OutputItems, part: ir.Text | ir.Refusal, out: list[bytes]) -> None:
        self.output = output
        self.phase = phase_of(part)
        self._source = part.id
        if part.seals:
            owner = output.upcoming_id("msg_", part.id, behind=len(part.seals))
            for seal in part.seals:
                _write_seal(output, seal, owner, out)
        self.index, self.id = output.allocate("msg_", part.id)
        self._contents: list[TextWriter] = []
        self._open = 0
        self._status: str | None = None
        output.add(self.index, self._item("in_progress"), out, snapshot=self._item)

    def accepts(self, part: ir.Text | ir.Refusal) -> bool:
        """Return whether a text belongs to this message."""
        return phase_of(part) == self.phase and (part.id is None or part.id == self._source)

    @property
    def has_content(self) -> bool:
        """Whether the message has a content part."""
        return bool(self._contents)

    def begin(self, writer: "TextWriter") -> int:
        """Add a content part and return its index."""
        self._contents.append(writer)
        self._open += 1
        return len(self._contents) - 1

    def expect(self) -> None:
        """Keep the message open for a part that may become a content; `end` follows in any case."""
        self._open += 1

    def end(self, out: list[bytes]) -> None:
        """End a content part, or a part that was expected to become one."""
        self._open -= 1
        self._finish(out)

    def seal(self, seals: Sequence[ir.Seal]) -> None:
        """Withhold seals of a text that arrive after the message started."""
        self.output.withhold(self.id, seals)

    def complete(self, status: str, out: list[bytes]) -> None:
        """Close the message with a status; the item is done when all of its content parts are."""
        self._status = status
        self._finish(out)

    def _finish(self, out: list[bytes]) -> None:
        if self._status is None or self._open:
            return
        self.output.done(self.index, self._item(self._status), out)

    def _item(self, status: str) -> JSONObject:
        return message_item(self.id, [writer.content() for writer in self._contents], status=status, phase=self.phase)


class TextWriter(Writer):
    """The writer of a text or a refusal, which is one content part of a message."""

    __slots__ = (
        "_annotations",
        "_length",
        "_location",
        "_logprobs",
        "_message",
        "_middle",
        "_output",
        "_pieces",
        "_prefix",
        "_text",
    )

    def __init__(self, message: MessageWriter, part: ir.Text | ir.Refusal, out: list[bytes]) -> None:
        self._message = message
        self._output = message.output
        self._text = isinstance(part, ir.Text)
        self._pieces: list[str] = []
        self._length = 0
        self._annotations: list[JSONObject] = []
        self._logprobs: list[msgspec.Raw] = []
        self._location: JSONObject = {
            "item_id": message.id,
            "output_index": message.index,
            "content_index": message.begin(self),
        }
        name = "response.output_text.delta" if self._text else "response.refusal.delta"
        self._prefix = self._output.prefix(name, self._location)
        self._middle = b',"logprobs":[],"sequence_number":' if self._text else b',"sequence_number":'
        self._output.event("response.content_part.added", {**self._location, "part": self.content()}, out)
        self.delta(ir.TextDelta(part.text), out)
        if isinstance(part, ir.Text):
            for citation in part.citations:
                self._add_citation(citation, out)

    @override
    def delta(self, delta: ir.Delta, out: list[bytes]) -> None:
        if type(delta) is ir.TextDelta or type(delta) is ir.RefusalDelta:
            text = delta.text
            if text:
                self._pieces.append(text)
                self._length += len(text)
                output = self._output
                out.append(b"%b%b%b%d}\n\n" % (self._prefix, _json(text), self._middle, output.sequence))
                output.sequence += 1
        elif type(delta) is ir.CitationDelta:
            self._add_citation(delta.citation, out)
        elif type(delta) is ir.LogprobsDelta and self._text:
            self._add_logprobs(delta.tokens, out)
        elif type(delta) is ir.SealDelta:
            self._message.seal((delta.seal,))

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        if isinstance(part, ir.Text | ir.Refusal) and not self._pieces:
            self.delta(ir.TextDelta(part.text), out)
        content = self.content()
        if self._text:
            fields: JSONObject = {"text": content["text"], "logprobs": self._logprobs}
            self._output.event("response.output_text.done", {**self._location, **fields}, out)
        else:
            self._output.event("response.refusal.done", {**self._location, "refusal": content["refusal"]}, out)
        self._output.event("response.content_part.done", {**self._location, "part": content}, out)
        self._message.end(out)

    def content(self) -> JSONObject:
        """Encode the content part so far."""
        text = "".join(self._pieces)
        if not self._text:
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": list(self._annotations),
            "logprobs": list(self._logprobs),
        }

    def _add_logprobs(self, tokens: Sequence[ir.TokenLogprob], out: list[bytes]) -> None:
        """Write the log probabilities of the previous delta's text with an empty delta."""
        entries = [encode_logprob(token) for token in tokens]
        self._logprobs += entries
        fields: JSONObject = {**self._location, "delta": "", "logprobs": entries}
        self._output.event("response.output_text.delta", fields, out)

    def _add_citation(self, citation: ir.Citation, out: list[bytes]) -> None:
        entry = annotation(citation, self._length)
        if entry is None or not self._text:
            return
        fields: JSONObject = {**self._location, "annotation_index": len(self._annotations), "annotation": entry}
        self._annotations.append(entry)
        self._output.event("response.output_text.annotation.added", fields, out)


class LateTextWriter(Writer):
    """The writer of a text that starts empty after another text of its message.

    It becomes a content part with its first delta: some upstreams send a text's seal in an empty text after it.
    """

    __slots__ = ("_message", "_part", "_writer")

    def __init__(self, message: MessageWriter, part: ir.Text) -> None:
        self._message = message
        self._part = part
        self._writer: TextWriter | None = None
        message.expect()  # a part that starts meanwhile must not complete the message

    @override
    def delta(self, delta: ir.Delta, out: list[bytes]) -> None:
        if type(delta) is ir.SealDelta:
            self._message.seal((delta.seal,))
            return
        if self._writer is None:
            self._writer = TextWriter(self._message, self._part, out)
        self._writer.delta(delta, out)

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        if self._writer is None and isinstance(part, ir.Text) and part.text:
            self._writer = TextWriter(self._message, self._part, out)
        if self._writer is not None:
            self._writer.end(part, out)
        self._message.end(out)


# ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ReasoningWriter(Writer):
    """The writer of reasoning: raw text as content, other text as one summary, and the seal at the end."""

    __slots__ = ("_as_content", "_id", "_index", "_location", "_output", "_pieces", "_prefix", "_seals")

    def __init__(self, output: OutputItems, part: ir.Reasoning, out: list[bytes]) -> None:
        self._output = output
        self._as_content = part.raw
        self._seals = list(part.seals)
        native = part.id or next((seal.item_id for seal in part.seals if seal.item_id), None)
        self._index, self._id = output.allocate("rs_", native)
        self._pieces: list[str] = []
        self._prefix = b""
        numbered = "content_index" if self._as_content else "summary_index"
        self._location: JSONObject = {"item_id": self._id, "output_index": self._index, numbered: 0}
        output.add(self._index, self._item("in_progress"), out, snapshot=self._item)
        self._write_text(part.text, out)

    @override
    def delta(self, delta: ir.Delta, out: list[bytes]) -> None:
        if type(delta) is ir.ReasoningDelta:
            self._write_text(delta.text, out)
        elif type(delta) is ir.SealDelta:
            self._seals.append(delta.seal)

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        seals = self._seals
        if isinstance(part, ir.Reasoning):
            seals = list(part.seals) or seals
            if not self._pieces:
                self._write_text(part.text, out)
        if self._pieces:
            text = "".join(self._pieces)
            name = "response.reasoning_text.done" if self._as_content else "response.reasoning_summary_text.done"
            self._output.event(name, {**self._location, "text": text}, out)
            self._part("done", text, out)
        self._output.done(self._index, self._item("completed", seals[0] if seals else None), out)
        for seal in seals[1:]:
            _write_seal(self._output, seal, None, out)

    def _write_text(self, text: str, out: list[bytes]) -> None:
        if not text:
            return
        if not self._pieces:
            self._part("added", "", out)
            name = "response.reasoning_text.delta" if self._as_content else "response.reasoning_summary_text.delta"
            self._prefix = self._output.prefix(name, self._location)
        self._pieces.append(text)
        out.append(b'%b%b,"sequence_number":%d}\n\n' % (self._prefix, _json(text), self._output.sequence))
        self._output.sequence += 1

    def _part(self, what: str, text: str, out: list[bytes]) -> None:
        if self._as_content:
            name, kind = f"response.content_part.{what}", "reasoning_text"
        else:
            name, kind = f"response.reasoning_summary_part.{what}", "summary_text"
        self._output.event(name, {**self._location, "part": {"type": kind, "text": text}}, out)

    def _item(self, status: str, seal: ir.Seal | None = None) -> JSONObject:
        text = "".join(self._pieces)
        return reasoning_item(self._id, text, seal, as_content=self._as_content, status=status)


def _write_seal(output: OutputItems, seal: ir.Seal, owner: str | None, out: list[bytes]) -> None:
    """Write a seal as a separate reasoning item that contains the id of its owner."""
    if owner is not None and seal.item_id is None:
        seal = msgspec.structs.replace(seal, item_id=owner)
    index, found = output.allocate("rs_")
    bare = reasoning_item(found, "", None, as_content=False, status="in_progress")
    output.add(index, bare, out)
    output.done(index, reasoning_item(found, "", seal, as_content=False, status="completed"), out)


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class ToolCallWriter(Writer):
    """The writer of a call to one of the caller's tools."""

    __slots__ = (
        "_custom",
        "_ended",
        "_header",
        "_id",
        "_index",
        "_location",
        "_namespace",
        "_output",
        "_pieces",
        "_prefix",
        "_status",
    )

    def __init__(self, output: OutputItems, part: ir.ToolCall, namespace: str | None, out: list[bytes]) -> None:
        for seal in part.seals:
            _write_seal(output, seal, part.call_id, out)
        self._output = output
        self._custom = part.kind == "custom"
        self._namespace = namespace
        self._header = msgspec.structs.replace(part, arguments="")
        self._index, self._id = output.allocate("ctc_" if self._custom else "fc_", part.id)
        self._location: JSONObject = {"item_id": self._id, "output_index": self._index}
        stem = "response.custom_tool_call_input" if self._custom else "response.function_call_arguments"
        self._prefix = output.prefix(f"{stem}.delta", self._location)
        self._pieces: list[str] = []
        self._ended = False
        self._status: str | None = None
        output.add(self._index, self._item("in_progress"), out, snapshot=self._item)
        self._write_arguments(part.arguments, out)

    @override
    def delta(self, delta: ir.Delta, out: list[bytes]) -> None:
        if type(delta) is ir.ArgumentsDelta:
            self._write_arguments(delta.text, out)
        # Late seals are stored under the call's id, as those of all calls are.

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        if not self._pieces and isinstance(part, ir.ToolCall):
            self._write_arguments(part.arguments, out)
        if not self._pieces and not self._custom:
            self._write_arguments("{}", out)
        self._ended = True
        self._finish(out)

    def complete(self, status: str, out: list[bytes]) -> None:
        """Close the call with a status; the item is done when its part has ended."""
        self._status = status
        self._finish(out)

    def _finish(self, out: list[bytes]) -> None:
        if self._status is None or not self._ended:
            return
        arguments = "".join(self._pieces)
        if self._custom:
            self._output.event("response.custom_tool_call_input.done", {**self._location, "input": arguments}, out)
        else:
            fields: JSONObject = {"name": self._header.name, "arguments": arguments}
            self._output.event("response.function_call_arguments.done", {**self._location, **fields}, out)
        self._output.done(self._index, self._item(self._status), out)

    def _write_arguments(self, text: str, out: list[bytes]) -> None:
        if text:
            self._pieces.append(text)
            out.append(b'%b%b,"sequence_number":%d}\n\n' % (self._prefix, _json(text), self._output.sequence))
            self._output.sequence += 1

    def _item(self, status: str) -> JSONObject:
        call = msgspec.structs.replace(self._header, arguments="".join(self._pieces))
        return call_item(self._id, call, namespace=self._namespace, status=status)


class WebSearchWriter(Writer):
    """The writer of a web search that the upstream runs; its end contains the query."""

    __slots__ = ("_has_item", "_header", "_id", "_index", "_output", "_pieces")

    def __init__(self, output: OutputItems, part: ir.ServerToolCall, out: list[bytes]) -> None:
        self._output = output
        self._header = part
        self._pieces = [part.arguments] if part.arguments else []
        self._has_item = search_item("", part, status="in_progress") is not None
        self._index, self._id = -1, ""
        if not self._has_item:
            return
        native = part.extras.get(PROTOCOL)
        if native:
            self._index, self._id = output.allocate("", native.get("id") or part.call_id)
            return
        self._index, self._id = output.allocate("ws_", part.call_id)
        output.add(self._index, search_item(self._id, part, status="in_progress") or {}, out)
        for step in ("in_progress", "searching"):
            self._write_step(step, out)

    @override
    def delta(self, delta: ir.Delta, out: list[bytes]) -> None:
        if type(delta) is ir.ArgumentsDelta:
            self._pieces.append(delta.text)

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        if not self._has_item:
            return
        call = part if isinstance(part, ir.ServerToolCall) else self._header
        if not call.arguments and self._pieces:
            call = msgspec.structs.replace(call, arguments="".join(self._pieces))
        item = search_item(self._id, call, status="completed") or {}
        if PROTOCOL in self._header.extras:
            self._output.add(self._index, item, out)
        else:
            self._write_step("completed", out)
        self._output.done(self._index, item, out)

    def _write_step(self, step: str, out: list[bytes]) -> None:
        self._output.event(f"response.web_search_call.{step}", {"item_id": self._id, "output_index": self._index}, out)


# ── complete items ───────────────────────────────────────────────────────────────────────────────────────────────────


class ImageWriter(Writer):
    """The writer of an image, which is written when it is complete."""

    __slots__ = ("_header", "_output", "_pieces")

    def __init__(self, output: OutputItems, part: ir.Media) -> None:
        self._output = output
        self._header = part
        self._pieces: list[str] = []

    @override
    def delta(self, delta: ir.Delta, out: list[bytes]) -> None:
        if type(delta) is ir.MediaDelta:
            self._pieces.append(delta.data)

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        media = part if isinstance(part, ir.Media) else self._header
        data = media.source.data if isinstance(media.source, ir.InlineData) else ""
        data = data or "".join(self._pieces)
        if media.kind != "image" or not data:
            return  # audio, or an image by URL: this protocol has no item for it
        index, found = self._output.allocate("ig_", media.id)
        item = image_item(found, media, data)
        self._output.add(index, {**item, "status": "in_progress", "result": None}, out)
        self._output.done(index, item, out)


class PassthroughItem(Writer):
    """The writer of an item that only this protocol has; it is passed through unchanged."""

    __slots__ = ("_item", "_output")

    def __init__(self, output: OutputItems, item: JSONObject) -> None:
        self._output = output
        self._item = item

    @override
    def end(self, part: ir.Part | None, out: list[bytes]) -> None:
        index, _ = self._output.allocate("", self._item.get("id"))
        self._output.add(index, self._item, out)
        self._output.done(index, self._item, out)
