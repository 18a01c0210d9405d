"""Where a conversation was served before: there its prompt cache is warm and its reasoning state can be opened.

A conversation is known by what its caller calls it, or by how it begins; it belongs to one owner. What is remembered is
bounded, forgotten after a while, and never more than a hint: a place that rests or is gone is passed over.
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

LASTS = 3600.0
"""Seconds after its last call that a conversation's place is remembered; the longest prompt caches last as long."""
MOST = 50_000
"""Conversations of one process that are remembered."""

SESSION_HEADERS = ("x-session-id", "session_id", "session-id")
"""Request headers by which callers name their conversations, the first one sent counts."""

_MESSAGES = ("messages", "input", "contents")
_SYSTEM = ("system", "instructions", "systemInstruction", "system_instruction")
_NAMED = "prompt_cache_key"
_MARK = "cache_control"
"""Moves from turn to turn, and says nothing."""


class Place(NamedTuple):
    """Who served a conversation."""

    target: str
    """A target's name."""
    credential: str
    """A credential's fingerprint."""


class Conversation(NamedTuple):
    """One conversation, as it can be told from others of its owner."""

    key: bytes
    goes_on: bool
    """Whether something was said before this call."""


class Affinities:
    """Places, by owner and conversation.

    Args:
        clock: Tells what is old.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._places: OrderedDict[tuple[Owner, str, bytes], tuple[float, Place]] = OrderedDict()

    def find(self, owner: Owner, model: str, conversation: Conversation) -> Place | None:
        """Where a conversation was last served; None where it begins, or nothing is known."""
        if not conversation.goes_on:
            return None
        kept = self._places.get((owner, model, conversation.key))
        return kept[1] if kept is not None and kept[0] > self._clock.monotonic() else None

    def keep(self, owner: Owner, model: str, conversation: Conversation, place: Place) -> None:
        """A conversation is served there now."""
        key = (owner, model, conversation.key)
        self._places.pop(key, None)  # and added at the end: several threads may do so at once
        self._places[key] = (self._clock.monotonic() + LASTS, place)
        if len(self._places) > MOST:
            self._places.popitem(last=False)

    def forget(self, owner: Owner) -> int:
        """Forget an owner's places; how many there were."""
        found = [key for key in self._places if key[0] == owner]
        for key in found:
            del self._places[key]
        return len(found)


def conversation_in(inbound_request: InboundRequest, headers: Headers) -> Conversation | None:
    """The conversation that a request belongs to; None where nothing tells it.

    Args:
        inbound_request: The request, unread: only its beginning is looked into.
        headers: Of the request.
    """
    named = next((headers[name] for name in SESSION_HEADERS if headers.get(name)), None)
    if named is not None:
        return Conversation(_digest(named.encode()), goes_on=True)
    key = inbound_request.raw.get(_NAMED)
    if key is not None and bytes(key) not in (b"null", b'""'):
        return Conversation(_digest(bytes(key)), goes_on=True)
    said = next((inbound_request.raw[name] for name in _MESSAGES if name in inbound_request.raw), None)
    if said is None:
        return None
    system = [inbound_request.raw[name] for name in _SYSTEM if name in inbound_request.raw]
    return _by_beginning(said, system)


def conversation_of(request: Request) -> Conversation | None:
    """The same for a request made in Python."""
    said = []
    for message in request.messages:
        said.append(repr((message.role, [getattr(part, "text", "") for part in message.parts])).encode())
        if message.role == "user":
            return Conversation(_digest(*said), goes_on=len(request.messages) > len(said))
    return None


def _by_beginning(said: msgspec.Raw, system: list[msgspec.Raw]) -> Conversation | None:
    """By all that stands up to its first word of a user's."""
    try:
        items = msgspec.json.decode(said, type=list[msgspec.Raw])
        beginning: list[Any] = []
        for number, item in enumerate(items, 1):
            value = msgspec.json.decode(item)
            beginning.append(value)
            if isinstance(value, dict) and value.get("role", "user") == "user":
                head = [msgspec.json.decode(each) for each in system]
                key = _digest(msgspec.json.encode(_unmarked([head, beginning])))
                return Conversation(key, goes_on=number < len(items))
    except (msgspec.MsgspecError, RecursionError, ValueError):
        pass  # what cannot be read here is refused, in words, where it is read whole
    return None


def _unmarked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _unmarked(item) for name, item in value.items() if name != _MARK}
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    return value


def _digest(*pieces: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.digest()
