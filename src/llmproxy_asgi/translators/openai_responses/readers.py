"""The items of an upstream's stream, each read by one of these while it goes on.

Servers restate everything when it is done, some restate what they never streamed, or more than they streamed: so each
reader knows what it has told of, and tells the rest then. Parts start in the order of their items: an item that has
said nothing yet begins when the next one is added.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from typing_extensions import override

from llmproxy_asgi.conversation import (
    EMPTY,
    ArgumentsDelta,
    CitationDelta,
    Extras,
    JSONObject,
    LogprobsDelta,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    SealDelta,
    ServerToolCall,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
)
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.openai.logprobs import decode_entries
from llmproxy_asgi.translators.openai_responses.mappings import BETWEEN_SUMMARIES, PROTOCOL
from llmproxy_asgi.translators.openai_responses.response_decoder import (
    CALLS,
    Items,
    decode_annotation,
    entries_of,
    reasoning_extras,
    reasoning_of,
    text_of,
    thought_of,
)
from llmproxy_asgi.translators.openai_responses.schema import DeltaEvent, Event
from llmproxy_asgi.translators.restated import missing_rest


class BrokenStream(Exception):
    """What came cannot follow what came before."""


def _checked(delta: Any) -> str:
    if type(delta) is str:
        return delta
    if delta is None:
        return ""
    raise BrokenStream("The upstream sent a piece of text that is none.")


_SAID = frozenset({"output_text", "refusal"})
"""The contents of a message."""
_SAID_AGAIN = frozenset(
    {
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done",
        "keepalive",
    }
)
"""Events that tell nothing which others do not."""


class Reader:
    """Reads what happens to the items of one answer; parts are numbered as they start.

    What cannot follow what came before raises `BrokenStream`.
    """

    def __init__(self, items: Items) -> None:
        self.items = items
        self.call_ids = DistinctIds(items.nonce)
        self.parts = 0
        self.called = False
        self.refused = False
        self._open: dict[int, _Open] = {}
        self._places: dict[str, int] = {}
        self._last = 0
        self._seen: list[_Open] = []
        self._words: dict[tuple[int, int | None], _Words] = {}

    def part(self) -> int:
        """The number of a new part."""
        self.parts += 1
        return self.parts - 1

    def take(self, kind: str, event: Event, events: list[StreamEvent]) -> bool:
        """Take an event; False where it has no meaning here."""
        go_on = GOES_ON.get(kind)
        if go_on is not None:
            go_on(self, event, events)
        elif kind == "response.output_item.added":
            self._add(event, events)
        elif kind == "response.output_item.done":
            self._done(event, events)
        else:
            fill = self._FILLS.get(kind)
            if fill is not None:
                fill(self, event, events)
            return fill is not None or kind in _SAID_AGAIN
        return True

    def say(self, event: Event | DeltaEvent, events: list[StreamEvent]) -> None:
        """Take more words of a text."""
        at = event.output_index
        place = (self._place(event) if at is None else at, event.content_index)
        words = self._words.get(place)
        if words is None:
            words = self._words[place] = self._message(event).words(event, events, refusal=False)
        if event.delta:
            words.say(event.delta, events)
        if event.logprobs:
            words.weigh(event.logprobs, events)

    def go_on_with_call(self, event: Event | DeltaEvent, events: list[StreamEvent]) -> None:
        """Take more of a call's arguments."""
        text = event.delta if type(event.delta) is str else _checked(event.delta)
        self._call(event).go_on(text, events)

    def summarise(self, event: Event | DeltaEvent, events: list[StreamEvent]) -> None:
        """Take more of a summary of what is thought."""
        text = event.delta if type(event.delta) is str else _checked(event.delta)
        self._thought(event).think(text, event.summary_index or 0, events, plain=False)

    def think(self, event: Event | DeltaEvent, events: list[StreamEvent]) -> None:
        """Take more of what is thought."""
        text = event.delta if type(event.delta) is str else _checked(event.delta)
        self._thought(event).think(text, 0, events, plain=True)

    def finish(self, output: Sequence[Any], events: list[StreamEvent]) -> None:
        """The answer is complete: end what is open, and read what was never streamed."""
        items = [item for item in output if type(item) is dict]
        restated, unseen = _matched(self._seen, items)
        for opened in list(self._open.values()):
            opened.end(restated.get(id(opened), {}), events)
        self._open.clear()
        for item in unseen:
            self._opened(item, events).end(item, events)

    # ── places ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _place(self, event: Event | DeltaEvent) -> int:
        """Where the item of an event stands; found by its id, or taken to be the last, where the event does not say."""
        if event.output_index is not None:
            return event.output_index
        return self._places.get(event.item_id or "", self._last)

    def _add(self, event: Event, events: list[StreamEvent]) -> None:
        item = event.item
        if type(item) is not dict:
            return
        place = event.output_index
        if place is None:
            place = self._last + 1 if self._seen else 0
        before = self._open.get(place)
        if before is not None:  # one index for every item: the one before is over
            before.end({}, events)
            self._forget(place)
        for index, earlier in self._open.items():
            if index < place:
                earlier.begin(events)
        self._open[place] = self._opened(item, events)
        self._last = place
        if text_of(item, "id"):
            self._places[item["id"]] = place

    def _done(self, event: Event, events: list[StreamEvent]) -> None:
        item = event.item if type(event.item) is dict else {}
        place = event.output_index
        if place is None:
            place = self._places.get(text_of(item, "id"), self._last)
        opened = self._open.pop(place, None)
        if opened is None:
            if not item or self._is_over(item):
                return
            opened = self._opened(item, events)
        self._forget(place)
        opened.end(item, events)

    def _forget(self, place: int) -> None:
        for key in [key for key in self._words if key[0] == place]:
            del self._words[key]

    def _is_over(self, item: JSONObject) -> bool:
        """Whether an item is done already, so that its server says so twice."""
        known = text_of(item, "id")
        return bool(known) and any(seen.id == known for seen in self._seen)

    def _opened(self, item: JSONObject, events: list[StreamEvent]) -> "_Open":
        made: _Open
        match item.get("type"):
            case "message":
                made = _Message(self, item)
            case "reasoning":
                made = _Thought(self, item)
            case str(kind) if kind in CALLS:
                made = _Call(self, item, events)
            case _:
                made = _Open(self, item)
        self._seen.append(made)
        return made

    def _message(self, event: Event | DeltaEvent) -> "_Message":
        place = self._place(event)
        found = self._open.get(place)
        if isinstance(found, _Message):
            return found
        if found is not None:
            raise BrokenStream("The upstream put a text where there is none.")
        made = self._open[place] = _Message(self, {"type": "message", "id": event.item_id})
        self._seen.append(made)
        self._last = place
        return made

    def _thought(self, event: Event | DeltaEvent) -> "_Thought":
        place = self._place(event)
        found = self._open.get(place)
        if isinstance(found, _Thought):
            return found
        if found is not None:
            raise BrokenStream("The upstream put reasoning where there is none.")
        made = self._open[place] = _Thought(self, {"type": "reasoning", "id": event.item_id})
        self._seen.append(made)
        self._last = place
        return made

    # ── what fills items ─────────────────────────────────────────────────────────────────────────────────────────────

    def _restate_call(self, event: Event, events: list[StreamEvent]) -> None:
        self._call(event).restate(event.arguments or event.input, events)

    def _restate_summary(self, event: Event, events: list[StreamEvent]) -> None:
        self._thought(event).restate(event.text or "", event.summary_index or 0, events, plain=False)

    def _restate_thought(self, event: Event, events: list[StreamEvent]) -> None:
        self._thought(event).restate(event.text or "", 0, events, plain=True)

    def _refuse(self, event: Event, events: list[StreamEvent]) -> None:
        if event.delta:
            self._message(event).words(event, events, refusal=True).say(event.delta, events)

    def _cite(self, event: Event, events: list[StreamEvent]) -> None:
        self._message(event).words(event, events, refusal=False).cite(event.annotation, events)

    def _restate_text(self, event: Event, events: list[StreamEvent]) -> None:
        said: JSONObject = {"text": event.text, "logprobs": event.logprobs}
        self._message(event).words(event, events, refusal=False).restate(said, events)

    def _restate_refusal(self, event: Event, events: list[StreamEvent]) -> None:
        self._message(event).words(event, events, refusal=True).restate({"refusal": event.refusal}, events)

    def _begin_content(self, event: Event, events: list[StreamEvent]) -> None:
        part = event.part if type(event.part) is dict else {}
        if text_of(part, "type") in _SAID:
            words = self._message(event).words(event, events, refusal=part["type"] == "refusal")
            words.restate(part, events)

    def _end_content(self, event: Event, events: list[StreamEvent]) -> None:
        part = event.part if type(event.part) is dict else {}
        if text_of(part, "type") in _SAID:
            words = self._message(event).words(event, events, refusal=part["type"] == "refusal")
            words.restate(part, events)
            words.end(events)

    def _call(self, event: Event | DeltaEvent) -> "_Call":
        found = self._open.get(self._place(event))
        if not isinstance(found, _Call):
            raise BrokenStream("The upstream continued a call that is not open.")
        return found

    _FILLS: ClassVar[Mapping[str, Callable[["Reader", Event, list[StreamEvent]], None]]] = {
        "response.function_call_arguments.done": _restate_call,
        "response.custom_tool_call_input.done": _restate_call,
        "response.reasoning_summary_text.done": _restate_summary,
        "response.reasoning_text.done": _restate_thought,
        "response.content_part.added": _begin_content,
        "response.content_part.done": _end_content,
        "response.output_text.done": _restate_text,
        "response.output_text.annotation.added": _cite,
        "response.refusal.delta": _refuse,
        "response.refusal.done": _restate_refusal,
    }
    """Events that fill items, to who reads them."""


def _matched(
    seen: Sequence["_Open"], items: Sequence[JSONObject]
) -> tuple[Mapping[int, JSONObject], Sequence[JSONObject]]:
    """Which restated item is which of those that were seen (by `id()`), and those that were never seen.

    An item is known by its own id, then by its call's. Some servers give each item another id when they restate it: so
    one that is not known is the next of its kind, as long as there are some left.
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


Take = Callable[[Reader, Event | DeltaEvent, list[StreamEvent]], None]
GOES_ON: Mapping[str, Take] = {
    "response.output_text.delta": Reader.say,
    "response.function_call_arguments.delta": Reader.go_on_with_call,
    "response.custom_tool_call_input.delta": Reader.go_on_with_call,
    "response.reasoning_summary_text.delta": Reader.summarise,
    "response.reasoning_text.delta": Reader.think,
}
"""The events of which there are many, to who reads them."""


class _Open:
    """An item that is being read. One of this kind is read when it is done."""

    __slots__ = ("_item", "_reader")

    def __init__(self, reader: Reader, item: JSONObject) -> None:
        self._reader = reader
        self._item = item

    @property
    def id(self) -> str:
        """The item's; empty where it has none."""
        return text_of(self._item, "id")

    @property
    def kind(self) -> str:
        """The item's type."""
        return text_of(self._item, "type")

    @property
    def call_id(self) -> str:
        """The call's, of an item that is one and says it."""
        return text_of(self._item, "call_id")

    def begin(self, events: list[StreamEvent]) -> None:
        """Start the item's part, where it has one that can start empty: the parts of later items follow."""

    def end(self, item: JSONObject, events: list[StreamEvent]) -> None:
        """The item is complete; `item`: as the upstream restated it, maybe empty."""
        for part in self._reader.items.whole(item or self._item):
            index = self._reader.part()
            if isinstance(part, ServerToolCall):
                events.append(PartStarted(0, index, msgspec.structs.replace(part, arguments="")))
                events.append(PartDelta(0, index, ArgumentsDelta(part.arguments)))
            else:
                events.append(PartStarted(0, index, part))
            events.append(PartEnded(0, index, part))


class _Words:
    """A text or a refusal: one content of a message."""

    __slots__ = ("_cited", "_ended", "_last", "_length", "_reader", "_refusal", "_weighed", "index")

    def __init__(self, reader: Reader, part: Text | Refusal, events: list[StreamEvent]) -> None:
        self._reader = reader
        self._refusal = isinstance(part, Refusal)
        self.index = reader.part()
        self._length = 0
        self._last = ""
        self._cited = 0
        self._weighed = False
        self._ended = False
        events.append(PartStarted(0, self.index, part))

    def say(self, text: Any, events: list[StreamEvent]) -> None:
        """More words."""
        if self._ended:
            raise BrokenStream("The upstream went on with a text that had ended.")
        words = text if type(text) is str else _checked(text)
        self._length += len(words)
        self._last = words
        events.append(PartDelta(0, self.index, RefusalDelta(words) if self._refusal else TextDelta(words)))

    def weigh(self, found: Any, events: list[StreamEvent]) -> None:
        """How likely its tokens were."""
        tokens = decode_entries(found)
        if tokens and not self._ended:
            self._weighed = True
            events.append(PartDelta(0, self.index, LogprobsDelta(tokens)))

    def cite(self, found: Any, events: list[StreamEvent]) -> None:
        """An annotation."""
        citation = decode_annotation(found)
        self._cited += 1
        if citation is not None and not self._refusal and not self._ended:
            events.append(PartDelta(0, self.index, CitationDelta(citation)))

    def restate(self, content: JSONObject, events: list[StreamEvent]) -> None:
        """The content as it is said again when it is complete: whatever was not told before."""
        text = text_of(content, "refusal" if self._refusal else "text")
        if self._ended:
            return
        if rest := missing_rest(text, self._length, self._last):
            self.say(rest, events)
        for entry in entries_of(content, "annotations")[self._cited :]:
            self.cite(entry, events)
        if not self._weighed and content.get("logprobs"):
            self.weigh(content["logprobs"], events)

    def end(self, events: list[StreamEvent]) -> None:
        """The content is complete."""
        if not self._ended:
            self._ended = True
            events.append(PartEnded(0, self.index))


class _Message(_Open):
    """Something said."""

    __slots__ = ("_contents",)

    def __init__(self, reader: Reader, item: JSONObject) -> None:
        super().__init__(reader, item)
        self._contents: dict[int, _Words] = {}

    def words(self, event: Event | DeltaEvent, events: list[StreamEvent], *, refusal: bool) -> _Words:
        """The content that an event is about; begun if this is the first of it."""
        return self._content(event.content_index or 0, events, refusal=refusal)

    @override
    def begin(self, events: list[StreamEvent]) -> None:
        if not self._contents:
            self._content(0, events, refusal=False)

    def _content(self, index: int, events: list[StreamEvent], *, refusal: bool) -> _Words:
        found = self._contents.get(index)
        if found is None:
            item = self._item
            phase = text_of(item, "phase")
            extras: Extras = {PROTOCOL: {"phase": phase}} if phase else EMPTY
            known = text_of(item, "id") or None
            part: Text | Refusal = Text(text="", id=known, extras=extras)
            if refusal:
                part = Refusal(text="", id=known, extras=extras)
                self._reader.refused = True
            found = self._contents[index] = _Words(self._reader, part, events)
        return found

    @override
    def end(self, item: JSONObject, events: list[StreamEvent]) -> None:
        self._item = {**item, **self._item}
        for index, content in enumerate(entries_of(item, "content")):
            kind = text_of(content, "type")
            if kind in _SAID:
                words = self._content(index, events, refusal=kind == "refusal")
                words.restate(content, events)
                words.end(events)
        for words in self._contents.values():
            words.end(events)


class _Thought(_Open):
    """Something thought. Its part starts with the first word, or at its end: then it is known of which kind it is."""

    __slots__ = ("_begin", "_index", "_pieces", "_plain", "_summary")

    def __init__(self, reader: Reader, item: JSONObject) -> None:
        super().__init__(reader, item)
        self._index = -1
        self._pieces: list[str] = []
        self._plain = bool(entries_of(item, "content"))
        self._summary = 0
        self._begin = 0  # of the pieces of the summary's last part

    @override
    def begin(self, events: list[StreamEvent]) -> None:
        if self._index < 0:
            self._start(events)

    def restate(self, text: str, summary: int, events: list[StreamEvent], *, plain: bool) -> None:
        """A text of it as it is said again when it is complete: whatever was not told before."""
        if self._pieces and summary == self._summary:
            told = "".join(self._pieces[self._begin :]).removeprefix(BETWEEN_SUMMARIES)
            text = missing_rest(text, len(told), told)
        elif summary < self._summary:
            return
        self.think(text, summary, events, plain=plain)

    def think(self, text: str, summary: int, events: list[StreamEvent], *, plain: bool) -> None:
        """More of it; each further part of a summary is set apart."""
        if not text or (self._pieces and plain is not self._plain):
            return  # told both plainly and as a summary: the first that came is what is shown
        if not self._pieces:
            self._plain = plain
        if self._index < 0:
            self._start(events)
        elif summary != self._summary and self._pieces:
            text = BETWEEN_SUMMARIES + text
            self._begin = len(self._pieces)
        self._summary = summary
        self._pieces.append(text)
        events.append(PartDelta(0, self._index, ReasoningDelta(text)))

    def _start(self, events: list[StreamEvent]) -> None:
        self._index = self._reader.part()
        header = Reasoning(
            style="full" if self._plain else "summary",
            raw=self._plain,
            id=text_of(self._item, "id") or None,
            extras=reasoning_extras({}, plain=self._plain),
        )
        events.append(PartStarted(0, self._index, header))

    @override
    def end(self, item: JSONObject, events: list[StreamEvent]) -> None:
        whole = {**self._item, **item}
        text, plain = thought_of(whole)
        told = "".join(self._pieces)
        if not told:
            self.think(text, self._summary, events, plain=plain)
        elif plain is self._plain:
            self.think(missing_rest(text, len(told), told), self._summary, events, plain=plain)
        # Only what is done has its whole state; the one told of at the beginning may be cut short.
        seals = self._reader.items.seals(item)
        if self._index < 0:
            if not seals:
                return
            self._start(events)
        events.extend(PartDelta(0, self._index, SealDelta(seal)) for seal in seals)
        part = reasoning_of(whole, "".join(self._pieces), plain=self._plain, seals=seals)
        events.append(PartEnded(0, self._index, part))


class _Call(_Open):
    """A call. It starts when its name is known; one of an emulated tool is told of when it is whole."""

    __slots__ = ("_begun", "_emulated", "_index", "_pieces", "_restated")

    def __init__(self, reader: Reader, item: JSONObject, events: list[StreamEvent]) -> None:
        super().__init__(reader, item)
        self._begun: ToolCall
        self._index = -1
        self._pieces: list[str] = []
        self._restated = ""
        self._emulated = reader.items.is_emulated(item)
        self._start(item, events)

    def go_on(self, text: str, events: list[StreamEvent]) -> None:
        """More of its arguments."""
        if not text:
            return
        self._pieces.append(text)
        if self._index >= 0 and not self._emulated:
            events.append(PartDelta(0, self._index, ArgumentsDelta(text)))

    def restate(self, arguments: str | None, events: list[StreamEvent]) -> None:
        """Its arguments whole: whatever of them was not told before."""
        if not arguments:
            return
        self._restated = arguments
        if self._pieces:
            told = "".join(self._pieces)
            self.go_on(missing_rest(arguments, len(told), told), events)

    def _start(self, item: JSONObject, events: list[StreamEvent], *, late: bool = False) -> None:
        """Begin the call when its name and id are known; `late`: nothing more will be known."""
        part = self._reader.items.call(item)
        if part is None or self._index >= 0 or not (part.call_id or late):
            return
        self._index = self._reader.part()
        call_id = self._reader.call_ids.of(part.call_id, part.name, str(self._index))
        self._begun = part = msgspec.structs.replace(part, call_id=call_id)
        self._reader.called = True
        events.append(PartStarted(0, self._index, part))

    @override
    def end(self, item: JSONObject, events: list[StreamEvent]) -> None:
        items = self._reader.items
        late = self._index < 0
        whole = {**item, **{key: value for key, value in self._item.items() if value}}
        if late:
            self._start(whole, events, late=True)
            if self._index < 0:
                return  # a call without a name says nothing
        self.restate(text_of(item, "input" if item.get("type") == "custom_tool_call" else "arguments"), events)
        streamed = "".join(self._pieces)
        arguments = items.arguments({**whole, "arguments": item.get("arguments")}, streamed or self._restated)
        if arguments and (not streamed or late or items.is_emulated(whole)):
            events.append(PartDelta(0, self._index, ArgumentsDelta(arguments)))
        part = items.call(whole, arguments) or msgspec.structs.replace(self._begun, arguments=arguments)
        # It stays what it was called when it began, whatever its end says.
        part = msgspec.structs.replace(part, call_id=self._begun.call_id, name=self._begun.name)
        events.append(PartEnded(0, self._index, part))
