"""Readers of the output items of an upstream's stream, one for each item.

Servers restate each item when it is done, and some restate content that they never streamed, or more than they
streamed. So the rest of each text is emitted when it is restated. Parts start in the order of their items: an item
without content starts when the next one is added.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, ClassVar

from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.codec.events import CandidateBuilder, KeptBuilder, TextBuilder
from llmproxy_asgi.translators.openai.logprobs import decode_entries
from llmproxy_asgi.translators.openai_responses.mappings import BETWEEN_SUMMARIES, PROTOCOL
from llmproxy_asgi.translators.openai_responses.response_decoder import (
    CALLS,
    call_fields,
    decode_annotation,
    decode_item,
    decode_seal,
    entries_of,
    reasoning_extras,
    reasoning_of,
    reasoning_text,
    text_of,
)
from llmproxy_asgi.translators.openai_responses.schema import DeltaEvent, Event
from llmproxy_asgi.translators.restated_text import unstreamed_suffix

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


def _checked(delta: Any) -> str:
    if type(delta) is str:
        return delta
    if delta is None:
        return ""
    raise UpstreamProtocolError("The upstream sent a delta that is no text.")


class OutputReader:
    """The reader of one response's output items.

    Args:
        output: The builder of the parts.
        upstream: The upstream that answers.
    """

    def __init__(self, output: CandidateBuilder, upstream: Upstream) -> None:
        self.output = output
        self.upstream = upstream
        self._open: dict[int, _Item] = {}
        self._indexes: dict[str, int] = {}
        self._last = 0
        self._seen: list[_Item] = []
        self._ids: set[str] = set()
        """The ids of all items so far."""
        self._unstarted: list[int] = []
        """A heap of the indexes of items whose parts may not have started."""
        self._text: TextBuilder | None = None
        """The text of the last delta, and its indexes."""
        self._output_index: int | None = None
        self._content_index: int | None = None

    def feed(self, kind: str, event: Event) -> bool:
        """Handle an event; return False for unknown ones.

        Raises:
            UpstreamProtocolError: The event is invalid after the previous ones.
        """
        handle = DELTA_HANDLERS.get(kind) or self._HANDLERS.get(kind)
        if handle is not None:
            handle(self, event)
        return handle is not None or kind in _REDUNDANT

    def handle_text(self, event: Event | DeltaEvent) -> None:
        """Handle a delta of a text."""
        text = self._text
        if text is None or event.output_index != self._output_index or event.content_index != self._content_index:
            text = self._content(event)
            if event.output_index is not None:
                self._text = text
                self._output_index, self._content_index = event.output_index, event.content_index
        delta = event.delta
        if delta:
            text.append(delta if type(delta) is str else _checked(delta))
        if event.logprobs:
            text.logprobs(decode_entries(event.logprobs))

    def handle_arguments(self, event: Event | DeltaEvent) -> None:
        """Handle a delta of a call's arguments."""
        found = self._open.get(self._index_of(event) if event.output_index is None else event.output_index)
        if not isinstance(found, _CallItem):
            found = self._call(event)
        delta = event.delta if type(event.delta) is str else _checked(event.delta)
        if delta:
            found.call.append(delta)

    def handle_summary(self, event: Event | DeltaEvent) -> None:
        """Handle a delta of a reasoning summary."""
        found = self._open.get(self._index_of(event) if event.output_index is None else event.output_index)
        if not isinstance(found, _ReasoningItem):
            found = self._reasoning(event)
        delta = event.delta if type(event.delta) is str else _checked(event.delta)
        found.add(delta, event.summary_index or 0, plain=False)

    def handle_reasoning(self, event: Event | DeltaEvent) -> None:
        """Handle a delta of raw reasoning."""
        self._reasoning(event).add(_checked(event.delta), 0, plain=True)

    def finish(self, output: Sequence[Any]) -> None:
        """End open items and read items that were never streamed."""
        items = [item for item in output if type(item) is dict]
        restated, unseen = _matched(self._seen, items)
        for opened in list(self._open.values()):
            opened.end(restated.get(opened, {}))
        self._open.clear()
        for item in unseen:
            self._open_item(item).end(item)

    # ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _index_of(self, event: Event | DeltaEvent) -> int:
        """Return the index of an event's item; without one, look it up by id or use the last item's."""
        if event.output_index is not None:
            return event.output_index
        return self._indexes.get(event.item_id or "", self._last)

    def _add(self, event: Event) -> None:
        item = event.item
        if type(item) is not dict:
            return
        index = event.output_index
        if index is None:
            index = self._last + 1 if self._seen else 0
        before = self._open.get(index)
        if before is not None:  # servers with one index for all items: the previous item has ended
            before.end({})
            self._text = None
        while self._unstarted and self._unstarted[0] < index:
            earlier = self._open.get(heappop(self._unstarted))
            if earlier is not None:
                earlier.begin()
        heappush(self._unstarted, index)
        self._open[index] = self._open_item(item)
        self._last = index
        if text_of(item, "id"):
            self._indexes[item["id"]] = index

    def _done(self, event: Event) -> None:
        item = event.item if type(event.item) is dict else {}
        index = event.output_index
        if index is None:
            index = self._indexes.get(text_of(item, "id"), self._last)
        opened = self._open.pop(index, None)
        if opened is None:
            if not item or self._is_over(item):
                return
            opened = self._open_item(item)
        if known := text_of(item, "id"):
            self._ids.add(known)
        self._text = None
        opened.end(item)

    def _is_over(self, item: JSONObject) -> bool:
        """Return whether an item was done before; some servers repeat the event."""
        return text_of(item, "id") in self._ids

    def _open_item(self, item: JSONObject) -> "_Item":
        if len(self._seen) == ir.MOST_PARTS:
            raise UpstreamProtocolError(f"The upstream's answer has more than {ir.MOST_PARTS} items.")
        kind = text_of(item, "type")
        if known := text_of(item, "id"):
            self._ids.add(known)
        opened = (_CallItem if kind in CALLS else _ITEMS.get(kind, _Item))(self, item)
        self._seen.append(opened)
        return opened

    def _item_of(self, event: Event | DeltaEvent, kind: str) -> "_Item":
        """Return the open item of an event; open one if it was never added."""
        index = self._index_of(event)
        found = self._open.get(index)
        if found is None:
            heappush(self._unstarted, index)
            found = self._open[index] = self._open_item({"type": kind, "id": event.item_id})
            self._last = index
        return found

    def _reasoning(self, event: Event | DeltaEvent) -> "_ReasoningItem":
        found = self._item_of(event, "reasoning")
        if not isinstance(found, _ReasoningItem):
            raise UpstreamProtocolError("The upstream sent reasoning for an item that is no reasoning item.")
        return found

    def _call(self, event: Event | DeltaEvent) -> "_CallItem":
        found = self._open.get(self._index_of(event))
        if not isinstance(found, _CallItem):
            raise UpstreamProtocolError("The upstream continued a call that is not open.")
        return found

    def _content(self, event: Event | DeltaEvent, *, refusal: bool = False) -> TextBuilder:
        """Return the content part of an event; start it with its first event."""
        found = self._item_of(event, "message")
        if not isinstance(found, _MessageItem):
            raise UpstreamProtocolError("The upstream sent text for an item that is no message.")
        return found.content(event.content_index or 0, refusal=refusal)

    # ── item content ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _restate_call(self, event: Event) -> None:
        self._call(event).call.restate(event.arguments or event.input or "")

    def _restate_summary(self, event: Event) -> None:
        self._reasoning(event).restate(event.text or "", event.summary_index or 0, plain=False)

    def _restate_reasoning(self, event: Event) -> None:
        self._reasoning(event).restate(event.text or "", 0, plain=True)

    def _refuse(self, event: Event) -> None:
        if event.delta:
            self._content(event, refusal=True).append(_checked(event.delta))

    def _add_citation(self, event: Event) -> None:
        self._content(event).cite(decode_annotation(event.annotation))

    def _restate_text(self, event: Event) -> None:
        _restate(self._content(event), {"text": event.text, "logprobs": event.logprobs})

    def _restate_refusal(self, event: Event) -> None:
        _restate(self._content(event, refusal=True), {"refusal": event.refusal})

    def _begin_content(self, event: Event) -> None:
        self._restate_content(event)

    def _end_content(self, event: Event) -> None:
        if (text := self._restate_content(event)) is not None:
            text.end()

    def _restate_content(self, event: Event) -> TextBuilder | None:
        part = event.part if type(event.part) is dict else {}
        kind = text_of(part, "type")
        if kind not in _MESSAGE_CONTENTS:
            return None
        text = self._content(event, refusal=kind == "refusal")
        _restate(text, part)
        return text

    _HANDLERS: ClassVar[Mapping[str, Callable[["OutputReader", Event], None]]] = {
        "response.output_item.added": _add,
        "response.output_item.done": _done,
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
    """The handlers of events other than deltas."""


DeltaHandler = Callable[[OutputReader, Event | DeltaEvent], None]
DELTA_HANDLERS: Mapping[str, DeltaHandler] = {
    "response.output_text.delta": OutputReader.handle_text,
    "response.function_call_arguments.delta": OutputReader.handle_arguments,
    "response.custom_tool_call_input.delta": OutputReader.handle_arguments,
    "response.reasoning_summary_text.delta": OutputReader.handle_summary,
    "response.reasoning_text.delta": OutputReader.handle_reasoning,
}
"""The handlers of delta events, which are frequent."""


def _matched(
    seen: Sequence["_Item"], items: Sequence[JSONObject]
) -> tuple[Mapping["_Item", JSONObject], Sequence[JSONObject]]:
    """Match restated items to streamed ones; return the matches and the items that were never streamed.

    Items match by their id, then by their call id. Some servers restate items with other ids, so an unknown item
    matches the next unmatched item of its type.
    """
    positions: dict[tuple[str, str], deque[int]] = {}
    for position, each in enumerate(seen):
        for key in (("id", each.id), ("call", each.call_id), ("type", each.kind)):
            positions.setdefault(key, deque()).append(position)
    matched: set[int] = set()

    def match(item: JSONObject, *keys: tuple[str, str]) -> bool:
        """Match an item to the first unmatched one with one of these keys."""
        found: list[int] = []
        for key in keys:
            queue = positions.get(key) if key[1] or key[0] == "type" else None
            while queue and queue[0] in matched:
                queue.popleft()
            found += [queue[0]] if queue else []
        if found:
            matched.add(min(found))
            restated[seen[min(found)]] = item
        return bool(found)

    restated: dict[_Item, JSONObject] = {}
    unknown = [
        item for item in items if not match(item, ("id", text_of(item, "id")), ("call", text_of(item, "call_id")))
    ]
    unseen = [item for item in unknown if not match(item, ("type", text_of(item, "type")))]
    return restated, unseen


def _restate(text: TextBuilder, content: JSONObject) -> None:
    """Add what a restated content part has and was not streamed."""
    text.restate(text_of(content, "refusal" if isinstance(text.header, ir.Refusal) else "text"))
    for entry in entries_of(content, "annotations")[text.cited :]:
        text.cite(decode_annotation(entry))
    if not text.has_logprobs and content.get("logprobs"):
        text.logprobs(decode_entries(content["logprobs"]))


class _Item:
    """The reader of an open item; this base class reads the item when it is done."""

    __slots__ = ("_item", "_output", "_reader")

    def __init__(self, reader: OutputReader, item: JSONObject) -> None:
        self._reader = reader
        self._output = reader.output
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

    def begin(self) -> None:
        """Start the item's part if it can start empty, so that the parts of later items follow it."""

    def end(self, item: JSONObject) -> None:
        """End the item; `item` is the upstream's final version of it, which may be empty."""
        for part in decode_item(item or self._item):
            self._output.whole(part)


class _MessageItem(_Item):
    """The reader of a message."""

    __slots__ = ("_contents",)

    def __init__(self, reader: OutputReader, item: JSONObject) -> None:
        super().__init__(reader, item)
        self._contents: dict[int, TextBuilder] = {}

    def content(self, index: int, *, refusal: bool) -> TextBuilder:
        """Return a content part; start it if it is new."""
        found = self._contents.get(index)
        if found is None:
            phase = text_of(self._item, "phase")
            extras: ir.Extras = {PROTOCOL: {"phase": phase}} if phase else ir.EMPTY
            kind = ir.Refusal if refusal else ir.Text
            part = self._output.open(kind(text="", id=self.id or None, extras=extras))
            assert isinstance(part, TextBuilder)
            found = self._contents[index] = part
        return found

    @override
    def begin(self) -> None:
        if not self._contents:
            self.content(0, refusal=False)

    @override
    def end(self, item: JSONObject) -> None:
        self._item = {**item, **self._item}
        for index, content in enumerate(entries_of(item, "content")):
            kind = text_of(content, "type")
            if kind in _MESSAGE_CONTENTS:
                text = self.content(index, refusal=kind == "refusal")
                _restate(text, content)
                text.end()
        for text in self._contents.values():
            text.end()


class _ReasoningItem(_Item):
    """The reader of reasoning; its part starts with the first text or at its end, when its kind is known."""

    __slots__ = ("_begin", "_part", "_plain", "_summary")

    def __init__(self, reader: OutputReader, item: JSONObject) -> None:
        super().__init__(reader, item)
        self._part: KeptBuilder | None = None
        self._plain = bool(entries_of(item, "content"))
        self._summary = 0
        self._begin = 0  # index in the pieces of the last summary part

    @override
    def begin(self) -> None:
        self._started()

    def restate(self, text: str, summary: int, *, plain: bool) -> None:
        """Add the end of a restated text that was not streamed."""
        pieces = self._pieces
        if pieces and summary == self._summary:
            streamed = "".join(pieces[self._begin :]).removeprefix(BETWEEN_SUMMARIES)
            text = unstreamed_suffix(text, len(streamed), streamed)
        elif summary < self._summary:
            return
        self.add(text, summary, plain=plain)

    def add(self, text: str, summary: int, *, plain: bool) -> None:
        """Add a delta of the reasoning; separate the parts of a summary."""
        part = self._part
        pieces: Sequence[str] = () if part is None else part.pieces
        if not text or (pieces and plain is not self._plain):
            return  # both raw text and a summary: the first one wins
        if not pieces:
            self._plain = plain
        elif summary != self._summary:
            text = BETWEEN_SUMMARIES + text
            self._begin = len(pieces)
        self._summary = summary
        (part or self._started()).append(text)

    @property
    def _pieces(self) -> Sequence[str]:
        return () if self._part is None else self._part.pieces

    def _started(self) -> KeptBuilder:
        if self._part is None:
            part = self._output.open(
                ir.Reasoning(
                    style="full" if self._plain else "summary",
                    raw=self._plain,
                    id=self.id or None,
                    extras=reasoning_extras({}, plain=self._plain),
                )
            )
            assert isinstance(part, KeptBuilder)
            self._part = part
        return self._part

    @override
    def end(self, item: JSONObject) -> None:
        whole = {**self._item, **item}
        text, plain = reasoning_text(whole)
        streamed = "".join(self._pieces)
        if not streamed:
            self.add(text, self._summary, plain=plain)
        elif plain is self._plain:
            self.add(unstreamed_suffix(text, len(streamed), streamed), self._summary, plain=plain)
        # Only a done item has its complete state; the one in `added` may be truncated.
        seals = decode_seal(item, self._reader.upstream)
        if self._part is None and not seals:
            return
        part = self._started()
        for seal in seals:
            part.seal(seal)
        part.end(reasoning_of(whole, part.text, plain=self._plain, seals=seals))


class _CallItem(_Item):
    """The reader of a call."""

    __slots__ = ("call",)

    def __init__(self, reader: OutputReader, item: JSONObject) -> None:
        super().__init__(reader, item)
        self.call = self._output.call()
        self._start(item)

    def _start(self, item: JSONObject, *, late: bool = False) -> None:
        """Start the call when its name and id are known; `late` accepts a missing id."""
        name, call_id = text_of(item, "name"), text_of(item, "call_id") or text_of(item, "id")
        if name and (call_id or late) and not self.call.started:
            custom = item.get("type") == "custom_tool_call"
            self.call.start(name, call_id, name, str(self._output.count), custom=custom, **call_fields(item))

    @override
    def end(self, item: JSONObject) -> None:
        whole = {**item, **{key: value for key, value in self._item.items() if value}}
        self._start(whole, late=True)
        if not self.call.started:
            return  # a call without a name is unusable
        self.call.restate(text_of(item, "input" if self.kind == "custom_tool_call" else "arguments"))
        self.call.update(**call_fields(whole))
        self.call.end()


_ITEMS: Mapping[str, type[_Item]] = {"message": _MessageItem, "reasoning": _ReasoningItem}
