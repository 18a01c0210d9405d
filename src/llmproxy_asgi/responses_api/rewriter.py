"""Rewrite an upstream's response for its caller, and record the final state to store."""

from collections.abc import Mapping, Sequence
from typing import get_args

import msgspec

from llmproxy_asgi.responses_api.items import (
    EMPTY_LIST,
    EVENT_TYPE,
    STATE_FIELD,
    StoredItem,
    event_type,
    header_of,
    items_of,
    members_of,
    string_of,
    without_state,
)
from llmproxy_asgi.responses_api.store import Status
from llmproxy_asgi.translators.base import InboundRequest, State
from llmproxy_asgi.translators.openai_responses.mappings import is_answer_id
from llmproxy_asgi.translators.raw_json import join_object, raw, split_object
from llmproxy_asgi.wire import sse

_RESPONSE = b'"response"'
"""A key: in the strings of a stream, quotes are escaped."""
ENDINGS: Mapping[str, str] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
"""Events that end a stream, and the status of a response without one."""
_STATUSES: Mapping[str, Status] = {word: word for word in get_args(Status)}
_CONTINUABLE = frozenset({"completed", "incomplete"})


class FinalResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The final state of a response, as it is stored."""

    status: str
    response: bytes
    """The response object with an empty output."""
    output: tuple[StoredItem, ...] | None
    """The output items; None if the response can't be continued."""


def status_of(word: str) -> Status:
    """Return a response's status; unknown ones count as completed."""
    return _STATUSES.get(word, "completed")


class ResponseRewriter:
    """The rewriter of one response for its caller; it also records the final state.

    The upstream request has no storage fields, so the upstream reports that nothing is stored; the rewriter reports
    the caller's values. It reads only lifecycle events, and events with state that the caller did not request.

    Args:
        said: The caller's original request.
        passed_through: Whether the response comes from an upstream with this protocol.

    Attributes:
        id: The response's id; None for the upstream's id that is not known yet.
        final: The final state, after the last event.
        hides: Whether to remove reasoning state that only the gateway requested. The state of other vendors'
            responses remains, as callers send it back.
    """

    __slots__ = ("_echo", "_passed_through", "final", "hides", "id")

    def __init__(self, said: InboundRequest, *, passed_through: bool) -> None:
        state = said.state or State()
        self._passed_through = passed_through
        self.hides = passed_through and state.store and not state.shows_state
        self._echo = {
            "store": raw(state.store),
            "background": raw(state.background),
            "previous_response_id": raw(state.previous_id),
        }
        self.id: str | None = None if passed_through else state.answer_id
        self.final: FinalResponse | None = None

    def first_id(self, data: bytes) -> str | None:
        """Return the upstream's response id: empty if it is invalid, None if the data has none."""
        for frame in sse.decode(data) if _RESPONSE in data else ():
            values = members_of(frame.data)
            if values is not None and "response" in values:
                return _own_id(members_of(values["response"])) or ""
        return None

    def id_of(self, body: bytes) -> str:
        """Return the id of a complete upstream response; empty if it is invalid."""
        return _own_id(members_of(body)) or ""

    def feed(self, data: bytes) -> bytes:
        """Rewrite complete frames."""
        if not self.needs_rewrite(data):
            return data
        return b"".join(self._frame(frame) for frame in sse.decode(data))

    def needs_rewrite(self, data: bytes) -> bool:
        """Return whether frames may need rewriting."""
        return _RESPONSE in data or (self.hides and STATE_FIELD in data)

    def whole(self, body: bytes) -> bytes:
        """Rewrite a complete response."""
        values = split_object(body)
        return join_object(self._edited(values, "completed", ends=True))

    def _frame(self, frame: sse.Frame) -> bytes:
        if not self.needs_rewrite(frame.data):
            return frame.raw
        values = members_of(frame.data)
        if values is None:
            return frame.raw
        answer = members_of(values.get("response", b""))
        if answer is not None:
            kind = event_type(frame) or frame.event or ""
            status = ENDINGS.get(kind)
            values["response"] = msgspec.Raw(
                join_object(self._edited(answer, status or "in_progress", ends=bool(status)))
            )
        elif self.hides and "item" in values:
            values["item"] = without_state(values["item"])
        event = frame.event if frame.event and EVENT_TYPE.fullmatch(frame.event) else None
        return sse.encode(join_object(values), event=event)

    def _edited(self, answer: dict[str, msgspec.Raw], status: str, *, ends: bool) -> dict[str, msgspec.Raw]:
        if self.id is not None:
            answer["id"] = raw(self.id)
        if self._passed_through:
            answer |= self._echo
        output = items_of(answer.get("output", EMPTY_LIST))
        if ends:
            self._end(answer, status, output)
        if self.hides and output:
            answer["output"] = raw([without_state(item) for item in output])
        return answer

    def _end(self, answer: dict[str, msgspec.Raw], status: str, output: list[msgspec.Raw]) -> None:
        reported = string_of(answer.get("status"))
        word = status if reported is None else reported
        kept = {**answer, "output": EMPTY_LIST} if output else answer
        continuable = word in _CONTINUABLE
        self.final = FinalResponse(
            status=word,
            response=join_object(kept if continuable else answer),
            output=tuple(_identified(output)) if continuable else None,
        )


def _identified(output: Sequence[msgspec.Raw]) -> list[StoredItem]:
    found = ((header_of(item).id, item) for item in output)
    return [(own if isinstance(own, str) else "", item) for own, item in found]


def _own_id(answer: Mapping[str, msgspec.Raw] | None) -> str | None:
    found = string_of(answer.get("id")) if answer else None
    return found if isinstance(found, str) and is_answer_id(found) else None
