"""How a stream of chunks is framed: as server-sent events, or as a JSON array whose elements come one by one.

Upstreams are asked for events; what came is told by its first byte. A caller who did not ask for events gets the array,
and the request itself remembers how far that array is: an error can then end it properly, whoever writes it.
"""

from collections.abc import Callable
from typing import ClassVar

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

    media_type: ClassVar[bytes] = b"application/json"

    array: ArrayEncoder = field(default_factory=ArrayEncoder)


class ChunkFrames:
    """Reads either framing.

    Args:
        max_event: Bytes of the longest chunk.
    """

    __slots__ = ("_array", "_complete", "_max_event", "_splitter")

    def __init__(self, max_event: int) -> None:
        self._max_event = max_event
        self._splitter = sse.FrameSplitter(max_event=max_event)
        self._complete: Callable[[bytes], bytes] | None = None
        self._array: ArrayDecoder | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The chunks that are now whole.

        Raises:
            UpstreamProtocolError: What came is neither, or one chunk is too long.
        """
        try:
            if self._complete is not None:
                return _datas(self._complete(data))
            if self._array is None:
                data = data.lstrip()
                if not data:
                    return []
                if data[:1] != b"[":
                    self._complete = self._splitter.complete
                    return _datas(self._complete(data))
                self._array = ArrayDecoder(max_element=self._max_event)
            return self._array.feed(data)
        except sse.EventTooLarge as error:
            raise UpstreamProtocolError(f"The upstream sent {error}.") from None
        except (NotAnArray, ElementTooLarge) as error:
            raise UpstreamProtocolError(f"The upstream's stream cannot be read: {error}.") from None

    def close(self) -> list[bytes]:
        """The last chunk, where its blank line was forgotten.

        Raises:
            UpstreamProtocolError: The array was cut off.
        """
        if self._array is not None:
            try:
                self._array.close()
            except NotAnArray as error:
                raise UpstreamProtocolError(f"The upstream's stream cannot be read: {error}.") from None
        tail = self._splitter.tail
        return _datas(tail + b"\n\n") if tail else []


def _datas(block: bytes) -> list[bytes]:
    """The data of whole events."""
    if not block:
        return []
    lines = sse.only_data(block)
    if lines is None:
        lines = [frame.data for frame in sse.decode(block)]
    elif len(lines) == 1 and len(lines[0]) >= _SHORT:
        return lines
    return [line for line in lines if len(line) >= _SHORT or line.strip() not in _EMPTY]


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
