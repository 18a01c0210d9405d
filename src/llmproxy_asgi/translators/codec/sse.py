"""Decode a stream of server-sent events whose data is JSON."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.answer_bounds import event_check
from llmproxy_asgi.translators.base import StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.events import NO_END, CandidateT, EventBuilder
from llmproxy_asgi.translators.stray_errors import read_loosely
from llmproxy_asgi.translators.surrogates import SurrogateJoiner, decode_marked
from llmproxy_asgi.wire import sse

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_FAILURES = (GatewayError, sse.EventTooLarge, *UNREADABLE)
_NOTHING = ir.Batch(())
_BLANK = b"\n\n"
_DONE = b"[DONE]"
"""OpenAI's end sign, which compatible servers of other protocols send, too."""
_T = TypeVar("_T")


class JSONEventDecoder(StreamDecoder, Generic[CandidateT]):
    """The base of stream decoders: frames events, decodes their JSON, and ends the stream if that fails.

    A subclass decodes an event in `event`, and may decode reads of only frequent events faster in `block`.

    Args:
        upstream_request: The upstream request.
        upstream: The upstream that answers.
    """

    candidate: ClassVar[type[Any]]
    """The class of its candidates."""
    many: ClassVar[tuple[Sequence[str], ...]] = ()
    """The paths to entries of an event that may be very many: see `answer_bounds`."""
    error: Callable[[Any], GatewayError]
    """Decodes the data of an event named `error`."""
    find_error: Callable[[bytes], GatewayError | None]
    """Returns the error that is sent in the place of an event, in any format."""

    def __init__(self, upstream_request: UpstreamRequest, upstream: Upstream) -> None:
        self._upstream_request = upstream_request
        self._upstream = upstream
        self._events: EventBuilder[CandidateT] = EventBuilder(upstream_request, self.candidate)
        self._splitter = sse.FrameSplitter(max_event=upstream.max_event, is_crowded=event_check(*self.many))
        self._complete: Any = self._splitter.complete
        self._joiner: SurrogateJoiner | None = None

    @abstractmethod
    def event(self, name: str | None, data: bytes) -> None:
        """Decode an event. Errors of the gateway and of `msgspec` end the stream."""

    def done(self) -> None:
        """Handle the end sign `[DONE]`."""

    def end(self) -> None:
        """End the answer at the end of the body."""
        self._events.fail(UpstreamProtocolError(NO_END))

    def block(self, block: Any) -> None:
        """Decode complete frames."""
        for frame in sse.decode(block):
            data = frame.data if frame.data[:1] == b"{" else frame.data.strip()
            if frame.event == "error":
                self._events.fail(self.error(read_loosely(data)))
            elif data == _DONE:
                self.done()
            elif data:
                self.event(frame.event, data)
            if self._events.over:
                return

    def tail(self) -> Any:
        """Return the frame that the end of the body completes."""
        tail = self._splitter.tail
        return tail + _BLANK if tail else b""

    @override
    def feed(self, data: bytes) -> ir.Batch:
        builder = self._events
        if builder.over:
            return _NOTHING
        try:
            block = self._complete(data)
            if not block:
                return _NOTHING
            self.block(block)
        except _FAILURES as error:
            builder.fail(_failure(error))
        events, builder.pending = builder.pending, []
        return ir.Batch(events if self._joiner is None else self._joiner.join(events))

    @override
    def close(self) -> ir.Batch:
        if self._events.over:
            return _NOTHING
        try:
            if tail := self.tail():
                self.block(tail)
            if not self._events.over:
                self.end()
        except _FAILURES as error:
            self._events.fail(_failure(error))
        events = self._events.take()
        return ir.Batch(events if self._joiner is None else self._joiner.join(events))

    def decode(self, decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
        """Decode an event.

        Raises:
            GatewayError: It is an error in the place of an event, or unreadable.
        """
        try:
            return decoder.decode(data)
        except UNREADABLE:
            return self.repaired(decoder, data)

    def repaired(self, decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T:
        """Decode an event that strict decoding refused: one that has half of a surrogate pair.

        Raises:
            GatewayError: As `decode`.
        """
        try:
            event = decode_marked(decoder, data)
        except UNREADABLE as error:
            raise self.find_error(data) or _failure(error) from None
        self._joiner = self._joiner or SurrogateJoiner()
        return event


def _failure(error: Exception) -> GatewayError:
    """Return the error that ends the stream."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, sse.EventTooLarge):
        return UpstreamProtocolError(f"The upstream sent {error}.")
    return UpstreamProtocolError("The upstream sent an event that cannot be read.")
