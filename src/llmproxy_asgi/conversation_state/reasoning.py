"""Cache the reasoning state of tool calls, for callers that send their calls back without it.

An upstream requires the state of its reasoning back beside the calls that it led to. Callers of another protocol get it
wrapped, and many strip unknown fields. So the state is cached here by (owner, call id) when a response passes, and
restored beside the call before a request goes upstream, if the target can open it and the turn carries none.

::

    response ─ ReasoningTap.feed / extract_reasoning ─▶ entries ─ ReasoningCache.keep ─▶ store
    request  ─ missing ─▶ keys ─ ReasoningCache.find ─▶ cached reasoning ─ restore ─▶ request

An id that upstreams reuse in every conversation (see `names.is_unique`) is stored under the id and a digest of the
conversation before the call, so that the state of one conversation never goes upstream in another.

Reasoning text without a seal is cached only for upstreams that refuse a turn without it
(`Capabilities.needs_reasoning_content`). A text is found by the id of its message, where a response withheld its state.

This is best effort: what is lost or does not fit is left out, and no caller ever gets an error from it. Nothing here
opens a seal.
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
"""Seconds that an entry is kept after its last use."""
MESSAGE_LIFETIME = 30 * 24 * 3600.0
"""Seconds that the state of a message is kept after its last use: as long as a stored response."""
MAX_CALLS = 500
"""Calls of one request to look up; the newest ones."""

_MAY_BE_REPLACEMENT = re.compile(r"toolu_(?!01)[A-Za-z0-9]{24}")
"""Ids that replace illegal ones for callers of Messages; the vendor's own start differently."""
_log = logging.getLogger("llmproxy_asgi.conversation_state")


class CachedReasoning(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="version", tag=1):
    """The reasoning that led to one call, since the call before it."""

    call: str
    """A digest of the call: upstreams that number their calls reuse the ids. Empty for a text."""
    first: tuple[Reasoning, ...] = ()
    """The reasoning at the start of the turn."""
    close: tuple[Reasoning, ...] = ()
    """Later reasoning, between other parts and this call."""
    seals: tuple[Seal, ...] = ()
    """The call's own seals."""


ReasoningEntries: TypeAlias = tuple[tuple[str, CachedReasoning], ...]
"""New entries of a response, with their keys."""
CachedReasoningByKey: TypeAlias = Mapping[str, CachedReasoning]
"""Entries that were found, by key."""
Before: TypeAlias = Callable[[], Sequence[Message]]
"""Returns the conversation before a response; empty if it is not known: then ids alone are the keys."""

NO_REASONING: CachedReasoningByKey = {}

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(CachedReasoning)


# ── what to cache of a response ──────────────────────────────────────────────────────────────────────────────────────


def extract_reasoning(response: Response, *, include_text: bool = False, before: Before = tuple) -> ReasoningEntries:
    """Extract the entries of a whole response; none if it has no calls, or no seals.

    Args:
        response: The response.
        include_text: Whether to cache reasoning text without a seal, too.
        before: Returns the conversation before the response.
    """
    entries: list[tuple[str, CachedReasoning]] = []
    for candidate in response.candidates:
        if _is_cacheable(candidate.parts, include_text=include_text):
            entries += _entries(candidate.parts, include_text=include_text, before=before)
    return tuple(entries)


def withheld_reasoning(state: Iterable[tuple[str, Sequence[Seal]]]) -> ReasoningEntries:
    """Return entries for state that a response withheld, by the ids of its messages."""
    return tuple((item, CachedReasoning(call="", seals=tuple(seals))) for item, seals in state)


class ReasoningTap:
    """Collect entries from one stream's events as they pass.

    Calls and sealed parts must be complete when they end.

    Args:
        include_text: See `extract_reasoning`.
        before: See `extract_reasoning`.
    """

    __slots__ = ("_include_text", "_prior", "_seen")

    def __init__(self, *, include_text: bool = False, before: Before = tuple) -> None:
        self._include_text = include_text
        self._prior = before
        self._seen: dict[int, dict[int, Part]] = {}

    def feed(self, events: Sequence[StreamEvent]) -> ReasoningEntries:
        """Return the entries that these events complete. Runs once per read of every translated stream."""
        entries: ReasoningEntries = ()
        for event in events:
            if type(event) is not PartDelta:
                entries += self.observe(event)
        return entries

    def observe(self, event: StreamEvent) -> ReasoningEntries:
        """Return the entries that an event other than a delta completes."""
        if isinstance(event, PartStarted | PartEnded):
            if event.part is not None:
                self._seen.setdefault(event.candidate, {})[event.index] = event.part
        elif isinstance(event, Finished):
            return self._finished(self._seen.pop(event.candidate, {}))
        return ()

    def _finished(self, seen: Mapping[int, Part]) -> ReasoningEntries:
        parts = [seen[index] for index in sorted(seen)]
        if not _is_cacheable(parts, include_text=self._include_text):
            return ()
        return _entries(parts, include_text=self._include_text, before=self._prior)


def _is_cacheable(parts: Iterable[Part], *, include_text: bool) -> bool:
    calls = has_reasoning = False
    for part in parts:
        calls = calls or type(part) is ToolCall
        has_reasoning = (
            has_reasoning or bool(part.seals) or (include_text and isinstance(part, Reasoning) and bool(part.text))
        )
    return calls and has_reasoning


def _entries(parts: Iterable[Part], *, include_text: bool, before: Before) -> ReasoningEntries:
    """Return the entries of one candidate's calls."""
    entries: list[tuple[str, CachedReasoning]] = []
    call_keys: CallKeys | None = None
    first: list[Reasoning] = []
    close: list[Reasoning] = []
    begun = False
    last: ToolCall | None = None
    for part in parts:
        if isinstance(part, Reasoning):
            if part.seals or (include_text and part.text):  # otherwise no upstream may receive it
                (close if begun else first).append(part)
            continue
        begun = True
        if isinstance(part, ToolCall):
            if first or close or part.seals:
                entry = CachedReasoning(call=_mark(part), first=tuple(first), close=tuple(close), seals=part.seals)
                call_keys = call_keys or _call_keys(before)
                entries.append((call_keys.key(part), entry))
            first, close = [], []
            last = part
    late_reasoning = [reasoning for reasoning in close if not reasoning.seals]
    if late_reasoning and last is not None:  # some servers send it after the call it led to
        entries = _add_late_reasoning(entries, last, late_reasoning, call_keys or _call_keys(before))
    return tuple(entries)


def _call_keys(before: Before) -> "CallKeys":
    prior = before()
    return CallKeys(ConversationDigests(prior), len(prior))


def _add_late_reasoning(
    entries: list[tuple[str, CachedReasoning]],
    call: ToolCall,
    late_reasoning: Sequence[Reasoning],
    call_keys: "CallKeys",
) -> list[tuple[str, CachedReasoning]]:
    """Add reasoning that arrived after the last call to the entry of that call."""
    key, mark = call_keys.key(call), _mark(call)
    if entries and entries[-1][0] == key and entries[-1][1].call == mark:
        entry = entries[-1][1]
        return [*entries[:-1], (key, msgspec.structs.replace(entry, close=(*entry.close, *late_reasoning)))]
    return [*entries, (key, CachedReasoning(call=mark, close=tuple(late_reasoning)))]


class ConversationDigests:
    """Digests of a conversation, for keys of its calls; computed once per message, and only for ids that may collide.

    Callers send back unchanged the user's messages and the last message before a call, which identify a conversation.
    """

    __slots__ = ("_digested", "_messages", "_users")

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self._users = blake2b(digest_size=16)
        self._digested = 0

    def digest(self, end: int) -> str:
        """Digest the messages before this index; indexes must not decrease from call to call."""
        for message in self._messages[self._digested : end]:
            if message.role == "user":
                _add(message, self._users)
        self._digested = end
        digest = self._users.copy()
        if self._messages[end - 1].role != "user":
            _add(self._messages[end - 1], digest)
        return digest.hexdigest()


class CallKeys:
    """Keys of the calls that follow the start of a conversation.

    Args:
        conversation: The whole conversation.
        end: The number of messages before the calls.
    """

    __slots__ = ("_conversation", "_digest", "_end")

    def __init__(self, conversation: ConversationDigests, end: int) -> None:
        self._conversation = conversation
        self._end = end
        self._digest: str | None = None

    def key(self, part: ToolCall) -> str:
        """Return a call's key: its id, with the conversation where the id alone may collide."""
        known = _legal(part.call_id)
        return known if not self._end or is_unique(part.call_id, part.name) else self._longer(known)

    def keys(self, part: ToolCall) -> tuple[str, ...]:
        """Return the possible keys of a call: a replacement of an illegal id may be of either kind."""
        key = self.key(part)
        return (key, self._longer(key)) if self._end and _MAY_BE_REPLACEMENT.fullmatch(key) else (key,)

    def _longer(self, call_id: str) -> str:
        if self._digest is None:
            self._digest = self._conversation.digest(self._end)
        return derived("", self._digest, call_id, size=40)


def _legal(call_id: str) -> str:
    """Return an id that every protocol allows: illegal ones are replaced for some callers, and come back so."""
    return call_id if CALL_ID.fullmatch(call_id) else CallIds(prefix="toolu_").outward(call_id)


def _add(message: Message, digest: blake2b) -> None:
    for part in message.parts:
        for text in _texts(part):
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)


def _texts(part: Part) -> Iterator[str]:
    if isinstance(part, Text):
        yield part.text
    elif isinstance(part, ToolResult):
        yield from (inner.text for inner in part.content if isinstance(inner, Text))


def _mark(call: ToolCall) -> str:
    """Digest a call's name and arguments, independent of the JSON formatting."""
    arguments = call.arguments
    if call.kind == "function":
        with contextlib.suppress(ValueError, RecursionError):  # arguments that are not JSON are digested as text
            arguments = msgspec.json.encode(msgspec.json.decode(arguments or "{}"), order="sorted").decode()
    return derived("", call.name, arguments, size=16)


# ── what a request lacks ─────────────────────────────────────────────────────────────────────────────────────────────


def missing(request: Request) -> tuple[str, ...]:
    """Return the keys of calls and texts whose turn came without reasoning state."""
    if not _may_need_state(request.messages):
        return ()
    keys: dict[str, None] = {}
    conversation = ConversationDigests(request.messages)
    for begin, _, turn in _bare_turns(request.messages):
        call_keys = CallKeys(conversation, begin)
        for message in turn:
            for part in message.parts:
                keys |= dict.fromkeys(_keys(part, call_keys))
    return tuple(keys)[-MAX_CALLS:]


def cached_by_part(messages: Sequence[Message], cached: CachedReasoningByKey) -> Mapping[int, CachedReasoning]:
    """Return the cached reasoning of a conversation's parts, by `id()` of the part."""
    conversation = ConversationDigests(messages)
    return {
        id(part): reasoning
        for begin, _, turn in _bare_turns(messages)
        for call_keys in (CallKeys(conversation, begin),)
        for message in turn
        for part in message.parts
        if (reasoning := _find(part, call_keys, cached)) is not None
    }


def _keys(part: Part, call_keys: CallKeys) -> tuple[str, ...]:
    if isinstance(part, ToolCall):
        return call_keys.keys(part)
    return (part.id,) if isinstance(part, Text) and part.text and part.id else ()


def _find(part: Part, call_keys: CallKeys, cached: CachedReasoningByKey) -> CachedReasoning | None:
    keys = _keys(part, call_keys)
    if isinstance(part, ToolCall):
        keys = (*keys, part.call_id)
    return next((cached[key] for key in keys if key in cached), None)


def _is_of(reasoning: CachedReasoning, part: Part) -> bool:
    return reasoning.call == (_mark(part) if isinstance(part, ToolCall) else "")


def restore(request: Request, cached: CachedReasoningByKey, upstream: Upstream) -> Request:
    """Return the request with cached reasoning beside its calls, as far as this upstream can open it.

    The same object is returned where there is nothing to restore. Reasoning text that a caller sent without its state
    is replaced by cached reasoning that has it.
    """
    if not cached:
        return request
    messages = list(request.messages)
    changed = False
    conversation = ConversationDigests(request.messages)
    for begin, end, turn in _bare_turns(request.messages):
        restored = _restored(turn, cached, upstream, CallKeys(conversation, begin))
        if restored is not None:
            messages[begin:end] = restored
            changed = True
    return msgspec.structs.replace(request, messages=tuple(messages)) if changed else request


def _may_need_state(messages: Sequence[Message]) -> bool:
    """Whether the model's turns have calls or texts with ids, as `_is_bare` requires: most conversations have none."""
    for message in messages:
        if message.role == "assistant":
            for part in message.parts:
                if type(part) is ToolCall or (type(part) is Text and part.id is not None):
                    return True
    return False


def _bare_turns(messages: Sequence[Message]) -> Iterator[tuple[int, int, tuple[Message, ...]]]:
    """Yield the model's turns (adjacent messages are one) that may need state and have none, with their positions."""
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
    turn: Sequence[Message], cached: CachedReasoningByKey, upstream: Upstream, call_keys: CallKeys
) -> list[Message] | None:
    """Return a turn with its state, message by message; None: this upstream can open none of it."""
    has_text = any(isinstance(part, Reasoning) and part.text for message in turn for part in message.parts)
    include_text = upstream.capabilities.needs_reasoning_content and not has_text
    first: list[Part] = []
    rows: list[list[Part]] = []
    changed = False
    for message in turn:
        row: list[Part] = []
        for part in message.parts:
            entry = _find(part, call_keys, cached)
            if entry is None or not _is_of(entry, part):
                row.append(part)
                continue
            first += _usable(entry.first, upstream, include_text=include_text)
            row += _usable(entry.close, upstream, include_text=include_text)
            seals, _ = keep(entry.seals, upstream)
            row.append(msgspec.structs.replace(part, seals=seals) if seals else part)
            changed = changed or bool(seals)
        rows.append(row)
    has_reasoning = bool(first) or any(isinstance(part, Reasoning) and part.seals for row in rows for part in row)
    changed = changed or (include_text and any(isinstance(part, Reasoning) for row in rows for part in row))
    if not (changed or has_reasoning):
        return None
    if has_reasoning:
        if not include_text:
            rows = [[part for part in row if not isinstance(part, Reasoning) or part.seals] for row in rows]
        rows[0] = [*first, *rows[0]]
    return [
        msgspec.structs.replace(message, parts=tuple(row))
        for message, row in zip(turn, rows, strict=True)
        if row or not message.parts
    ]


def _usable(parts: Iterable[Reasoning], upstream: Upstream, *, include_text: bool) -> Iterator[Reasoning]:
    for part in parts:
        seals, others = keep(part.seals, upstream)
        if include_text and not part.seals:
            yield part
        elif seals:
            yield msgspec.structs.replace(part, seals=seals) if others else part


# ── storage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class ReasoningCache:
    """Cache reasoning by owner and call id. It never fails a call: an unavailable store acts as an empty one.

    Args:
        store: A bounded store for this cache only; its creator closes it.
        lifetime: Seconds that the reasoning of a tool call is kept after its last use.
        message_lifetime: Seconds that the state of a message is kept after its last use: as long as its response.
    """

    def __init__(
        self, store: RecordStore, *, lifetime: float = LIFETIME, message_lifetime: float = MESSAGE_LIFETIME
    ) -> None:
        self._store = store
        self._lifetime = lifetime
        self._message_lifetime = message_lifetime

    def _ttl(self, reasoning: CachedReasoning) -> float:
        return self._lifetime if reasoning.call else self._message_lifetime

    async def keep(self, owner: Owner, entries: ReasoningEntries) -> None:
        """Store the entries of a response, before its caller reads the end and may send the next request."""
        try:
            for call_id, reasoning in entries:
                await self._store.put(owner, call_id, _ENCODER.encode(reasoning), ttl=self._ttl(reasoning))
        except (Unavailable, TypeError, ValueError) as error:  # the latter two: values that JSON cannot hold
            _log.warning("Reasoning state could not be stored: %s", error)

    async def find(self, owner: Owner, call_ids: Sequence[str]) -> CachedReasoningByKey:
        """Find the reasoning of these calls and extend its lifetime: a tool loop needs it at every step."""
        if not call_ids:
            return NO_REASONING
        try:
            found = await self._store.get_many(owner, call_ids)
            entries = {key: reasoning for key, value in found.items() if (reasoning := _read(value)) is not None}
            for ttl in {self._ttl(reasoning) for reasoning in entries.values()}:
                keys = [key for key, reasoning in entries.items() if self._ttl(reasoning) == ttl]
                await self._store.touch(owner, keys, ttl=ttl)
        except Unavailable as error:
            _log.warning("Reasoning state could not be looked up: %s", error)
            return NO_REASONING
        return entries


def _read(value: bytes) -> CachedReasoning | None:
    try:
        return _DECODER.decode(value)
    except msgspec.DecodeError as error:
        _log.warning("Stored reasoning state cannot be decoded: %s", error)
        return None
