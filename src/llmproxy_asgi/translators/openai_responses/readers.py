"""Readers of the output items of an upstream's stream, one for each item.

Servers restate each item when it is done, and some restate content that they never streamed, or more than they
streamed. So each reader tracks the streamed content and emits the rest at the end. Parts start in the order of their
items: an item without content starts when the next one is added.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.openai.logprobs import decode_entries
from llmproxy_asgi.translators.openai_responses.mappings import BETWEEN_SUMMARIES, PROTOCOL
from llmproxy_asgi.translators.openai_responses.response_decoder import (
    CALLS,
    ItemDecoder,
    decode_annotation,
    entries_of,
    reasoning_extras,
    reasoning_of,
    reasoning_text,
    text_of,
)
from llmproxy_asgi.translators.openai_responses.schema import DeltaEvent, Event
from llmproxy_asgi.translators.restated_text import unstreamed_suffix


class BrokenStream(Exception):
    """An event that is invalid after the previous ones."""


def _checked(delta: Any) -> str:
    if type(delta) is str:
        return delta
    if delta is None:
        return ""
    raise BrokenStream("The upstream sent a piece of text that is none.")


_MESSAGE_CONTENTS = frozenset({"output_text", "refusal"})
"""The types of a message's content parts."""
_REDUNDANT = frozenset(
    {
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done",
        "keepalive",
    }
)
"""Events whose content other events repeat."""


class OutputReader:
    """The reader of one response's output items; it numbers parts as they start.

    Events that are invalid after the previous ones raise `BrokenStream`.
    """

    def __init__(self, items: ItemDecoder) -> None:
        self.items = items
        self.call_ids = DistinctIds(items.nonce)
        self.parts = 0
        self.called = False
        self.refused = False
        self._open: dict[int, _OpenItem] = {}
        self._indexes: dict[str, int] = {}
        self._last = 0
        self._seen: list[_OpenItem] = []
        self._texts: dict[tuple[int, int | None], _TextReader] = {}

    def part(self) -> int:
        """Return the index of a new part."""
        self.parts += 1
        return self.parts - 1

    def feed(self, kind: str, event: Event, events: list[ir.StreamEvent]) -> bool:
        """Handle an event; return False for unknown ones."""
        handler = DELTA_HANDLERS.get(kind)
        if handler is not None:
            handler(self, event, events)
        elif kind == "response.output_item.added":
            self._add(event, events)
        elif kind == "response.output_item.done":
            self._done(event, events)
        else:
            handle = self._HANDLERS.get(kind)
            if handle is not None:
                handle(self, event, events)
            return handle is not None or kind in _REDUNDANT
        return True

    def handle_text(self, event: Event | DeltaEvent, events: list[ir.StreamEvent]) -> None:
        """Handle a delta of a text."""
        at = event.output_index
        index = (self._index_of(event) if at is None else at, event.content_index)
        text_reader = self._texts.get(index)
        if text_reader is None:
            text_reader = self._texts[index] = self._message(event).text(event, events, refusal=False)
        if event.delta:
            text_reader.add_text(event.delta, events)
        if event.logprobs:
            text_reader.add_logprobs(event.logprobs, events)

    def handle_arguments(self, event: Event | DeltaEvent, events: list[ir.StreamEvent]) -> None:
        """Handle a delta of a call's arguments."""
        text = event.delta if type(event.delta) is str else _checked(event.delta)
        self._call(event).add_arguments(text, events)

    def handle_summary(self, event: Event | DeltaEvent, events: list[ir.StreamEvent]) -> None:
        """Handle a delta of a reasoning summary."""
        text = event.delta if type(event.delta) is str else _checked(event.delta)
        self._reasoning(event).add_text(text, event.summary_index or 0, events, plain=False)

    def handle_reasoning(self, event: Event | DeltaEvent, events: list[ir.StreamEvent]) -> None:
        """Handle a delta of raw reasoning."""
        text = event.delta if type(event.delta) is str else _checked(event.delta)
        self._reasoning(event).add_text(text, 0, events, plain=True)

    def finish(self, output: Sequence[Any], events: list[ir.StreamEvent]) -> None:
        """End open items and read items that were never streamed."""
        items = [item for item in output if type(item) is dict]
        restated, unseen = _matched(self._seen, items)
        for opened in list(self._open.values()):
            opened.end(restated.get(id(opened), {}), events)
        self._open.clear()
        for item in unseen:
            self._open_item(item, events).end(item, events)

    # ── indexes ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _index_of(self, event: Event | DeltaEvent) -> int:
        """Return the index of an event's item; without one, look it up by id or use the last item's."""
        if event.output_index is not None:
            return event.output_index
        return self._indexes.get(event.item_id or "", self._last)

    def _add(self, event: Event, events: list[ir.StreamEvent]) -> None:
        item = event.item
        if type(item) is not dict:
            return
        index = event.output_index
        if index is None:
            index = self._last + 1 if self._seen else 0
        before = self._open.get(index)
        if before is not None:  # servers with one index for all items: the previous item has ended
            before.end({}, events)
            self._forget(index)
        for other, earlier in self._open.items():
            if other < index:
                earlier.begin(events)
        self._open[index] = self._open_item(item, events)
        self._last = index
        if text_of(item, "id"):
            self._indexes[item["id"]] = index

    def _done(self, event: Event, events: list[ir.StreamEvent]) -> None:
        item = event.item if type(event.item) is dict else {}
        index = event.output_index
        if index is None:
            index = self._indexes.get(text_of(item, "id"), self._last)
        opened = self._open.pop(index, None)
        if opened is None:
            if not item or self._is_over(item):
                return
            opened = self._open_item(item, events)
        self._forget(index)
        opened.end(item, events)

    def _forget(self, index: int) -> None:
        for key in [key for key in self._texts if key[0] == index]:
            del self._texts[key]

    def _is_over(self, item: JSONObject) -> bool:
        """Return whether an item was done before; some servers repeat the event."""
        known = text_of(item, "id")
        return bool(known) and any(seen.id == known for seen in self._seen)

    def _open_item(self, item: JSONObject, events: list[ir.StreamEvent]) -> "_OpenItem":
        reader: _OpenItem
        match item.get("type"):
            case "message":
                reader = _MessageReader(self, item)
            case "reasoning":
                reader = _ReasoningReader(self, item)
            case str(kind) if kind in CALLS:
                reader = _ToolCallReader(self, item, events)
            case _:
                reader = _OpenItem(self, item)
        self._seen.append(reader)
        return reader

    def _message(self, event: Event | DeltaEvent) -> "_MessageReader":
        index = self._index_of(event)
        found = self._open.get(index)
        if isinstance(found, _MessageReader):
            return found
        if found is not None:
            raise BrokenStream("The upstream put a text where there is none.")
        reader = self._open[index] = _MessageReader(self, {"type": "message", "id": event.item_id})
        self._seen.append(reader)
        self._last = index
        return reader

    def _reasoning(self, event: Event | DeltaEvent) -> "_ReasoningReader":
        index = self._index_of(event)
        found = self._open.get(index)
        if isinstance(found, _ReasoningReader):
            return found
        if found is not None:
            raise BrokenStream("The upstream put reasoning where there is none.")
        reader = self._open[index] = _ReasoningReader(self, {"type": "reasoning", "id": event.item_id})
        self._seen.append(reader)
        self._last = index
        return reader

    # ── item content ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _restate_call(self, event: Event, events: list[ir.StreamEvent]) -> None:
        self._call(event).restate(event.arguments or event.input, events)

    def _restate_summary(self, event: Event, events: list[ir.StreamEvent]) -> None:
        self._reasoning(event).restate(event.text or "", event.summary_index or 0, events, plain=False)

    def _restate_reasoning(self, event: Event, events: list[ir.StreamEvent]) -> None:
        self._reasoning(event).restate(event.text or "", 0, events, plain=True)

    def _refuse(self, event: Event, events: list[ir.StreamEvent]) -> None:
        if event.delta:
            self._message(event).text(event, events, refusal=True).add_text(event.delta, events)

    def _add_citation(self, event: Event, events: list[ir.StreamEvent]) -> None:
        self._message(event).text(event, events, refusal=False).add_citation(event.annotation, events)

    def _restate_text(self, event: Event, events: list[ir.StreamEvent]) -> None:
        restated: JSONObject = {"text": event.text, "logprobs": event.logprobs}
        self._message(event).text(event, events, refusal=False).restate(restated, events)

    def _restate_refusal(self, event: Event, events: list[ir.StreamEvent]) -> None:
        self._message(event).text(event, events, refusal=True).restate({"refusal": event.refusal}, events)

    def _begin_content(self, event: Event, events: list[ir.StreamEvent]) -> None:
        part = event.part if type(event.part) is dict else {}
        if text_of(part, "type") in _MESSAGE_CONTENTS:
            text_reader = self._message(event).text(event, events, refusal=part["type"] == "refusal")
            text_reader.restate(part, events)

    def _end_content(self, event: Event, events: list[ir.StreamEvent]) -> None:
        part = event.part if type(event.part) is dict else {}
        if text_of(part, "type") in _MESSAGE_CONTENTS:
            text_reader = self._message(event).text(event, events, refusal=part["type"] == "refusal")
            text_reader.restate(part, events)
            text_reader.end(events)

    def _call(self, event: Event | DeltaEvent) -> "_ToolCallReader":
        found = self._open.get(self._index_of(event))
        if not isinstance(found, _ToolCallReader):
            raise BrokenStream("The upstream continued a call that is not open.")
        return found

    _HANDLERS: ClassVar[Mapping[str, Callable[["OutputReader", Event, list[ir.StreamEvent]], None]]] = {
        "response.function_call_arguments.done": _restate_call,
        "response.custom_tool_call_input.done": _restate_call,
        "response.reasoning_summary_text.done": _restate_summary,
        "response.reasoning_text.done": _restate_reasoning,
        "response.content_part.added": _begin_content,
        "response.content_part.done": _end_content,
        "response.output_text.done": _restate_text,
        "response.output_text.annotation.added": _add_citation,
        "response.refusal.delta": _refuse,
        "response.refusal.done": _restate_refusal,
    }
    """The handlers of events with item content."""


def _matched(
    seen: Sequence["_OpenItem"], items: Sequence[JSONObject]
) -> tuple[Mapping[int, JSONObject], Sequence[JSONObject]]:
    """Match restated items to streamed ones (by `id()`); return the matches and the items that were never streamed.

    Items match by their id, then by their call id. Some servers restate items with other ids, so an unknown item
    matches the next unmatched item of its type.
    """
    left = list(seen)
    restated: dict[int, JSONObject] = {}
    unknown: list[JSONObject] = []
    for item in items:
        own, call = text_of(item, "id"), text_of(item, "call_id")
        known = next((each for each in left if (own and each.id == own) or (call and each.call_id == call)), None)
        if known is None:
            unknown.append(item)
        else:
            left.remove(known)
            restated[id(known)] = item
    unseen: list[JSONObject] = []
    for item in unknown:
        known = next((each for each in left if each.kind == text_of(item, "type")), None)
        if known is None:
            unseen.append(item)
        else:
            left.remove(known)
            restated[id(known)] = item
    return restated, unseen


DeltaHandler = Callable[[OutputReader, Event | DeltaEvent, list[ir.StreamEvent]], None]
DELTA_HANDLERS: Mapping[str, DeltaHandler] = {
    "response.output_text.delta": OutputReader.handle_text,
    "response.function_call_arguments.delta": OutputReader.handle_arguments,
    "response.custom_tool_call_input.delta": OutputReader.handle_arguments,
    "response.reasoning_summary_text.delta": OutputReader.handle_summary,
    "response.reasoning_text.delta": OutputReader.handle_reasoning,
}
"""The handlers of delta events, which are frequent."""


class _OpenItem:
    """The reader of an open item; this base class reads the item when it is done."""

    __slots__ = ("_item", "_reader")

    def __init__(self, reader: OutputReader, item: JSONObject) -> None:
        self._reader = reader
        self._item = item

    @property
    def id(self) -> str:
        """The item's id, or an empty string."""
        return text_of(self._item, "id")

    @property
    def kind(self) -> str:
        """The item's type."""
        return text_of(self._item, "type")

    @property
    def call_id(self) -> str:
        """The call id of an item that is a call, or an empty string."""
        return text_of(self._item, "call_id")

    def begin(self, events: list[ir.StreamEvent]) -> None:
        """Start the item's part if it can start empty, so that the parts of later items follow it."""

    def end(self, item: JSONObject, events: list[ir.StreamEvent]) -> None:
        """End the item; `item` is the upstream's final version of it, which may be empty."""
        for part in self._reader.items.parts(item or self._item):
            index = self._reader.part()
            if isinstance(part, ir.ServerToolCall):
                events.append(ir.PartStarted(0, index, msgspec.structs.replace(part, arguments="")))
                events.append(ir.PartDelta(0, index, ir.ArgumentsDelta(part.arguments)))
            else:
                events.append(ir.PartStarted(0, index, part))
            events.append(ir.PartEnded(0, index, part))


class _TextReader:
    """The reader of a text or a refusal, which is one content part of a message."""

    __slots__ = ("_cited", "_ended", "_has_logprobs", "_last", "_length", "_reader", "_refusal", "index")

    def __init__(self, reader: OutputReader, part: ir.Text | ir.Refusal, events: list[ir.StreamEvent]) -> None:
        self._reader = reader
        self._refusal = isinstance(part, ir.Refusal)
        self.index = reader.part()
        self._length = 0
        self._last = ""
        self._cited = 0
        self._has_logprobs = False
        self._ended = False
        events.append(ir.PartStarted(0, self.index, part))

    def add_text(self, text: Any, events: list[ir.StreamEvent]) -> None:
        """Add a delta of the text."""
        if self._ended:
            raise BrokenStream("The upstream continued a text that had ended.")
        text_reader = text if type(text) is str else _checked(text)
        self._length += len(text_reader)
        self._last = text_reader
        events.append(
            ir.PartDelta(0, self.index, ir.RefusalDelta(text_reader) if self._refusal else ir.TextDelta(text_reader))
        )

    def add_logprobs(self, found: Any, events: list[ir.StreamEvent]) -> None:
        """Add log probabilities of tokens."""
        tokens = decode_entries(found)
        if tokens and not self._ended:
            self._has_logprobs = True
            events.append(ir.PartDelta(0, self.index, ir.LogprobsDelta(tokens)))

    def add_citation(self, found: Any, events: list[ir.StreamEvent]) -> None:
        """Add an annotation."""
        citation = decode_annotation(found)
        self._cited += 1
        if citation is not None and not self._refusal and not self._ended:
            events.append(ir.PartDelta(0, self.index, ir.CitationDelta(citation)))

    def restate(self, content: JSONObject, events: list[ir.StreamEvent]) -> None:
        """Emit the parts of a restated content part that were not streamed."""
        text = text_of(content, "refusal" if self._refusal else "text")
        if self._ended:
            return
        if rest := unstreamed_suffix(text, self._length, self._last):
            self.add_text(rest, events)
        for entry in entries_of(content, "annotations")[self._cited :]:
            self.add_citation(entry, events)
        if not self._has_logprobs and content.get("logprobs"):
            self.add_logprobs(content["logprobs"], events)

    def end(self, events: list[ir.StreamEvent]) -> None:
        """End the content part."""
        if not self._ended:
            self._ended = True
            events.append(ir.PartEnded(0, self.index))


class _MessageReader(_OpenItem):
    """The reader of a message item."""

    __slots__ = ("_contents",)

    def __init__(self, reader: OutputReader, item: JSONObject) -> None:
        super().__init__(reader, item)
        self._contents: dict[int, _TextReader] = {}

    def text(self, event: Event | DeltaEvent, events: list[ir.StreamEvent], *, refusal: bool) -> _TextReader:
        """Return the reader of an event's content part; start the part with its first event."""
        return self._content(event.content_index or 0, events, refusal=refusal)

    @override
    def begin(self, events: list[ir.StreamEvent]) -> None:
        if not self._contents:
            self._content(0, events, refusal=False)

    def _content(self, index: int, events: list[ir.StreamEvent], *, refusal: bool) -> _TextReader:
        found = self._contents.get(index)
        if found is None:
            item = self._item
            phase = text_of(item, "phase")
            extras: ir.Extras = {PROTOCOL: {"phase": phase}} if phase else ir.EMPTY
            known = text_of(item, "id") or None
            part: ir.Text | ir.Refusal = ir.Text(text="", id=known, extras=extras)
            if refusal:
                part = ir.Refusal(text="", id=known, extras=extras)
                self._reader.refused = True
            found = self._contents[index] = _TextReader(self._reader, part, events)
        return found

    @override
    def end(self, item: JSONObject, events: list[ir.StreamEvent]) -> None:
        self._item = {**item, **self._item}
        for index, content in enumerate(entries_of(item, "content")):
            kind = text_of(content, "type")
            if kind in _MESSAGE_CONTENTS:
                text_reader = self._content(index, events, refusal=kind == "refusal")
                text_reader.restate(content, events)
                text_reader.end(events)
        for text_reader in self._contents.values():
            text_reader.end(events)


class _ReasoningReader(_OpenItem):
    """The reader of a reasoning item; its part starts with the first text or at its end, when its kind is known."""

    __slots__ = ("_begin", "_index", "_pieces", "_plain", "_summary")

    def __init__(self, reader: OutputReader, item: JSONObject) -> None:
        super().__init__(reader, item)
        self._index = -1
        self._pieces: list[str] = []
        self._plain = bool(entries_of(item, "content"))
        self._summary = 0
        self._begin = 0  # index in `_pieces` of the last summary part

    @override
    def begin(self, events: list[ir.StreamEvent]) -> None:
        if self._index < 0:
            self._start(events)

    def restate(self, text: str, summary: int, events: list[ir.StreamEvent], *, plain: bool) -> None:
        """Emit the parts of a restated text that were not streamed."""
        if self._pieces and summary == self._summary:
            streamed = "".join(self._pieces[self._begin :]).removeprefix(BETWEEN_SUMMARIES)
            text = unstreamed_suffix(text, len(streamed), streamed)
        elif summary < self._summary:
            return
        self.add_text(text, summary, events, plain=plain)

    def add_text(self, text: str, summary: int, events: list[ir.StreamEvent], *, plain: bool) -> None:
        """Add a delta of the reasoning; separate the parts of a summary."""
        if not text or (self._pieces and plain is not self._plain):
            return  # both raw text and a summary: the first one wins
        if not self._pieces:
            self._plain = plain
        if self._index < 0:
            self._start(events)
        elif summary != self._summary and self._pieces:
            text = BETWEEN_SUMMARIES + text
            self._begin = len(self._pieces)
        self._summary = summary
        self._pieces.append(text)
        events.append(ir.PartDelta(0, self._index, ir.ReasoningDelta(text)))

    def _start(self, events: list[ir.StreamEvent]) -> None:
        self._index = self._reader.part()
        header = ir.Reasoning(
            style="full" if self._plain else "summary",
            raw=self._plain,
            id=text_of(self._item, "id") or None,
            extras=reasoning_extras({}, plain=self._plain),
        )
        events.append(ir.PartStarted(0, self._index, header))

    @override
    def end(self, item: JSONObject, events: list[ir.StreamEvent]) -> None:
        whole = {**self._item, **item}
        text, plain = reasoning_text(whole)
        streamed = "".join(self._pieces)
        if not streamed:
            self.add_text(text, self._summary, events, plain=plain)
        elif plain is self._plain:
            self.add_text(unstreamed_suffix(text, len(streamed), streamed), self._summary, events, plain=plain)
        # Only a done item has its complete state; the one in `added` may be truncated.
        seals = self._reader.items.seals(item)
        if self._index < 0:
            if not seals:
                return
            self._start(events)
        events.extend(ir.PartDelta(0, self._index, ir.SealDelta(seal)) for seal in seals)
        part = reasoning_of(whole, "".join(self._pieces), plain=self._plain, seals=seals)
        events.append(ir.PartEnded(0, self._index, part))


class _ToolCallReader(_OpenItem):
    """The reader of a call; it starts when its name is known, for an emulated tool when it is complete."""

    __slots__ = ("_begun", "_emulated", "_index", "_pieces", "_restated")

    def __init__(self, reader: OutputReader, item: JSONObject, events: list[ir.StreamEvent]) -> None:
        super().__init__(reader, item)
        self._begun: ir.ToolCall
        self._index = -1
        self._pieces: list[str] = []
        self._restated = ""
        self._emulated = reader.items.is_emulated(item)
        self._start(item, events)

    def add_arguments(self, text: str, events: list[ir.StreamEvent]) -> None:
        """Add a delta of the arguments."""
        if not text:
            return
        self._pieces.append(text)
        if self._index >= 0 and not self._emulated:
            events.append(ir.PartDelta(0, self._index, ir.ArgumentsDelta(text)))

    def restate(self, arguments: str | None, events: list[ir.StreamEvent]) -> None:
        """Emit the parts of the complete arguments that were not streamed."""
        if not arguments:
            return
        self._restated = arguments
        if self._pieces:
            streamed = "".join(self._pieces)
            self.add_arguments(unstreamed_suffix(arguments, len(streamed), streamed), events)

    def _start(self, item: JSONObject, events: list[ir.StreamEvent], *, late: bool = False) -> None:
        """Start the call when its name and id are known; `late` accepts a missing id."""
        part = self._reader.items.call(item)
        if part is None or self._index >= 0 or not (part.call_id or late):
            return
        self._index = self._reader.part()
        call_id = self._reader.call_ids.of(part.call_id, part.name, str(self._index))
        self._begun = part = msgspec.structs.replace(part, call_id=call_id)
        self._reader.called = True
        events.append(ir.PartStarted(0, self._index, part))

    @override
    def end(self, item: JSONObject, events: list[ir.StreamEvent]) -> None:
        items = self._reader.items
        late = self._index < 0
        whole = {**item, **{key: value for key, value in self._item.items() if value}}
        if late:
            self._start(whole, events, late=True)
            if self._index < 0:
                return  # a call without a name is unusable
        self.restate(text_of(item, "input" if item.get("type") == "custom_tool_call" else "arguments"), events)
        streamed = "".join(self._pieces)
        arguments = items.arguments({**whole, "arguments": item.get("arguments")}, streamed or self._restated)
        if arguments and (not streamed or late or items.is_emulated(whole)):
            events.append(ir.PartDelta(0, self._index, ir.ArgumentsDelta(arguments)))
        part = items.call(whole, arguments) or msgspec.structs.replace(self._begun, arguments=arguments)
        # The name and the id of the start remain, even if the end has others.
        part = msgspec.structs.replace(part, call_id=self._begun.call_id, name=self._begun.name)
        events.append(ir.PartEnded(0, self._index, part))
