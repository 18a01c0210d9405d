"""Reasoning state of tool calls, for callers who send their calls back without it.

An upstream wants the state of its reasoning back beside the calls that it led to. Callers of another protocol get it
wrapped, and many strip what they do not know. So the state is kept here by (owner, call id) when an answer passes, and
put back beside the call before a request goes upstream, if the target can open it and nothing else is there.

::

    answer  ─ ReasoningTap.feed / remember ─▶ thoughts ─ ReasoningCustody.keep ─▶ store
    request ─ missing ─▶ call ids ─ ReasoningCustody.find ─▶ thoughts ─ restore ─▶ request

An id that upstreams use again in every conversation (see `names.is_unique`) is kept under the id and a digest of the
conversation before the call, so that the state of one conversation never goes upstream in another.

Words that no vendor sealed are kept only for upstreams that refuse a turn without them
(`Capabilities.needs_reasoning_content`). A text is found by the id of its message, where an answer withheld its state.

Best effort throughout: what is lost or does not fit is left out, and no caller ever sees an error of this. Nothing
here opens a seal.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
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
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.errors import Unavailable
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import MIB, Bounds, RecordStore
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.names import CALL_ID, CallIds, derived, is_unique
from llmproxy_asgi.translators.seals import keep

BOUNDS = Bounds(total_bytes=64 * MIB, owner_bytes=8 * MIB, owner_records=5_000)
LIFETIME = 3600.0
"""Seconds that a thought is kept after it was last needed."""
MOST_CALLS = 500
"""Calls of one request that are looked up; the newest ones."""

_MAY_STAND_IN = re.compile(r"toolu_(?!01)[A-Za-z0-9]{24}")
"""Ids that Messages' callers get in the place of illegal ones; the vendor's own begin in another way."""
_log = logging.getLogger("llmproxy_asgi.custody")


class Thought(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="version", tag=1):
    """What the model thought on its way to one call, since the call before it."""

    call: str
    """Tells this call from another one of the same id: upstreams that count their calls begin anew each time. Empty: a
    text's."""
    first: tuple[Reasoning, ...] = ()
    """What the whole turn began with."""
    close: tuple[Reasoning, ...] = ()
    """What stood later, between other parts and this call."""
    seals: tuple[Seal, ...] = ()
    """The call's own."""


Kept: TypeAlias = tuple[tuple[str, Thought], ...]
"""Thoughts by their keys, as an answer tells them."""
Thoughts: TypeAlias = Mapping[str, Thought]
"""Thoughts by their keys, as they were found."""
Before: TypeAlias = Callable[[], Sequence[Message]]
"""The conversation that an answer goes on from; empty where it is not known, and then ids alone are the keys."""

NOTHING: Thoughts = {}

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Thought)


# ── what an answer leaves behind ─────────────────────────────────────────────────────────────────────────────────────


def remember(response: Response, *, words: bool = False, before: Before = tuple) -> Kept:
    """What is worth keeping of a whole answer; nothing where it holds no calls, or nothing sealed.

    Args:
        response: The answer.
        words: Whether reasoning that nobody sealed is worth it, too.
        before: What it goes on from.
    """
    kept: list[tuple[str, Thought]] = []
    for candidate in response.candidates:
        if _is_worth_keeping(candidate.parts, words=words):
            kept += _thoughts(candidate.parts, words=words, before=before)
    return tuple(kept)


def withheld(state: Iterable[tuple[str, Sequence[Seal]]]) -> Kept:
    """State of messages that their answer did not tell, by the ids of these messages."""
    return tuple((item, Thought(call="", seals=tuple(seals))) for item, seals in state)


class ReasoningTap:
    """Collects from a stream's events what is worth keeping, as they pass. One per stream.

    It relies on what the events promise: calls and sealed parts are whole when they end.

    Args:
        words: See `remember`.
        before: Likewise.
    """

    __slots__ = ("_prior", "_seen", "_words")

    def __init__(self, *, words: bool = False, before: Before = tuple) -> None:
        self._words = words
        self._prior = before
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
        return (
            _thoughts(parts, words=self._words, before=self._prior)
            if _is_worth_keeping(parts, words=self._words)
            else ()
        )


def _is_worth_keeping(parts: Iterable[Part], *, words: bool) -> bool:
    calls = thought = False
    for part in parts:
        calls = calls or type(part) is ToolCall
        thought = thought or bool(part.seals) or (words and isinstance(part, Reasoning) and bool(part.text))
    return calls and thought


def _thoughts(parts: Iterable[Part], *, words: bool, before: Before) -> Kept:
    """The thoughts of one candidate's calls."""
    kept: list[tuple[str, Thought]] = []
    context: Context | None = None
    first: list[Reasoning] = []
    close: list[Reasoning] = []
    begun = False
    for part in parts:
        if isinstance(part, Reasoning):
            if part.seals or (words and part.text):  # else of no use to their maker, and nobody else's business
                (close if begun else first).append(part)
            continue
        begun = True
        if isinstance(part, ToolCall):
            if first or close or part.seals:
                thought = Thought(call=_mark(part), first=tuple(first), close=tuple(close), seals=part.seals)
                if context is None:
                    prior = before()
                    context = Context(Conversation(prior), len(prior))
                kept.append((context.key(part), thought))
            first, close = [], []
    return tuple(kept)


class Conversation:
    """What was said, for keys of the calls in it; each message is digested once, and only for ids that may collide.

    Callers send back as it was what their user said, and what came last before a call: these tell conversations apart.
    """

    __slots__ = ("_digested", "_messages", "_users")

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self._users = blake2b(digest_size=16)
        self._digested = 0

    def digest(self, end: int) -> str:
        """Of the messages before this one. Not for one that stands before the last that was asked for."""
        for message in self._messages[self._digested : end]:
            if message.role == "user":
                _add(message, self._users)
        self._digested = end
        digest = self._users.copy()
        if self._messages[end - 1].role != "user":
            _add(self._messages[end - 1], digest)
        return digest.hexdigest()


class Context:
    """The keys of the calls that stand behind the beginning of a conversation.

    Args:
        conversation: All of it.
        end: How many of its messages stand before them.
    """

    __slots__ = ("_conversation", "_digest", "_end")

    def __init__(self, conversation: Conversation, end: int) -> None:
        self._conversation = conversation
        self._end = end
        self._digest: str | None = None

    def key(self, part: ToolCall) -> str:
        """What a call's thought is kept under: its id, with the conversation where the id alone may collide."""
        known = _legal(part.call_id)
        return known if not self._end or is_unique(part.call_id, part.name) else self._longer(known)

    def keys(self, part: ToolCall) -> tuple[str, ...]:
        """What it may have been kept under: an id that a caller got in the place of an illegal one tells nothing."""
        key = self.key(part)
        return (key, self._longer(key)) if self._end and _MAY_STAND_IN.fullmatch(key) else (key,)

    def _longer(self, call_id: str) -> str:
        if self._digest is None:
            self._digest = self._conversation.digest(self._end)
        return derived("", self._digest, call_id, size=40)


def _legal(call_id: str) -> str:
    """An id as every caller can hold it: illegal ones are rewritten for some, and come back as that."""
    return call_id if CALL_ID.fullmatch(call_id) else CallIds(prefix="toolu_").outward(call_id)


def _add(message: Message, digest: blake2b) -> None:
    for part in message.parts:
        for text in _texts(part):
            said = text.encode("utf-8", "surrogatepass")
            digest.update(len(said).to_bytes(8, "big") + said)


def _texts(part: Part) -> Iterator[str]:
    if isinstance(part, Text):
        yield part.text
    elif isinstance(part, ToolResult):
        yield from (inner.text for inner in part.content if isinstance(inner, Text))


def _mark(call: ToolCall) -> str:
    """What a call asks for, however its arguments are spelled."""
    arguments = call.arguments
    if call.kind == "function":
        with contextlib.suppress(ValueError, RecursionError):  # what is not JSON is known by its spelling
            arguments = msgspec.json.encode(msgspec.json.decode(arguments or "{}"), order="sorted").decode()
    return derived("", call.name, arguments, size=16)


# ── what a request lacks ─────────────────────────────────────────────────────────────────────────────────────────────


def missing(request: Request) -> tuple[str, ...]:
    """The keys of the calls and texts that came without any reasoning state in their turn."""
    keys: dict[str, None] = {}
    conversation = Conversation(request.messages)
    for begin, _, turn in _bare_turns(request.messages):
        context = Context(conversation, begin)
        for message in turn:
            for part in message.parts:
                keys |= dict.fromkeys(_keys(part, context))
    return tuple(keys)[-MOST_CALLS:]


def kept_for(messages: Sequence[Message], thoughts: Thoughts) -> Mapping[int, Thought]:
    """What is kept for a conversation's parts, by `id()` of the part."""
    conversation = Conversation(messages)
    return {
        id(part): thought
        for begin, _, turn in _bare_turns(messages)
        for context in (Context(conversation, begin),)
        for message in turn
        for part in message.parts
        if (thought := _find(part, context, thoughts)) is not None
    }


def _keys(part: Part, context: Context) -> tuple[str, ...]:
    if isinstance(part, ToolCall):
        return context.keys(part)
    return (part.id,) if isinstance(part, Text) and part.text and part.id else ()


def _find(part: Part, context: Context, thoughts: Thoughts) -> Thought | None:
    keys = _keys(part, context)
    if isinstance(part, ToolCall):
        keys = (*keys, part.call_id)
    return next((thoughts[key] for key in keys if key in thoughts), None)


def _is_of(thought: Thought, part: Part) -> bool:
    return thought.call == (_mark(part) if isinstance(part, ToolCall) else "")


def restore(request: Request, thoughts: Thoughts, upstream: Upstream) -> Request:
    """The request with what was thought put back beside its calls, as far as this upstream can open it.

    The very same request where there is nothing to put back. Words of reasoning that a caller sent without their state
    give way to those that have it.
    """
    if not thoughts:
        return request
    messages = list(request.messages)
    changed = False
    conversation = Conversation(request.messages)
    for begin, end, turn in _bare_turns(request.messages):
        restored = _restored(turn, thoughts, upstream, Context(conversation, begin))
        if restored is not None:
            messages[begin:end] = restored
            changed = True
    return msgspec.structs.replace(request, messages=tuple(messages)) if changed else request


def _bare_turns(messages: Sequence[Message]) -> Iterator[tuple[int, int, tuple[Message, ...]]]:
    """The turns of the model (neighbouring messages are one) that may lack state and hold none, with their places."""
    end = 0
    for role, group in groupby(messages, key=attrgetter("role")):
        turn = tuple(group)
        begin, end = end, end + len(turn)
        if role == "assistant" and _is_bare(turn):
            yield begin, end, turn


def _is_bare(turn: Sequence[Message]) -> bool:
    lacking = False
    for message in turn:
        for part in message.parts:
            if part.seals:
                return False
            lacking = lacking or type(part) is ToolCall or (type(part) is Text and part.id is not None)
    return lacking


def _restored(
    turn: Sequence[Message], thoughts: Thoughts, upstream: Upstream, context: Context
) -> list[Message] | None:
    """A turn with its state, message by message; None where there is none that this upstream can open."""
    has_words = any(isinstance(part, Reasoning) and part.text for message in turn for part in message.parts)
    words = upstream.capabilities.needs_reasoning_content and not has_words
    first: list[Part] = []
    rows: list[list[Part]] = []
    changed = False
    for message in turn:
        row: list[Part] = []
        for part in message.parts:
            thought = _find(part, context, thoughts)
            if thought is None or not _is_of(thought, part):
                row.append(part)
                continue
            first += _usable(thought.first, upstream, words=words)
            row += _usable(thought.close, upstream, words=words)
            seals, _ = keep(thought.seals, upstream)
            row.append(msgspec.structs.replace(part, seals=seals) if seals else part)
            changed = changed or bool(seals)
        rows.append(row)
    thought_again = bool(first) or any(isinstance(part, Reasoning) and part.seals for row in rows for part in row)
    changed = changed or (words and any(isinstance(part, Reasoning) for row in rows for part in row))
    if not (changed or thought_again):
        return None
    if thought_again:
        if not words:
            rows = [[part for part in row if not isinstance(part, Reasoning) or part.seals] for row in rows]
        rows[0] = [*first, *rows[0]]
    return [
        msgspec.structs.replace(message, parts=tuple(row))
        for message, row in zip(turn, rows, strict=True)
        if row or not message.parts
    ]


def _usable(parts: Iterable[Reasoning], upstream: Upstream, *, words: bool) -> Iterator[Reasoning]:
    for part in parts:
        seals, others = keep(part.seals, upstream)
        if words and not part.seals:
            yield part
        elif seals:
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
