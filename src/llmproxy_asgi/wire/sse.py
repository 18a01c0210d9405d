"""Decode and encode server-sent events.

Source: WHATWG HTML, section 9.2 "Server-sent events", 9.2.5 "Parsing an event stream" and 9.2.6
"Interpreting an event stream", https://html.spec.whatwg.org/multipage/server-sent-events.html.

A frame is everything up to and including a blank line. A line ends in LF, CRLF or CR and in nothing
else; U+2028 and its like are text. So a frame ends where one line end follows another::

    LF LF      LF CR [LF]      CR CR [LF]        CRLF CRLF is the second: its first CR ends nothing new

The LF in brackets is optional, so no frame waits for its last byte: the CR has ended it, and an LF that arrives later
is one more blank line, which has no meaning.

Two decoders use these rules. `FrameSplitter` only finds the ends, for passthrough. `Decoder` also decodes the fields,
as does `decode` for complete frames. Both are linear in the bytes, however these are split: buffered bytes are searched
once and copied once.

Not supported: `id` and `retry` (a model's response is not resumed), reconnecting, and text decoding of data (the JSON
decoder takes bytes, and a character split by the network is complete within its frame).
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable
from functools import lru_cache

import msgspec

DEFAULT_MAX_EVENT = 16 * 1024 * 1024
"""Bytes. An image is sent in one event, in base64."""

# As integers: `in` with an integer is the cheapest search in bytes, as slicing is the cheapest test of an end.
_LF, _CR = b"\n\r"
_ENDS_OF_NAMED = 3  # line ends of a frame of two lines: theirs, and the blank line's
_FRAME_END = re.compile(rb"\n(?:\n|\r\n?)|\r\r\n?")
_BLANK_LINES = re.compile(rb"[\r\n]+")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_EVENT_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class EventTooLarge(ValueError):
    """An event exceeds the limit; the rest of its stream cannot be read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"an event is longer than {limit} bytes")
        self.limit = limit


class EventTooCrowded(EventTooLarge):
    """An event holds more JSON values than are decoded at once."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.args = ("an event with too many JSON values",)


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One dispatched event."""

    event: str | None
    """The event's name; None if it is missing or empty."""
    data: bytes
    """The data lines, joined by LF. Not decoded: may contain invalid UTF-8."""
    raw: bytes
    """The frame's bytes as received, with its terminating blank line.

    The blank line is missing from a last frame without one. The LF of a CRLF that ends a frame is missing if a read
    ended just before it.
    """


MAX_LINES = 100_000
"""Lines of one event."""
_LONG = 128 * 1024
"""Bytes of a block whose lines are counted."""
UNCOUNTED = 2**20
"""Bytes of an event whose values are not counted: it decodes quickly, however many it holds."""


class FrameSplitter:
    """Finds the ends of frames and buffers the incomplete tail; decodes nothing.

    Call either `complete` or `split` for each read. Except for a byte order mark at the stream's start, no byte is lost
    or changed: the returned bytes, joined with `tail`, are the input.

    A frame longer than `max_event` bytes, complete or not, or one of more than `MAX_LINES` lines raises
    `EventTooLarge`; the splitter cannot be used afterwards.

    Args:
        max_event: The maximum bytes of a frame.
        is_crowded: Tells whether the data of an event of more than `UNCOUNTED` bytes holds too many values; None: it is
            not counted. Such an event raises `EventTooCrowded`, or is not part of `tail`.
    """

    __slots__ = ("_at_frame_start", "_at_stream_start", "_is_crowded", "_max_event", "_tail")

    def __init__(
        self, *, max_event: int = DEFAULT_MAX_EVENT, is_crowded: Callable[[bytes], bool] | None = None
    ) -> None:
        self._max_event = max_event
        self._is_crowded = is_crowded
        self._tail = bytearray()
        self._at_stream_start = True
        self._at_frame_start = False  # nothing held back, and no mark to look for

    @property
    def tail(self) -> bytes:
        """The buffered bytes after the last frame end."""
        tail = bytes(self._tail)
        return b"" if len(tail) > UNCOUNTED and self._holds_crowded(tail + b"\n\n") else tail

    def complete(self, data: bytes) -> bytes:
        """Return everything up to and including the last frame end, starting with the buffered tail.

        Returns `data` itself, without a copy, if it starts and ends with a frame.

        Raises:
            EventTooLarge: A frame is longer than `max_event`.
        """
        ends_with_frame = data[-2:] == b"\n\n" or data[-4:] == b"\r\n\r\n"
        if ends_with_frame and self._at_frame_start and len(data) <= self._max_event:
            return data
        if self._at_stream_start:
            data = self._without_mark(data)
        block = self._extend(data) if self._tail else self._begin(data)
        self._at_frame_start = not (self._tail or self._at_stream_start)
        self._check_size(block)
        return block

    def split(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes.

        Each starts with its first field or comment. Blank lines after the one that ends a frame are separate pieces.

        Raises:
            EventTooLarge: A frame is longer than `max_event`.
        """
        return _split_frames(self.complete(data))

    def _without_mark(self, data: bytes) -> bytes:
        head = bytes(self._tail) + data
        self._tail.clear()
        if len(head) < len(BOM_UTF8) and BOM_UTF8.startswith(head):
            self._tail += head
            return b""
        self._at_stream_start = False
        return head.removeprefix(BOM_UTF8)

    def _begin(self, data: bytes) -> bytes:
        end = _last_end(data, 0)
        if data[:1] in (b"\n", b"\r"):  # at a frame's start one line end makes a blank line
            end = max(end, len(data) - len(data.lstrip(b"\r\n")))
        self._tail += data[end:]
        return data[:end]

    def _extend(self, data: bytes) -> bytes:
        tail = self._tail
        searched = len(tail) - 1  # its last byte may be the first half of a frame end
        tail += data
        end = _last_end(tail, searched)
        if not end:
            return b""
        unfinished = data[len(data) - (len(tail) - end) :]
        del tail[end:]
        block = bytes(tail)
        self._tail = bytearray(unfinished)
        return block

    def _check_size(self, block: bytes) -> None:
        limit = self._max_event
        # Reads are short, so only a long event makes a long block. That many lines would take a second to decode.
        too_many_lines = len(block) > _LONG and block.count(b"\n") + block.count(b"\r") > MAX_LINES
        too_large = (
            too_many_lines
            or len(self._tail) > limit
            or (
                len(block) > limit
                and any(len(piece) > limit and piece[0] not in b"\r\n" for piece in _split_frames(block))
            )
        )
        if too_large:
            self._tail = bytearray()
            raise EventTooLarge(limit)
        if len(block) > UNCOUNTED and self._holds_crowded(block):
            self._tail = bytearray()
            raise EventTooCrowded(limit)

    def _holds_crowded(self, block: bytes) -> bool:
        is_crowded = self._is_crowded
        return is_crowded is not None and any(
            len(frame.data) > UNCOUNTED and is_crowded(frame.data) for frame in decode(block)
        )


class Decoder:
    """Decodes bytes into events.

    Comments, unknown fields, `id` and `retry` are ignored. A frame without a data line is not an event; one with empty
    data is.

    A frame longer than `max_event` bytes, complete or not, raises `EventTooLarge`; the decoder cannot be used
    afterwards.
    """

    __slots__ = ("_complete", "_splitter")

    def __init__(self, *, max_event: int = DEFAULT_MAX_EVENT) -> None:
        self._splitter = FrameSplitter(max_event=max_event)
        self._complete = self._splitter.complete

    def feed(self, data: bytes) -> list[Frame]:
        """Return the events that `data` completes.

        Raises:
            EventTooLarge: A frame is longer than `max_event`.
        """
        block = self._complete(data)
        return decode(block) if block else []

    def close(self) -> list[Frame]:
        """Return the last event if the stream ended without its blank line.

        The specification drops it; but some upstreams omit the blank line, and a truncated event is reported as
        malformed data, which is better than being lost.
        """
        frame = _decode_frame(self._splitter.tail)
        return [] if frame is None else [frame]


def decode(block: bytes) -> list[Frame]:
    """Decode complete frames, such as `FrameSplitter.complete` returns, into events."""
    frames: list[Frame] | None = None
    if block.startswith(b"data: "):
        frames = _decode_data_lines(block)
    elif block.startswith(b"event: "):
        frames = _decode_named_lines(block)
    if frames is None:
        return [frame for raw in _split_frames(block) if (frame := _decode_frame(raw)) is not None]
    return frames


def only_data(block: bytes) -> list[bytes] | None:
    """Return the data of complete frames if each is one `data: ` line; otherwise None.

    It takes a few searches over the block instead of one per line: nearly every read of a stream is of this kind. If
    the splits account for all line ends, no frame has another line.
    """
    if block[:6] != b"data: ":
        return None
    if _CR not in block:
        data = block[6:-2]
        if _LF not in data:
            return [data]
        lines = data.split(b"\n\ndata: ")
        if data.count(b"\n") == 2 * (len(lines) - 1):
            return lines
    elif block.endswith(b"\r\n\r\n"):
        lines = block[6:-4].split(b"\r\n\r\ndata: ")
        if block.count(b"\n") == 2 * len(lines) == block.count(b"\r"):
            return lines
    return None


def only_named(block: bytes, head: bytes) -> list[bytes] | None:
    r"""Return the data of complete frames if each is one `event: ` line and one `data: ` line that begin with `head`.

    Args:
        block: Complete frames.
        head: ``event: NAME\ndata: ``; removed from the returned data.
    """
    begin = len(head)
    if block[:begin] != head or _CR in block:
        return None
    data = block[begin:-2]
    if _LF not in data:
        return [data]
    lines = data.split(b"\n\n" + head)
    return lines if data.count(b"\n") == _ENDS_OF_NAMED * (len(lines) - 1) else None


def first_frame_end(block: bytes, start: int) -> int:
    """Return the end of the first of these complete frames after `start`, blank lines before it included."""
    first = _BLANK_LINES.match(block, start)
    if first is not None and first.end() == len(block):
        return first.end()
    return _end(_FRAME_END.search(block, start if first is None else first.end()))


def frame_start(block: bytes, position: int) -> int:
    """Return the start of the frame that contains the byte at `position`."""
    return _last_end(block[:position], 0)


def encode(data: bytes, event: str | None = None) -> bytes:
    """Encode one frame with `data` of any number of lines.

    Line ends within `data` become LF.

    Raises:
        ValueError: `event` contains other characters than ASCII letters, digits, dots, dashes and underscores.
    """
    if _LF in data or _CR in data:
        data = _LINE_END.sub(b"\ndata: ", data)
    if event is None:
        return b"data: %b\n\n" % data
    return b"%bdata: %b\n\n" % (_event_line(event), data)


def comment(text: str) -> bytes:
    """Encode a comment, which clients ignore; it keeps a silent connection alive."""
    return b": %b\n\n" % _LINE_END.sub(b"\n: ", text.encode())


@lru_cache(maxsize=256)
def _event_line(event: str) -> bytes:
    if not _EVENT_NAME.fullmatch(event):
        raise ValueError(f"not a valid event name: {event!r}")
    return b"event: %b\n" % event.encode()


def _last_end(buffer: bytes | bytearray, start: int) -> int:
    """Return the end of the last frame that ends after `start`; 0 if none does."""
    end = buffer.rfind(b"\n\n", start) + 2
    if end == 1:
        end = 0
    if buffer.find(b"\r", start) < 0:
        return end
    for pair in (b"\n\r", b"\r\r"):
        at = buffer.rfind(pair, start)
        if at >= 0:
            stop = at + 2
            end = max(end, stop + 1 if buffer[stop : stop + 1] == b"\n" else stop)
    return end


def _split_frames(block: bytes) -> list[bytes]:
    """Split a block into complete frames and the runs of blank lines between them."""
    pieces: list[bytes] = []
    plain = _CR not in block
    start, size = 0, len(block)
    while start < size:
        if block[start] in b"\r\n":
            stop = _end(_BLANK_LINES.match(block, start))
        elif plain:
            stop = block.index(b"\n\n", start) + 2
        else:
            stop = _end(_FRAME_END.search(block, start))
        pieces.append(block[start:stop])
        start = stop
    return pieces


def _end(match: re.Match[bytes] | None) -> int:
    assert match is not None  # a block ends with a frame
    return match.end()


def _decode_data_lines(block: bytes) -> list[Frame] | None:
    """Decode a block that starts with `data: ` if each frame is one such line; otherwise return None."""
    lines = only_data(block)
    if lines is None:
        return None
    end = b"\r\n\r\n" if _CR in block else b"\n\n"
    return [Frame(None, line, b"data: %b%b" % (line, end)) for line in lines]


def _decode_named_lines(block: bytes) -> list[Frame] | None:
    """Decode a block that starts with `event: ` if each frame is that and one `data: ` line; otherwise return None."""
    if _CR in block:
        return None
    pieces = block[7:-2].split(b"\n\nevent: ")
    if block.count(b"\n") != 3 * len(pieces):
        return None
    frames: list[Frame] = []
    for piece in pieces:
        name, between, data = piece.partition(b"\ndata: ")
        if not between:
            return None
        frames.append(Frame(_name(name), data, b"event: %b\n\n" % piece))
    return frames


def _decode_frame(raw: bytes) -> Frame | None:
    text = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if _CR in raw else raw
    lines = text.split(b"\n")
    event: str | None = None
    data: list[bytes] = []
    for line in lines:
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            event = _name(value.removeprefix(b" "))
    return Frame(event, b"\n".join(data), raw) if data else None


def _name(value: bytes) -> str | None:
    return value.decode("utf-8", "replace") or None
