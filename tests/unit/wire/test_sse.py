"""Framing of server-sent events: by the rules, at every split, in linear time, and back again."""

import itertools
from collections.abc import Callable, Iterator

import httpx2
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmproxy_asgi.translators.answer_bounds import is_crowded
from llmproxy_asgi.wire import sse
from llmproxy_asgi.wire.sse import UNCOUNTED, Decoder, EventTooLarge, Frame, FrameSplitter, comment, encode

Event = tuple[str | None, bytes]
Feeder = Callable[[int], Callable[[bytes], object]]

LONG = b"0123456789" * 40

STREAMS: dict[str, tuple[bytes, list[Event]]] = {
    "nothing": (b"", []),
    "one": (b"data: a\n\n", [(None, b"a")]),
    "several alike": (b"data: a\n\ndata: b\n\ndata: c\n\n", [(None, b"a"), (None, b"b"), (None, b"c")]),
    "several alike, CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [(None, b"a"), (None, b"b")]),
    "several alike, CR": (b"data: a\r\rdata: b\r\r", [(None, b"a"), (None, b"b")]),
    "named": (b"event: ping\ndata: {}\n\nevent: stop\ndata: 1\n\n", [("ping", b"{}"), ("stop", b"1")]),
    "named, CRLF": (b"event: ping\r\ndata: {}\r\n\r\n", [("ping", b"{}")]),
    "named, data first": (b"data: x\nevent: late\n\n", [("late", b"x")]),
    "named with spaces": (b"event:  a \ndata: x\n\n", [(" a ", b"x")]),
    "named twice": (b"event: a\nevent: b\ndata: x\n\n", [("b", b"x")]),
    "named by nothing": (b"event: a\nevent:\ndata: x\n\nevent: \ndata: y\n\n", [(None, b"x"), (None, b"y")]),
    "a name lasts one event": (b"event: a\n\ndata: x\n\n", [(None, b"x")]),
    "line ends mixed": (b"data: a\r\ndata: b\rdata: c\n\r\ndata: d\r\r\n", [(None, b"a\nb\nc"), (None, b"d")]),
    "LF then CR": (b"data: a\n\rdata: b\n\r\n", [(None, b"a"), (None, b"b")]),
    "CR CR among LF": (b"data: a\r\rb\n\ndata: c\n\n", [(None, b"a"), (None, b"c")]),
    "one line more than CRLF tells": (b"data: a\ndata: b\r\n\r\n", [(None, b"a\nb")]),
    "as many CR as LF": (b"data: a\r\rb\r\n\n\ndata: c\r\n\r\n", [(None, b"a"), (None, b"c")]),
    "several lines": (b"data: a\ndata: b\ndata\ndata:\n\n", [(None, b"a\nb\n\n")]),
    "one space goes": (b"data:a\n\ndata:  a\n\ndata:\ta\n\n", [(None, b"a"), (None, b" a"), (None, b"\ta")]),
    "empty data": (b"data\n\ndata:\n\ndata: \n\n", [(None, b""), (None, b""), (None, b"")]),
    "no data": (b"event: a\nid: 1\n\n: c\n\nretry: 5\n\n", []),
    "comments": (b": c\n\n:c\ndata: a\n: d\n\n: e\n\n", [(None, b"a")]),
    "other fields": (b"id: 1\0\nretry: 99999999999999999999\nfoo: x\n data: y\nDATA: z\ndata: a\n\n", [(None, b"a")]),
    "blank lines": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n", [(None, b"a"), (None, b"b")]),
    "blank lines, CRLF": (b"\r\n\r\ndata: a\r\n\r\n\r\ndata: b\r\n\r\n\r\n\r\n", [(None, b"a"), (None, b"b")]),
    "mark": (b"\xef\xbb\xbfdata: a\n\n", [(None, b"a")]),
    "mark and blank line": (b"\xef\xbb\xbf\ndata: a\n\n", [(None, b"a")]),
    "one mark only": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [(None, b"b")]),
    "mark later": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [(None, b"a")]),
    "half a mark": (b"\xef\xbbdata: a\n\ndata: b\n\n", [(None, b"b")]),
    "other separators": (
        b"data: a\xe2\x80\xa8b\xe2\x80\xa9c\xc2\x85d\x0be\x0cf\x1cg\n\n",
        [(None, b"a\xe2\x80\xa8b\xe2\x80\xa9c\xc2\x85d\x0be\x0cf\x1cg")],
    ),
    "not UTF-8": (b"event: \xff\ndata: \xc3\n\ndata: \xf0\x9f\x8c\n\n", [("\ufffd", b"\xc3"), (None, b"\xf0\x9f\x8c")]),
    "named, one bare": (b"event: a\n\nevent: b\ndata: x\ndata: y\n\n", [("b", b"x\ny")]),
    "named, one without space": (b"event: a\ndata: x\n\nevent: b\ndata:y\n\n", [("a", b"x"), ("b", b"y")]),
    "colons": (b"data: a: b\n\ndata::\n\n", [(None, b"a: b"), (None, b":")]),
    "end forgotten": (b"data: a\n\ndata: b\n", [(None, b"a"), (None, b"b")]),
    "end forgotten, several lines": (b"event: x\ndata: a\ndata: b\n", [("x", b"a\nb")]),
    "end forgotten, several lines, none ended": (b"event: x\ndata: a\ndata: b\nfoo", [("x", b"a\nb")]),
    "line end forgotten": (b"data: a\n\nevent: x\ndata: b", [(None, b"a"), ("x", b"b")]),
    "ends in a comment": (b"data: a\n\n: b\n", [(None, b"a")]),
    "ends in half a mark": (b"\xef\xbb", []),
    "long": (b"data: " + LONG + b"\n\nevent: x\ndata: " + LONG + b"\n\n", [(None, LONG), ("x", LONG)]),
}  # fmt: skip

every_stream = pytest.mark.parametrize(("stream", "expected"), STREAMS.values(), ids=STREAMS)

FRAGMENTS = [
    b"data: ", b"data:", b"data", b"event: ", b"event:", b"event", b"id: 7", b"retry: 1", b": c", b":",
    b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b" ", b"x", b'{"a":"\xc3\xa9"}', b"delta",
    b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\0", b"\xff",
]  # fmt: skip
streams = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join)

LINES = [b"data: a", b"data:b", b"data", b"data:  \xc3\xa9", b"event: x", b"event:", b": note", b"nonsense"]
LINE_ENDS = [b"\n", b"\r\n", b"\r"]


@st.composite
def regular_streams(draw: st.DrawFn) -> bytes:
    """Frames as upstreams write them, in one style of line ends or a mixture."""
    ends = st.sampled_from(LINE_ENDS if draw(st.booleans()) else [draw(st.sampled_from(LINE_ENDS))])
    frames = draw(st.lists(st.lists(st.sampled_from(LINES), min_size=1, max_size=4), max_size=8))
    return b"".join(line + draw(ends) for frame in frames for line in [*frame, b""])


def cut_at(stream: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(borders)]


def cuts_of(stream: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, every two-way cut."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(len(stream) + 1):
        yield [stream[:at], stream[at:]]


def decode(chunks: list[bytes], *, max_event: int = sse.DEFAULT_MAX_EVENT) -> list[Frame]:
    decoder = Decoder(max_event=max_event)
    return [frame for chunk in chunks for frame in decoder.feed(chunk)] + decoder.close()


def events(frames: list[Frame]) -> list[Event]:
    return [(frame.event, frame.data) for frame in frames]


def reference(stream: bytes, *, close: bool = True) -> list[Event]:  # noqa: C901  the rules are one piece
    """The rules, read aloud: one character after the other, no thought of speed."""
    text = stream.decode("latin-1")  # one character per byte
    text = text.removeprefix("\xef\xbb\xbf")
    found: list[Event] = []
    name, data, has_data, line = "", "", False, ""

    def end_line() -> None:
        nonlocal name, data, has_data, line
        if line == "":
            if has_data:
                shown = name.encode("latin-1").decode("utf-8", "replace")
                found.append((shown or None, data[:-1].encode("latin-1")))
            name, data, has_data = "", "", False
        elif not line.startswith(":"):
            field, value = line.split(":", 1) if ":" in line else (line, "")
            value = value[1:] if value[:1] == " " else value
            if field == "event":
                name = value
            if field == "data":
                data, has_data = data + value + "\n", True
        line = ""

    after_return = False
    for character in text:
        if character in "\r\n":
            if not (character == "\n" and after_return):
                end_line()
        else:
            line += character
        after_return = character == "\r"
    if close:
        if line:
            end_line()
        end_line()
    return found


@pytest.mark.fault(18, 19)
@every_stream
def test_decodes_at_every_split(stream: bytes, expected: list[Event]) -> None:
    """A stream means the same however the network cuts it."""
    for chunks in cuts_of(stream):
        assert events(decode(chunks)) == expected, chunks


@every_stream
def test_reference_agrees_with_table(stream: bytes, expected: list[Event]) -> None:
    """The reference that judges generated streams knows the rules of the table, too."""
    assert reference(stream) == expected


@pytest.mark.fault(18)
@given(stream=streams | regular_streams(), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_decodes_as_the_reference(stream: bytes, cuts: list[int]) -> None:
    """Any stream, cut anywhere, gives what the rules give."""
    assert events(decode(cut_at(stream, cuts))) == reference(stream)


@pytest.mark.verify
@settings(max_examples=100_000)
@given(stream=streams | regular_streams(), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_decodes_as_the_reference_for_long(stream: bytes, cuts: list[int]) -> None:
    """Any stream, cut anywhere, gives what the rules give: a hundred thousand of them."""
    assert events(decode(cut_at(stream, cuts))) == reference(stream)


@given(stream=streams | regular_streams())
def test_delivers_without_delay(stream: bytes) -> None:
    """After each byte, all events that are finished by then have been delivered."""
    decoder, count = Decoder(), 0
    for at in range(len(stream)):
        count += len(decoder.feed(stream[at : at + 1]))
        so_far = stream[: at + 1]
        if len(so_far) > 2 or not b"\xef\xbb\xbf".startswith(so_far):
            assert count == len(reference(so_far, close=False))


@given(stream=regular_streams(), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_agrees_with_the_http_client(stream: bytes, cuts: list[int]) -> None:
    """The HTTP client's own reader, fed the same bytes, finds the same events with data."""
    response = httpx2.Response(
        200,
        headers={"content-type": "text/event-stream"},
        content=iter(cut_at(stream, cuts)),
        request=httpx2.Request("GET", "http://upstream.test/"),
    )
    theirs = [(event.event, event.data) for event in httpx2.EventSource(response) if event.data]
    ours = [(name or "message", data.decode()) for name, data in events(Decoder().feed(stream)) if data]
    assert ours == theirs  # theirs also gives events without data, and no unfinished one


def test_raw_is_the_frame_as_it_came() -> None:
    """A frame keeps its comments, unknown fields and spacing, and not its neighbours' bytes."""
    frames = [b": c\nevent:x\nid: 1\ndata:a\ndata: b\n\n", b"data: a\n\n", b"event: y\ndata: b\n\n"]
    stream = b"\xef\xbb\xbf" + frames[0] + b": alone\n\n\n" + frames[1] + b"\n\n" + frames[2]
    for chunks in cuts_of(stream):
        assert [frame.raw for frame in decode(chunks)] == frames, chunks


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("count", [1, 3])
def test_raw_keeps_line_ends(end: bytes, count: int) -> None:
    """The bytes of frames that came in one read, joined, are the read."""
    stream = b"".join(b"data: %d" % number + end + end for number in range(count))
    assert b"".join(frame.raw for frame in Decoder().feed(stream)) == stream


def test_raw_of_an_unfinished_last_frame() -> None:
    """A last frame without its blank line is delivered unchanged, so that it does not look complete."""
    assert decode([b"data: a\n"]) == [Frame(None, b"a", b"data: a\n")]


@pytest.mark.fault(18)
@every_stream
def test_splitter_loses_nothing(stream: bytes, expected: list[Event]) -> None:
    """What a relay sends on is what it got but for the mark, whichever way it asks."""
    kept = stream.removeprefix(b"\xef\xbb\xbf")
    for chunks in cuts_of(stream):
        splitter, relay = FrameSplitter(), FrameSplitter()
        pieces = [piece for chunk in chunks for piece in splitter.split(chunk)]
        assert b"".join(pieces) + splitter.tail == kept
        assert b"".join(map(relay.complete, chunks)) + relay.tail == kept
        read = [event for piece in [*pieces, splitter.tail] for event in reference(b"\n" + piece)]
        assert read == expected


@given(stream=streams | regular_streams(), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_splitter_cuts_between_events(stream: bytes, cuts: list[int]) -> None:
    """Each piece read by itself, and the tail, hold the events of the stream, in order and at most one each."""
    splitter = FrameSplitter()
    pieces = [piece for chunk in cut_at(stream, cuts) for piece in splitter.split(chunk)]
    assert b"".join(pieces) + splitter.tail == stream.removeprefix(b"\xef\xbb\xbf")
    read = [reference(b"\n" + piece) for piece in [*pieces, splitter.tail]]
    assert all(len(found) <= 1 for found in read)
    assert [event for found in read for event in found] == reference(stream)
    assert all(piece[:1] not in b"\r\n" or not piece.strip(b"\r\n") for piece in pieces)


@given(stream=streams | regular_streams(), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_splitter_delivers_without_delay(stream: bytes, cuts: list[int]) -> None:
    """What is held back holds no finished event."""
    splitter = FrameSplitter()
    for chunk in cut_at(stream, cuts):
        splitter.complete(chunk)
        assert reference(b"\n" + splitter.tail, close=False) == []


@given(stream=streams | regular_streams())
def test_whole_frames_can_be_taken_one_by_one(stream: bytes) -> None:
    """From frame end to frame end, the pieces are the block and mean what it means, at most one event each."""
    block = FrameSplitter().complete(stream)
    pieces, at = list[bytes](), 0
    while at < len(block):
        end = sse.first_frame_end(block, at)
        assert end > at
        pieces.append(block[at:end])
        at = end
    assert b"".join(pieces) == block
    read = [sse.decode(piece) for piece in pieces]
    assert all(len(found) <= 1 for found in read)
    assert events([frame for found in read for frame in found]) == events(sse.decode(block))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_frames_of_one_name_are_read_without_a_record_of_each(count: int) -> None:
    """Where all frames have the expected name and one line of data, that is all they hold."""
    block = b"".join(b"event: ping\ndata: {%d} \n\n" % number for number in range(count))
    assert sse.only_named(block, b"event: ping\ndata: ") == [b"{%d} " % number for number in range(count)]


@given(
    frames=st.lists(
        st.builds(
            lambda name, data, end: b"event: %b\ndata: %b%b" % (name, data, end),
            st.sampled_from([b"ping", b"pin", b"pings"]),
            st.sampled_from(
                [b"", b"{}", b" a", b"a\ndata: b", b"a\nid: 1", b"a\r", b"data: event: ping", b"\xe2\x80\xa8"]
            ),
            st.sampled_from([b"\n\n", b"\n\n\n", b"\r\n\r\n", b"\n\n: c\n\n"]),
        ),
        max_size=4,
    )
)
def test_frames_of_one_name_are_read_as_they_are_read_one_by_one(frames: list[bytes]) -> None:
    """A look at all of them together never finds what the rules don't, and leaves to the rules what it can't read."""
    block = b"".join(frames)
    found = sse.only_named(block, b"event: ping\ndata: ")
    if found is not None:
        assert [("ping", data) for data in found] == events(sse.decode(block))


@given(stream=streams | regular_streams(), place=st.integers(0, 400))
def test_a_frames_begin_is_found_from_within(stream: bytes, place: int) -> None:
    """For a byte of a field's line, the block falls in two where that line's frame begins."""
    block = FrameSplitter().complete(stream)
    assume(block)
    place %= len(block)
    assume(block[place] not in b"\r\n")
    begin = sse.frame_start(block, place)
    assert begin <= place
    assert events(sse.decode(block[:begin]) + sse.decode(block[begin:])) == events(sse.decode(block))
    assert len(sse.decode(block[begin : sse.first_frame_end(block, begin)])) <= 1
    assert sse.first_frame_end(block, begin) > place


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"], ids=["LF", "CRLF", "CR"])
def test_relay_copies_nothing_it_need_not(end: bytes) -> None:
    """A read that starts and ends with a frame goes through as the very same object."""
    splitter = FrameSplitter()
    splitter.complete(b"data: first" + end)
    read = b"data: a" + end + b"data: b" + end
    assert splitter.complete(read) is read


def test_first_byte_is_not_held_back() -> None:
    """Only what may become a byte order mark waits for its rest; a keep-alive does not."""
    assert FrameSplitter().complete(b"\n") == b"\n"
    splitter = FrameSplitter()
    assert splitter.complete(b"\xef\xbb") == b""
    assert splitter.complete(b"\xbf\n") == b"\n"


def test_late_line_feed_is_not_held_back() -> None:
    """The LF of a CRLF that the network cut reaches a strict client at once, not with the next event."""
    splitter = FrameSplitter()
    assert splitter.complete(b"data: a\r\n\r") == b"data: a\r\n\r"
    assert splitter.complete(b"\ndata: b") == b"\n"
    assert splitter.tail == b"data: b"


feeders: dict[str, Feeder] = {
    "decoder": lambda limit: Decoder(max_event=limit).feed,
    "split": lambda limit: FrameSplitter(max_event=limit).split,
    "complete": lambda limit: FrameSplitter(max_event=limit).complete,
}
every_feeder = pytest.mark.parametrize("feeder", feeders.values(), ids=feeders)


@every_feeder
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"], ids=["LF", "CRLF"])
def test_limit_is_exact(feeder: Feeder, end: bytes) -> None:
    """A frame of exactly the limit passes wherever it is cut; one byte less of limit refuses it."""
    frame = b"data: " + b"x" * 20 + end
    # The cut between the last CR and its LF is left out: that LF is a blank line, and the frame one byte less.
    for at in range(len(frame) - 1):
        before, after = b": small\n\n" + frame[:at], frame[at:] + b": small\n\n"
        feed = feeder(len(frame))
        feed(before)
        feed(after)
        feed = feeder(len(frame) - 1)
        feed(before)
        with pytest.raises(EventTooLarge) as caught:
            feed(after)
        assert caught.value.limit == len(frame) - 1


@every_feeder
def test_limit_counts_one_frame_at_a_time(feeder: Feeder) -> None:
    """A read of many small frames or blank lines may be longer than the limit."""
    feed = feeder(11)
    feed(b"data: a\n\n" * 20 + b"\n" * 50 + b"data: a\n\n")
    feed(b"\r\n" * 50 + b"data: a\n\n")
    feed(b"data: a\r\n" + b"\r\n" + b"data:")
    feed(b" b\n\n" + b"data: c\n\n" * 5)


@pytest.mark.fault(20)
@every_feeder
def test_limit_stops_an_endless_line(feeder: Feeder) -> None:
    """An event that never ends is refused as soon as it is too long, not when it ends."""
    feed = feeder(1000)
    for _ in range(100):
        feed(b"x" * 10)
    with pytest.raises(EventTooLarge, match="1000 bytes"):
        feed(b"x")


def test_refused_event_is_let_go() -> None:
    """A refused event's bytes are released even while its splitter is in use."""
    splitter = FrameSplitter(max_event=100)
    with pytest.raises(EventTooLarge):
        splitter.complete(b"x" * 200)
    assert splitter.tail == b""


@pytest.mark.fault(20)
def test_large_event_takes_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of 16 MiB in pieces of 1 KiB is searched once, not once per piece."""
    searched = 0
    search = sse._last_end

    def counted(buffer: bytes | bytearray, start: int) -> int:
        nonlocal searched
        searched += len(buffer) - start
        return search(buffer, start)

    monkeypatch.setattr(sse, "_last_end", counted)
    piece, count = b"x" * 1024, 16 * 1024 - 1
    decoder = Decoder()
    assert decoder.feed(b"data: ") == []
    for _ in range(count):
        assert decoder.feed(piece) == []
    (frame,) = decoder.feed(b"\n\n")
    assert frame.data == piece * count
    assert searched <= len(frame.raw) + count + 2  # each byte once, and one byte of overlap per piece


@given(
    data=st.binary() | st.lists(st.sampled_from(FRAGMENTS)).map(b"".join),
    event=st.none() | st.from_regex(r"[a-zA-Z0-9._-]{1,9}", fullmatch=True),
)
def test_encoded_is_decoded_as_one_event(data: bytes, event: str | None) -> None:
    """Whatever is written comes back as one event with the same data; only its line ends become LF."""
    written = encode(data, event)
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert Decoder().feed(written) == [Frame(event, lines, written)]
    assert reference(written) == [(event, lines)]


def test_encoded_bytes() -> None:
    """The form is the one that the strictest client reads: one space, LF, no other field."""
    assert encode(b"{}") == b"data: {}\n\n"
    assert encode(b"a\nb\rc") == b"data: a\ndata: b\ndata: c\n\n"
    assert encode(b"a\n") == encode(b"a\r") == b"data: a\ndata: \n\n"
    assert encode(b"a\r\nb", "x.y") == b"event: x.y\ndata: a\ndata: b\n\n"


def test_comment_bytes() -> None:
    """Each line of a comment is one."""
    assert comment("keep-alive") == b": keep-alive\n\n"
    assert comment("a\r\nb\n") == b": a\n: b\n: \n\n"


@pytest.mark.parametrize("name", ["", "a b", "a\n", "a\ndata: x", "a\r", "a:b", "é", "a\u2028", "a\0"])
def test_encoded_name_is_plain(name: str) -> None:
    """A name that could start a field, or surprise a reader, is refused each time."""
    for _ in range(2):
        with pytest.raises(ValueError, match="not a valid event name"):
            encode(b"", name)


@given(text=st.text() | st.sampled_from(["\ndata: x\n\n", "a\r\rdata: x", ""]))
def test_comment_is_no_event(text: str) -> None:
    """A comment stays a comment, whatever it says, and ends its frame."""
    stream = comment(text) + b"data: a\n\n"
    assert events(decode([stream])) == [(None, b"a")] == reference(stream)


def test_a_long_event_of_very_many_values_is_refused() -> None:
    """By the data of each event, wherever the stream is split; without a blank line it is not there at all."""
    event = b'data: {"x":[' + b"[]," * (UNCOUNTED // 3) + b"[]]}"
    for size in (UNCOUNTED // 4, len(event) + 4):
        splitter = FrameSplitter(is_crowded=is_crowded)
        data = b"\n" + event + b'\n: "\n\n.'
        while len(data) > size:
            assert splitter.complete(data[:size]).strip() == b""
            data = data[size:]
        with pytest.raises(EventTooLarge, match="too many JSON values"):
            splitter.complete(data)
    splitter = FrameSplitter(is_crowded=is_crowded)
    assert splitter.complete(b": x\n\n" + event) == b": x\n\n"
    assert splitter.tail == b""
    assert FrameSplitter(is_crowded=is_crowded).complete(event.replace(b"[]", b'""') + b"\n\n")


def test_short_events_are_not_counted() -> None:
    """However many of them come in one read."""
    splitter = FrameSplitter(is_crowded=bool)
    event = b'data: {"x":[' + b"[]," * 1000 + b"[]]}\n\n"
    assert splitter.complete(b"\n" + event * 500)
