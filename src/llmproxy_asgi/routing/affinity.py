"""Affinity: the target and credential that served a conversation before, where its prompt cache and reasoning are.

A conversation is identified by the caller's name for it, or by its beginning, within one owner. Affinities are bounded,
expire, and are only hints: a target that cools down or was removed is skipped.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.conversation import Request
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.translators.base import Headers, InboundRequest

TTL = 3600.0
"""Seconds after its last call that a conversation's affinity is kept; the longest prompt caches last as long."""
MAX_CONVERSATIONS = 50_000
"""Conversations of one process whose affinity is kept."""

SESSION_HEADERS = ("x-session-id", "session_id", "session-id")
"""Request headers in which callers name their conversations; the first one present is used."""

_MESSAGES = ("messages", "input", "contents")
_SYSTEM = ("system", "instructions", "systemInstruction", "system_instruction")
_NAMED = "prompt_cache_key"
_MARK = "cache_control"
"""Moves from turn to turn, so it is no part of a key."""


class Affinity(NamedTuple):
    """The target and credential that served a conversation."""

    target: str
    """A target's name."""
    credential: str
    """A credential's fingerprint."""


class ConversationKey(NamedTuple):
    """Identifies a conversation among those of its owner."""

    key: bytes
    is_continued: bool
    """Whether there was a turn before this call."""


class Affinities:
    """Affinities by owner and conversation.

    Args:
        clock: Measures their age.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._affinities: OrderedDict[tuple[Owner, str, bytes], tuple[float, Affinity]] = OrderedDict()

    def find(self, owner: Owner, model: str, conversation: ConversationKey) -> Affinity | None:
        """Return the affinity of a conversation; None if it begins, or none is known."""
        if not conversation.is_continued:
            return None
        kept = self._affinities.get((owner, model, conversation.key))
        return kept[1] if kept is not None and kept[0] > self._clock.monotonic() else None

    def keep(self, owner: Owner, model: str, conversation: ConversationKey, affinity: Affinity) -> None:
        """Keep the affinity of a conversation that is served now."""
        key = (owner, model, conversation.key)
        self._affinities.pop(key, None)  # it is added again at the end; several threads may do so at once
        self._affinities[key] = (self._clock.monotonic() + TTL, affinity)
        if len(self._affinities) > MAX_CONVERSATIONS:
            self._affinities.popitem(last=False)

    def forget(self, owner: Owner) -> int:
        """Forget the affinities of an owner, and return their number."""
        found = [key for key in self._affinities if key[0] == owner]
        for key in found:
            del self._affinities[key]
        return len(found)


def conversation_in(inbound_request: InboundRequest, headers: Headers) -> ConversationKey | None:
    """Return the key of a request's conversation; None if nothing identifies it.

    Args:
        inbound_request: The request; only its beginning is decoded.
        headers: The headers of the request.
    """
    named = next((headers[name] for name in SESSION_HEADERS if headers.get(name)), None)
    if named is not None:
        return ConversationKey(_digest(named.encode()), is_continued=True)
    key = inbound_request.raw.get(_NAMED)
    if key is not None and bytes(key) not in (b"null", b'""'):
        return ConversationKey(_digest(bytes(key)), is_continued=True)
    messages = next((inbound_request.raw[name] for name in _MESSAGES if name in inbound_request.raw), None)
    if messages is None:
        return None
    system = [inbound_request.raw[name] for name in _SYSTEM if name in inbound_request.raw]
    return _key_of_beginning(messages, system)


def conversation_of(request: Request) -> ConversationKey | None:
    """Return the key of the conversation of a request made in Python."""
    beginning = []
    for message in request.messages:
        beginning.append(repr((message.role, [getattr(part, "text", "") for part in message.parts])).encode())
        if message.role == "user":
            return ConversationKey(_digest(*beginning), is_continued=len(request.messages) > len(beginning))
    return None


def _key_of_beginning(messages: msgspec.Raw, system: list[msgspec.Raw]) -> ConversationKey | None:
    """Return the key of everything up to the first message of the user."""
    try:
        items = msgspec.json.decode(messages, type=list[msgspec.Raw])
        beginning: list[Any] = []
        for number, item in enumerate(items, 1):
            value = msgspec.json.decode(item)
            beginning.append(value)
            if isinstance(value, dict) and value.get("role", "user") == "user":
                head = [msgspec.json.decode(each) for each in system]
                key = _digest(msgspec.json.encode(_without_marks([head, beginning])))
                return ConversationKey(key, is_continued=number < len(items))
    except (msgspec.MsgspecError, RecursionError, ValueError):
        pass  # an invalid request is rejected where it is decoded whole
    return None


def _without_marks(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_marks(item) for name, item in value.items() if name != _MARK}
    if isinstance(value, list):
        return [_without_marks(item) for item in value]
    return value


def _digest(*pieces: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.digest()
