"""Frame streams of chunks: as server-sent events, or as a JSON array that is sent element by element.

Upstreams are asked for events; the first byte shows which framing they send. A caller that doesn't ask for events gets
an array. The request holds that array's state, so that any code that writes an error can end the array.
"""

from collections.abc import Callable
from typing import ClassVar

from msgspec import field

from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.answer_bounds import event_check
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.wire import sse
from llmproxy_asgi.wire.json_stream import ArrayDecoder, ArrayEncoder, ElementTooLarge, NotAnArray

_FILLERS = (b"", b"[DONE]")
"""Data that some compatible servers send between or after chunks."""
_MIN_CHUNK = 10
MANY = ("candidates", "*", "logprobsResult", "*", "*")
"""The path to the entries of a response or of a chunk that may be very many."""
_IS_CROWDED = event_check(MANY)


class ArrayInboundRequest(InboundRequest, frozen=True, kw_only=True):
    """A request whose response is a JSON array."""

    media_type: ClassVar[bytes] = b"application/json"

    array: ArrayEncoder = field(default_factory=ArrayEncoder)


class ChunkSplitter:
    """The splitter of a stream into chunks, for both framings.

    Args:
        max_event: The largest chunk, in bytes.
    """

    __slots__ = ("_array", "_complete", "_max_event", "_splitter")

    def __init__(self, max_event: int) -> None:
        self._max_event = max_event
        self._splitter = sse.FrameSplitter(max_event=max_event, is_crowded=_IS_CROWDED)
        self._complete: Callable[[bytes], bytes] | None = None
        self._array: ArrayDecoder | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the chunks that are now complete.

        Raises:
            UpstreamProtocolError: The data has neither framing, or a chunk is too long.
        """
        try:
            if self._complete is not None:
                return _event_data(self._complete(data))
            if self._array is None:
                data = data.lstrip()
                if not data:
                    return []
                if data[:1] != b"[":
                    self._complete = self._splitter.complete
                    return _event_data(self._complete(data))
                self._array = ArrayDecoder(max_element=self._max_event)
            return self._refuse_crowded(self._array.feed(data))
        except sse.EventTooLarge as error:
            raise UpstreamProtocolError(f"The upstream sent {error}.") from None
        except (NotAnArray, ElementTooLarge) as error:
            raise UpstreamProtocolError(f"The upstream's stream cannot be read: {error}.") from None

    def _refuse_crowded(self, chunks: list[bytes]) -> list[bytes]:
        if any(len(chunk) > sse.UNCOUNTED and _IS_CROWDED(chunk) for chunk in chunks):
            raise sse.EventTooCrowded(self._max_event)
        return chunks

    def close(self) -> list[bytes]:
        """Return the last chunk, if its blank line is missing.

        Raises:
            UpstreamProtocolError: The array is incomplete.
        """
        if self._array is not None:
            try:
                self._array.close()
            except NotAnArray as error:
                raise UpstreamProtocolError(f"The upstream's stream cannot be read: {error}.") from None
        tail = self._splitter.tail
        return _event_data(tail + b"\n\n") if tail else []


def _event_data(block: bytes) -> list[bytes]:
    """Return the data of complete events."""
    if not block:
        return []
    lines = sse.only_data(block)
    if lines is None:
        lines = [event.data for event in sse.decode(block)]
    elif len(lines) == 1 and len(lines[0]) >= _MIN_CHUNK:
        return lines
    return [line for line in lines if len(line) >= _MIN_CHUNK or line.strip() not in _FILLERS]


def is_filler(data: bytes) -> bool:
    """Return whether an event's data is not a chunk."""
    return len(data) < _MIN_CHUNK and data.strip() in _FILLERS


def encode_frame(chunk: bytes, inbound_request: InboundRequest) -> bytes:
    """Encode a chunk in the caller's framing."""
    if isinstance(inbound_request, ArrayInboundRequest):
        return inbound_request.array.element(chunk)
    return sse.encode(chunk)


def encode_end(inbound_request: InboundRequest) -> bytes:
    """Encode the end of a stream; event streams have none."""
    return inbound_request.array.close() if isinstance(inbound_request, ArrayInboundRequest) else b""
