"""Reasoning state of tool calls, for callers who send their calls back without it.

An upstream wants the state of its reasoning back beside the calls that it led to. Callers of another protocol get it
wrapped, and many strip what they do not know. So the state is kept here by (owner, call id) when an answer passes, and
put back beside the call before a request goes upstream, if the target can open it and nothing else is there.

::

    answer  ─ ReasoningTap.feed / remember ─▶ thoughts ─ ReasoningCustody.keep ─▶ store
    request ─ missing ─▶ call ids ─ ReasoningCustody.find ─▶ thoughts ─ restore ─▶ request

Best effort throughout: what is lost or does not fit is left out, and no caller ever sees an error of this. Nothing
here opens a seal. Relayed answers need none of it: their callers have their own protocol's fields.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TypeAlias

import msgspec

from llmproxy_asgi.conversation import (
    Finished,
    Message,
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    Request,
    Response,
    Seal,
    StreamEvent,
    ToolCall,
)
from llmproxy_asgi.errors import Unavailable
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import MIB, Bounds, RecordStore
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.seals import keep

BOUNDS = Bounds(total_bytes=64 * MIB, owner_bytes=8 * MIB, owner_records=5_000)
LIFETIME = 3600.0
"""Seconds that a thought is kept after it was last needed."""
MOST_CALLS = 500
"""Calls of one request that are looked up; the newest ones."""

_log = logging.getLogger("llmproxy_asgi.custody")


class Thought(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="version", tag=1):
    """What the model thought on its way to one call, since the call before it."""

    call: str
    """Tells this call from another one of the same id: upstreams that count their calls begin anew each time."""
    first: tuple[Reasoning, ...] = ()
    """What the whole turn began with."""
    close: tuple[Reasoning, ...] = ()
    """What stood later, between other parts and this call."""
    seals: tuple[Seal, ...] = ()
    """The call's own."""


Kept: TypeAlias = tuple[tuple[str, Thought], ...]
"""Thoughts by call id, as an answer tells them."""
Thoughts: TypeAlias = Mapping[str, Thought]
"""Thoughts by call id, as they were found."""

NOTHING: Thoughts = {}

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Thought)


# ── what an answer leaves behind ─────────────────────────────────────────────────────────────────────────────────────


def remember(response: Response) -> Kept:
    """What is worth keeping of a whole answer; nothing where it holds no calls, or nothing sealed."""
    kept: list[tuple[str, Thought]] = []
    for candidate in response.candidates:
        if _is_worth_keeping(candidate.parts):
            kept += _thoughts(candidate.parts)
    return tuple(kept)


class ReasoningTap:
    """Collects from a stream's events what is worth keeping, as they pass. One per stream.

    It relies on what the events promise: calls and sealed parts are whole when they end.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[int, dict[int, Part]] = {}

    def feed(self, events: Sequence[StreamEvent]) -> Kept:
        """What these events complete: nearly always nothing. Runs once per read of every translated stream."""
        kept: Kept = ()
        for event in events:
            if type(event) is not PartDelta:
                kept += self.border(event)
        return kept

    def border(self, event: StreamEvent) -> Kept:
        """What an event that is no delta completes."""
        if isinstance(event, PartStarted | PartEnded):
            if event.part is not None:
                self._seen.setdefault(event.candidate, {})[event.index] = event.part
        elif isinstance(event, Finished):
            return self._finished(self._seen.pop(event.candidate, {}))
        return ()

    def _finished(self, seen: Mapping[int, Part]) -> Kept:
        parts = [seen[index] for index in sorted(seen)]
        return _thoughts(parts) if _is_worth_keeping(parts) else ()


def _is_worth_keeping(parts: Iterable[Part]) -> bool:
    calls = sealed = False
    for part in parts:
        calls = calls or type(part) is ToolCall
        sealed = sealed or bool(part.seals)
    return calls and sealed


def _thoughts(parts: Iterable[Part]) -> Kept:
    """The thoughts of one candidate's calls."""
    kept: list[tuple[str, Thought]] = []
    first: list[Reasoning] = []
    close: list[Reasoning] = []
    begun = False
    for part in parts:
        if isinstance(part, Reasoning):
            if part.seals:  # unsealed words are of no use to whoever made them, and nobody else's business
                (close if begun else first).append(part)
            continue
        begun = True
        if isinstance(part, ToolCall):
            if first or close or part.seals:
                thought = Thought(call=_mark(part), first=tuple(first), close=tuple(close), seals=part.seals)
                kept.append((part.call_id, thought))
            first, close = [], []
    return tuple(kept)


def _mark(call: ToolCall) -> str:
    """What a call asks for, however its arguments are spelled."""
    arguments = call.arguments
    if call.kind == "function":
        with contextlib.suppress(ValueError, RecursionError):  # what is not JSON is known by its spelling
            arguments = msgspec.json.encode(msgspec.json.decode(arguments or "{}"), order="sorted").decode()
    return derived("", call.name, arguments, size=16)


# ── what a request lacks ─────────────────────────────────────────────────────────────────────────────────────────────


def missing(request: Request) -> tuple[str, ...]:
    """The ids of the calls that came without any reasoning state in their turn."""
    ids: dict[str, None] = {}
    for _, _, turn in _bare_turns(request.messages):
        ids |= {part.call_id: None for message in turn for part in message.parts if isinstance(part, ToolCall)}
    return tuple(ids)[-MOST_CALLS:]


def restore(request: Request, thoughts: Thoughts, upstream: Upstream) -> Request:
    """The request with what was thought put back beside its calls, as far as this upstream can open it.

    The very same request where there is nothing to put back. Words of reasoning that a caller sent without their state
    give way to those that have it.
    """
    if not thoughts:
        return request
    messages = list(request.messages)
    changed = False
    for begin, end, turn in _bare_turns(request.messages):
        restored = _restored(turn, thoughts, upstream)
        if restored is not None:
            messages[begin:end] = restored
            changed = True
    return msgspec.structs.replace(request, messages=tuple(messages)) if changed else request


def _bare_turns(messages: Sequence[Message]) -> Iterator[tuple[int, int, tuple[Message, ...]]]:
    """The turns of the model (neighbouring messages are one) that hold calls and no state, with their places."""
    end = 0
    for role, group in groupby(messages, key=attrgetter("role")):
        turn = tuple(group)
        begin, end = end, end + len(turn)
        if role == "assistant" and _is_bare(turn):
            yield begin, end, turn


def _is_bare(turn: Sequence[Message]) -> bool:
    calls = False
    for message in turn:
        for part in message.parts:
            if part.seals:
                return False
            calls = calls or type(part) is ToolCall
    return calls


def _restored(turn: Sequence[Message], thoughts: Thoughts, upstream: Upstream) -> list[Message] | None:
    """A turn with its state, message by message; None where there is none that this upstream can open."""
    first: list[Part] = []
    rows: list[list[Part]] = []
    changed = False
    for message in turn:
        row: list[Part] = []
        for part in message.parts:
            thought = thoughts.get(part.call_id) if isinstance(part, ToolCall) else None
            if thought is None or not isinstance(part, ToolCall) or thought.call != _mark(part):
                row.append(part)
                continue
            first += _usable(thought.first, upstream)
            row += _usable(thought.close, upstream)
            seals, _ = keep(thought.seals, upstream)
            row.append(msgspec.structs.replace(part, seals=seals) if seals else part)
            changed = changed or bool(seals)
        rows.append(row)
    thought_again = bool(first) or any(isinstance(part, Reasoning) and part.seals for row in rows for part in row)
    if not (changed or thought_again):
        return None
    if thought_again:
        rows = [[part for part in row if not isinstance(part, Reasoning) or part.seals] for row in rows]
        rows[0] = [*first, *rows[0]]
    return [
        msgspec.structs.replace(message, parts=tuple(row))
        for message, row in zip(turn, rows, strict=True)
        if row or not message.parts
    ]


def _usable(parts: Iterable[Reasoning], upstream: Upstream) -> Iterator[Reasoning]:
    for part in parts:
        seals, others = keep(part.seals, upstream)
        if seals:
            yield msgspec.structs.replace(part, seals=seals) if others else part


# ── where it is kept meanwhile ───────────────────────────────────────────────────────────────────────────────────────


class ReasoningCustody:
    """Keeps thoughts by owner and call id. Never fails a call: a store that cannot be reached holds nothing.

    Args:
        store: Its own; bounded. Whoever made it closes it.
        lifetime: Seconds that a thought is kept after it was last needed.
    """

    def __init__(self, store: RecordStore, *, lifetime: float = LIFETIME) -> None:
        self._store = store
        self._lifetime = lifetime

    async def keep(self, owner: Owner, kept: Kept) -> None:
        """Keep what an answer left behind. Do so before its caller reads the end, who may go on at once."""
        try:
            for call_id, thought in kept:
                await self._store.put(owner, call_id, _ENCODER.encode(thought), ttl=self._lifetime)
        except (Unavailable, TypeError, ValueError) as error:  # the latter two: what no JSON can hold
            _log.warning("Reasoning state could not be kept: %s", error)

    async def find(self, owner: Owner, call_ids: Sequence[str]) -> Thoughts:
        """What is known of these calls; it lives on, because a loop that is going on asks for it at every step."""
        if not call_ids:
            return NOTHING
        try:
            found = await self._store.get_many(owner, call_ids)
            if found:
                await self._store.touch(owner, found.keys(), ttl=self._lifetime)
        except Unavailable as error:
            _log.warning("Reasoning state could not be looked up: %s", error)
            return NOTHING
        return {call_id: thought for call_id, value in found.items() if (thought := _read(value)) is not None}


def _read(value: bytes) -> Thought | None:
    try:
        return _DECODER.decode(value)
    except msgspec.DecodeError as error:
        _log.warning("Kept reasoning state cannot be read: %s", error)
        return None
