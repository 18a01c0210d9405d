"""Give passed-through tool calls distinct indexes and ids, which the official SDKs need.

Some servers send no ids, or equal ones, and some use one index for all parallel calls. Valid calls keep their bytes: in
a stream, only deltas that start a call are checked until one of them is invalid.
"""

import re
from collections.abc import Mapping, Sequence
from secrets import token_hex

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.names import DistinctIds
from llmproxy_asgi.translators.openai_chat.candidates import OpenCall, OpenCalls, find_call
from llmproxy_asgi.translators.openai_chat.schema import CHUNK, CallDelta, Choice
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.translators.surrogates import decode_replaced
from llmproxy_asgi.wire.json_body import elements
from llmproxy_asgi.wire.surrogates import replace_halves

BEGINS_CALL = re.compile(
    rb'tool_calls"[ \t]*:[ \t]*\[(?:[^"\]]++|(?!"(?:name|id)"[ \t]*:[ \t]*"[^"])"(?:[^"\\]++|\\.)*+")*+"(?:name|id)"'
)
"""Matches a list of calls with a name or an id in one pass: no two repetitions share a character."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def repair_response(body: bytes, choices: Sequence[Choice]) -> bytes:
    """Give each call of a complete response a distinct id; return the same bytes if they are distinct.

    Args:
        body: The response.
        choices: Its decoded choices.
    """
    for decoded in choices:  # once per response: a generator would cost as much as the whole check
        message_calls = decoded.message.tool_calls if decoded.message is not None else None
        if message_calls and not _are_distinct(message_calls):
            break
    else:
        return body
    nonce = token_hex(8)
    answer = split_object(replace_halves(body) or body)
    entries = []
    for number, entry in enumerate(elements(answer["choices"])):
        choice = split_object(entry)
        message = split_object(choice["message"]) if b'"tool_calls"' in bytes(entry) else {}
        if message.get("tool_calls") and bytes(message["tool_calls"]) != b"null":
            message["tool_calls"] = _with_ids(message["tool_calls"], DistinctIds(nonce), str(number))
            choice["message"] = msgspec.Raw(join_object(message))
        entries.append(join_object(choice))
    answer["choices"] = msgspec.Raw(b"[" + b",".join(entries) + b"]")
    return join_object(answer)


def _are_distinct(calls: Sequence[CallDelta]) -> bool:
    return all(call.id for call in calls) and len({call.id for call in calls}) == len(calls)


def _with_ids(calls: msgspec.Raw, ids: DistinctIds, seed: str) -> msgspec.Raw:
    repaired = []
    for entry in elements(calls):
        call = split_object(entry)
        given = msgspec.json.decode(call["id"]) if "id" in call else None
        call["id"] = raw(ids.of(given or "", seed))
        repaired.append(join_object(call))
    return msgspec.Raw(b"[" + b",".join(repaired) + b"]")


class _Candidate(OpenCalls):
    """The calls of one candidate, with distinct ids."""

    __slots__ = ("count", "ids", "number")

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.count = 0
        self.ids = DistinctIds()


class DistinctCalls:
    """The repair of one stream's calls.

    Args:
        client_model: The caller's name of the model, for rewritten chunks.

    Attributes:
        watching: Whether each delta of a call must be passed to `take`, because one was invalid.
    """

    __slots__ = ("_candidates", "_client_model", "_nonce", "watching")

    def __init__(self, client_model: str) -> None:
        self.watching = False
        self._client_model = client_model
        self._nonce = ""
        self._candidates: dict[int, _Candidate] = {}

    def take(self, data: bytes) -> bytes | None:
        """Repair a chunk with calls; return None if it is valid."""
        try:
            chunk = decode_replaced(CHUNK, data)
        except _UNREADABLE:
            return None
        changed = False
        calls: dict[int, list[CallDelta]] = {}
        for place, choice in enumerate(chunk.choices or ()):
            if choice.delta is None or not choice.delta.tool_calls:
                continue
            candidate = self._candidates.get(choice.index or 0)
            if candidate is None:
                candidate = self._candidates[choice.index or 0] = _Candidate(choice.index or 0)
            calls[place] = repaired = [self._repaired(candidate, piece) for piece in choice.delta.tool_calls]
            changed = changed or not all(map(_is_same, choice.delta.tool_calls, repaired))
        return _rewritten(data, calls, self._client_model) if changed else None

    def _repaired(self, candidate: _Candidate, piece: CallDelta) -> CallDelta:
        if not self.watching and self._is_in_order(candidate, piece):
            return CallDelta(index=piece.index, id=piece.id or None, type=_name(piece))
        self.watching = True
        return self._repair(candidate, piece)

    def _is_in_order(self, candidate: _Candidate, piece: CallDelta) -> bool:
        """Return whether clients that match by index see each call separately, with an id."""
        name = _name(piece) or ""
        if piece.index is None:
            return False
        known = candidate.by_index.get(piece.index)
        if known is None:
            if not piece.id or piece.id in candidate.by_id:
                return False
            known = find_call(candidate, piece)
            known.call_id, known.name, known.index = candidate.ids.of(piece.id), name, piece.index
            known.is_named = bool(name)
            candidate.count = max(candidate.count, piece.index + 1)
            candidate.by_id[piece.id] = known
            _add_arguments(known, piece)
            return True
        if (piece.id and piece.id != known.call_id) or (name and known.name):
            return False
        known.name = known.name or name
        known.is_named = bool(known.name)
        return True

    def _repair(self, candidate: _Candidate, piece: CallDelta) -> CallDelta:
        """Return the repaired index of a delta, its id in the first delta only, and its name as `type`."""
        call = find_call(candidate, piece)
        first = call.index < 0
        if first:
            self._number(candidate, call, piece)
        _add_arguments(call, piece)
        name = None if call.is_named else _name(piece)
        if name:
            call.name, call.is_named = name, True
        return CallDelta(index=call.index, id=call.call_id if first else None, type=name)

    def _number(self, candidate: _Candidate, call: OpenCall, piece: CallDelta) -> None:
        if candidate.count >= ir.MOST_CALLS:
            raise UpstreamProtocolError(f"The upstream's answer has more than {ir.MOST_CALLS} tool calls.")
        call.index = candidate.count
        candidate.count += 1
        self._nonce = self._nonce or token_hex(8)
        call.call_id = candidate.ids.of(piece.id or "", self._nonce, str(candidate.number))
        if piece.id:
            candidate.by_id[piece.id] = call


def _add_arguments(call: OpenCall, piece: CallDelta) -> None:
    text: str | None = None
    if piece.function is not None:
        given = piece.function.arguments
        text = given if given is None or type(given) is str else msgspec.json.encode(given).decode()
    elif piece.custom is not None:
        call.custom, text = True, piece.custom.input
    if text:
        call.arguments.append(text)


def _name(piece: CallDelta) -> str | None:
    named = piece.function or piece.custom
    return (named.name if named is not None else None) or None


def _is_same(piece: CallDelta, repaired: CallDelta) -> bool:
    return (piece.index, piece.id or None, _name(piece)) == (repaired.index, repaired.id, repaired.type)


def _rewritten(data: bytes, calls: Mapping[int, Sequence[CallDelta]], client_model: str) -> bytes:
    """Rewrite the calls of a chunk, by the positions of their choices; other bytes stay unchanged."""
    chunk = split_object(replace_halves(data) or data)
    if "model" in chunk:
        chunk["model"] = raw(client_model)
    choices: list[bytes] = []
    for place, entry in enumerate(elements(chunk["choices"])):
        if place in calls:
            choice = split_object(entry)
            delta = split_object(choice["delta"])
            pieces = [
                _written(split_object(piece), repaired)
                for piece, repaired in zip(elements(delta["tool_calls"]), calls[place], strict=True)
            ]
            delta["tool_calls"] = msgspec.Raw(b"[" + b",".join(pieces) + b"]")
            choice["delta"] = msgspec.Raw(join_object(delta))
            choices.append(join_object(choice))
        else:
            choices.append(bytes(entry))
    chunk["choices"] = msgspec.Raw(b"[" + b",".join(choices) + b"]")
    return join_object(chunk)


def _written(piece: dict[str, msgspec.Raw], repaired: CallDelta) -> bytes:
    piece["index"] = raw(repaired.index)
    if repaired.id is None:
        piece.pop("id", None)
    else:
        piece["id"] = raw(repaired.id)
        if bytes(piece.get("type", b"null")) == b"null":
            piece["type"] = raw("custom" if "custom" in piece else "function")
    for kind in ("function", "custom"):
        if repaired.type is None and kind in piece and b'"name"' in bytes(piece[kind]):
            inner = split_object(piece[kind])
            inner.pop("name", None)
            piece[kind] = msgspec.Raw(join_object(inner))
    return join_object(piece)
