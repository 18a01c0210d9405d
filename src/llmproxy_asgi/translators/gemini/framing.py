"""How a stream of chunks is framed: as server-sent events, or as a JSON array whose elements come one by one.

Upstreams are asked for events; what came is told by its first byte. A caller who did not ask for events gets the array,
and the request itself remembers how far that array is: an error can then end it properly, whoever writes it.
"""

from msgspec import field

from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.base import Intake
from llmproxy_asgi.wire import sse
from llmproxy_asgi.wire.json_stream import ArrayDecoder, ArrayEncoder, ElementTooLarge, NotAnArray

_EMPTY = (b"", b"[DONE]")
"""What some compatible servers send between or after chunks."""
_SHORT = 10


class ArrayIntake(Intake, frozen=True, kw_only=True):
    """A request whose answer is a JSON array."""

    array: ArrayEncoder = field(default_factory=ArrayEncoder)


class ChunkFrames:
    """Reads either framing.

    Args:
        max_event: Bytes of the longest chunk.
    """

    def __init__(self, max_event: int) -> None:
        self._max_event = max_event
        self._events: sse.Decoder | None = None
        self._array: ArrayDecoder | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The chunks that are now whole.

        Raises:
            UpstreamProtocolError: What came is neither, or one chunk is too long.
        """
        if self._events is not None:
            return self._of_events(data)
        if self._array is None:
            data = data.lstrip()
            if not data:
                return []
            if data[:1] != b"[":
                self._events = sse.Decoder(max_event=self._max_event)
                return self._of_events(data)
            self._array = ArrayDecoder(max_element=self._max_event)
        try:
            return self._array.feed(data)
        except (NotAnArray, ElementTooLarge) as error:
            raise UpstreamProtocolError(f"The upstream's stream cannot be read: {error}.") from None

    def close(self) -> list[bytes]:
        """The last chunk, where its blank line was forgotten.

        Raises:
            UpstreamProtocolError: The array was cut off.
        """
        if self._events is not None:
            return [frame.data for frame in self._events.close() if not is_blank(frame.data)]
        if self._array is not None:
            try:
                self._array.close()
            except NotAnArray as error:
                raise UpstreamProtocolError(f"The upstream's stream cannot be read: {error}.") from None
        return []

    def _of_events(self, data: bytes) -> list[bytes]:
        assert self._events is not None
        try:
            return [frame.data for frame in self._events.feed(data) if not is_blank(frame.data)]
        except sse.EventTooLarge as error:
            raise UpstreamProtocolError(f"The upstream sent {error}.") from None


def is_blank(data: bytes) -> bool:
    """Whether an event's data is none of a chunk."""
    return len(data) < _SHORT and data.strip() in _EMPTY


def frame(chunk: bytes, intake: Intake) -> bytes:
    """A chunk as this caller reads it."""
    if isinstance(intake, ArrayIntake):
        return intake.array.element(chunk)
    return sse.encode(chunk)


def end(intake: Intake) -> bytes:
    """The end of a stream: events have none."""
    return intake.array.close() if isinstance(intake, ArrayIntake) else b""
