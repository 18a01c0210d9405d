import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from llmproxy_asgi.conversation import (
    Batch,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    Started,
    StreamEvent,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamFailed, UpstreamOverloaded, UpstreamProtocolError
from llmproxy_asgi.translators.passthrough import Inspection, PassthroughDecoder, Scan
from llmproxy_asgi.translators.stream_validator import StreamValidator
from llmproxy_asgi.wire.sse import Decoder, Frame, encode
from support.conversations import texts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Chunk(msgspec.Struct):
    """A toy protocol: one JSON object a frame."""

    model: str = ""
    say: str = ""
    finish: str | None = None
    usage: int | None = None
    error: str | None = None


class ToyScan(Scan):
    """Ends with a finish, says so with `END`; usage comes alone, only for those who asked."""

    pattern: ClassVar[re.Pattern[bytes] | tuple[re.Pattern[bytes], ...]] = re.compile(
        rb'"(?:finish":"|usage":\d|error":")|END'
    )

    def __init__(self, *, usage_wanted: bool = True) -> None:
        self._usage_wanted = usage_wanted
        self._finished = False

    @override
    def first(self, frame: Frame) -> Sequence[StreamEvent]:
        if frame.event == "ping":
            return ()
        return (Started("r", msgspec.json.decode(frame.data, type=Chunk).model, NOW),)

    @override
    def inspect(self, frame: Frame) -> Inspection:
        if frame.data == b"END":
            return Inspection((Ended(),))
        chunk = msgspec.json.decode(frame.data, type=Chunk)
        if chunk.error == "raise":
            raise UpstreamOverloaded("Too much.")
        if chunk.error:
            return Inspection((Failed(UpstreamFailed(chunk.error)),))
        events: list[StreamEvent] = []
        if chunk.finish:
            self._finished = True
            events.append(Finished(0, Finish(reason=FinishReason.STOP, native=chunk.finish)))
        if chunk.usage is not None:
            events.append(UsageReported(Usage(output=chunk.usage)))
        return Inspection(events, drop=chunk.usage is not None and not self._usage_wanted)

    @override
    def ended(self) -> bool:
        return self._finished

    @override
    def end_sign(self) -> bytes:
        return encode(b"END")


def frame(**fields: str | int) -> bytes:
    return encode(msgspec.json.encode({"model": "m-2026", **fields}))


END = encode(b"END")
HELLO = [frame(say="Hello"), frame(say=' "model":"m-2026" \n\n data: x'), frame(say="ö😀")]
FINISH = frame(finish="stop")
USAGE = frame(usage=7)
GOOD = [*HELLO, FINISH, USAGE, END]

STARTED = Started("r", "m-2026", NOW)
FINISHED = Finished(0, Finish(reason=FinishReason.STOP, native="stop"))
USED = UsageReported(Usage(output=7))


def passthrough(scan: Scan | None = None, **options: bool | int) -> PassthroughDecoder:
    return PassthroughDecoder(scan or ToyScan(), client_model="m-2026", **options)  # type: ignore[arg-type]  # a bool is an int, not the reverse


def run(codec: PassthroughDecoder, reads: Sequence[bytes]) -> tuple[bytes, list[StreamEvent]]:
    """What comes of these reads and the close, each batch checked to end where a frame ends."""
    raw, events = b"", list[StreamEvent]()
    for batch in (*map(codec.feed, reads), codec.close()):
        assert batch.raw is not None
        raw += batch.raw
        events.extend(batch.events)
        assert not raw or raw.endswith((b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\r"))
    validator = StreamValidator()
    for event in events:
        validator.check(event)
    assert validator.complete
    return raw, events


def error_of(events: Sequence[StreamEvent]) -> Exception:
    failed = events[-1]
    assert isinstance(failed, Failed)
    return failed.error


def splits(stream: bytes) -> list[list[bytes]]:
    """The stream whole, byte by byte, and in all pairs."""
    pairs = [[stream[:cut], stream[cut:]] for cut in range(1, len(stream))]
    return [[stream], [stream[at : at + 1] for at in range(len(stream))], *pairs]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_a_stream_passes_as_it_is_at_every_split(line_end: bytes) -> None:
    """However the reads fall, the bytes are those that came and the events are told once."""
    stream = b"".join(GOOD).replace(b"\n", line_end)
    for reads in splits(stream):
        raw, events = run(passthrough(), reads)
        assert raw == stream
        assert events == [STARTED, FINISHED, USED, Ended()]


class ScanOfSeveral(ToyScan):
    """The same eyes, with one expression for each thing to see."""

    pattern = (re.compile(rb'"finish":"'), re.compile(rb'"usage":\d'), re.compile(rb'"error":"'), re.compile(rb"END"))


def test_several_expressions_are_as_good_as_one() -> None:
    """A scan may name its marks one by one; that is faster and tells the same."""
    stream = b"".join(GOOD)
    for reads in splits(stream):
        assert run(passthrough(ScanOfSeveral()), reads) == run(passthrough(), reads)


@given(st.lists(texts(), max_size=5), st.lists(st.integers(0, 400), max_size=5))
def test_any_words_pass(words: list[str], cuts: list[int]) -> None:
    """No text of the model is taken for anything else, at any split."""
    stream = b"".join([*(frame(say=text) for text in words), FINISH, END])
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    reads = [stream[begin:end] for begin, end in pairwise(edges)]
    raw, events = run(passthrough(), reads)
    assert raw == stream
    assert events == [STARTED, FINISHED, Ended()]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_frames_around_a_hit_pass(line_end: bytes) -> None:
    """Where one read holds usage among words, whatever stands before and after it passes as it came."""
    before, after = [frame(say=f"{n}") for n in range(30)], [frame(say=f"{n}") for n in range(30, 40)]
    reads = [
        b"".join(part).replace(b"\n", line_end)
        for part in ([HELLO[0], *before], [*before, USAGE, *after, FINISH, *after], [END])
    ]
    kept = b"".join([HELLO[0], *before, *before, *after, FINISH, *after, END]).replace(b"\n", line_end)
    for cut in (reads, [b"".join(reads)]):
        raw, events = run(passthrough(ToyScan(usage_wanted=False)), cut)
        assert raw == kept
        assert events == [STARTED, USED, FINISHED, Ended()]


def test_every_read_is_passed_on_at_once() -> None:
    """A frame is not held back once its last byte has come; an unfinished one is."""
    codec = passthrough()
    first, second = HELLO[:2]
    assert codec.feed(first).raw == first
    assert codec.feed(second[:-1]).raw == b""
    assert codec.feed(second[-1:] + first[:5]).raw == second
    assert codec.feed(first[5:]).events == ()


def test_the_model_is_called_what_the_caller_called_it() -> None:
    """The member changes in every frame, at every split; the same words in a text do not."""
    stream = b"".join(GOOD)
    told = stream.replace(b'"model":"m-2026"', b'"model":"my \\"model\\""')
    assert told.count(b"my ") == len(GOOD) - 1
    for reads in splits(stream):
        raw, _ = run(PassthroughDecoder(ToyScan(), client_model='my "model"'), reads)
        assert raw == told


def test_the_models_spelling_is_learned() -> None:
    """Spacing after the colon is the upstream's own, and stays."""
    stream = b"".join(GOOD).replace(b'"model":"', b'"model" :  "')
    raw, _ = run(PassthroughDecoder(ToyScan(), client_model="a"), [stream])
    assert raw == stream.replace(b'"model" :  "m-2026"', b'"model" :  "a"')


def test_the_model_may_be_named_later() -> None:
    """A first frame with an empty name, or none, teaches nothing; the next one may."""
    stream = [b'data: {"model":"","say":"a"}\n\n', b'data: {"say":"b"}\n\n', *GOOD]
    for reads in (stream, [b"".join(stream)]):
        raw, _ = run(PassthroughDecoder(ToyScan(), client_model="a"), reads)
        assert raw == b"".join(stream).replace(b'"model":"m-2026"', b'"model":"a"')


def test_a_model_that_is_never_named_is_not_looked_for_for_ever() -> None:
    """After some frames the passthrough takes it that the upstream names none."""
    codec = PassthroughDecoder(ToyScan(), client_model="a")
    nameless = b'data: {"say":"b"}\n\n'
    for _ in range(20):
        codec.feed(nameless)
    assert codec.feed(HELLO[0]).raw == HELLO[0]


class NestedScan(ToyScan):
    """Names its model once, within a message."""

    model_path = ("message", "model")
    model_repeats: ClassVar[bool] = False


def test_a_nested_model_is_renamed_once() -> None:
    """Where only the first frame names the model, what looks like it later is content."""
    first = b'data: {"message":{"model":"m-2026"},"model":"x"}\n\n'
    later = b'data: {"say":"","input":{"model":"m-2026"}}\n\n'
    for reads in ([first, later, FINISH, END], [first + later + FINISH + END]):
        raw, _ = run(PassthroughDecoder(NestedScan(), client_model="a"), reads[:1])
        assert raw.startswith(b'data: {"message":{"model":"a"},"model":"x"}')
    raw, _ = run(PassthroughDecoder(NestedScan(), client_model="a"), [first, later, FINISH, END])
    assert raw.endswith(later + FINISH + END)


def test_a_model_that_is_not_where_it_should_be_is_left_alone() -> None:
    """What stands on the way to the name may be anything, even no object."""
    stream = [b'data: {"message":"none"}\n\n', FINISH, END]
    assert run(PassthroughDecoder(NestedScan(), client_model="a"), stream)[0] == b"".join(stream)


class SignlessScan(ToyScan):
    """A protocol without an end sign of its own."""

    end_sign = Scan.end_sign


def test_a_protocol_may_have_no_end_sign() -> None:
    """Where the finish is the end nothing is added at the close."""
    raw, events = run(passthrough(SignlessScan()), [*HELLO, FINISH])
    assert raw == b"".join([*HELLO, FINISH])
    assert events[-1] == Ended()


def test_usage_that_nobody_asked_for_is_left_out() -> None:
    """The frame is removed and its event reported, at every split."""
    stream = b"".join(GOOD)
    for reads in splits(stream):
        raw, events = run(passthrough(ToyScan(usage_wanted=False)), reads)
        assert raw == b"".join([*HELLO, FINISH, END])
        assert events == [STARTED, FINISHED, USED, Ended()]


@pytest.mark.parametrize(
    ("fatal", "kind"),
    [
        (frame(error="It broke."), UpstreamFailed),
        (frame(error="raise"), UpstreamOverloaded),
        (b'data: {"finish":"stop"\n\n', UpstreamProtocolError),
        (b'data: {"finish":"\xff"}\n\n', UpstreamProtocolError),
        (b'data: {"finish":"x","usage":"many"}\n\n', UpstreamProtocolError),
    ],
    ids=["error frame", "raised", "cut JSON", "not UTF-8", "wrong type"],
)
def test_an_error_stops_the_passthrough_before_its_frame(fatal: bytes, kind: type[Exception]) -> None:
    """The frame is not passed on, the stream has failed, and whatever follows is ignored, at every split."""
    stream = b"".join([*HELLO, fatal, *GOOD])
    for reads in splits(stream):
        raw, events = run(passthrough(), reads)
        assert raw == b"".join(HELLO)
        assert events[:-1] == [STARTED]
        assert type(error_of(events)) is kind


def test_an_error_may_come_first() -> None:
    """A stream that begins with an error has no start and no bytes."""
    raw, events = run(passthrough(), [frame(error="raise")])
    assert raw == b""
    assert isinstance(error_of(events), UpstreamOverloaded)


def test_a_first_frame_that_cannot_be_read_fails() -> None:
    """What is no JSON is no stream of this protocol."""
    raw, events = run(passthrough(), [b"data: <html>\n\n", *GOOD])
    assert raw == b""
    assert isinstance(error_of(events), UpstreamProtocolError)


def test_what_follows_the_end_is_ignored() -> None:
    """Nothing is passed on or told after the end sign, in the same read or a later one."""
    codec = passthrough()
    assert codec.feed(b"".join([*GOOD, *GOOD])).raw == b"".join(GOOD)
    assert (codec.feed(HELLO[0]).raw, codec.feed(HELLO[0]).events) == (b"", ())
    assert (codec.close().raw, codec.close().events) == (b"", ())


def test_a_stream_that_just_stops_has_failed() -> None:
    """A cut stream fails, and its incomplete frame is not passed on."""
    stream = b"".join([*HELLO, FINISH])
    whole = [len(b"".join(HELLO[:count])) for count in range(1, 4)]
    for cut in range(len(stream) - 2):
        raw, events = run(passthrough(), [stream[:cut]])
        assert raw == stream[: max([size for size in whole if size <= cut], default=0)]
        assert str(error_of(events))


@pytest.mark.parametrize("missing", [b"", b"\n", b"\n\n"], ids=["nothing", "one line end", "both"])
def test_an_end_without_its_blank_line_counts(missing: bytes) -> None:
    """Upstreams forget the last blank line; the caller gets it all the same."""
    stream = b"".join(GOOD).removesuffix(b"\n\n") + missing
    raw, events = run(passthrough(), [stream])
    assert raw.rstrip(b"\n") == b"".join(GOOD).rstrip(b"\n")
    assert events[-1] == Ended()


def test_rubbish_at_the_end_is_not_passed_on() -> None:
    """What is no frame is dropped, even if it looks like the end sign."""
    raw, events = run(passthrough(), [*HELLO, FINISH, b"END"])
    assert raw == b"".join([*HELLO, FINISH, END])
    assert events == [STARTED, FINISHED, Ended()]


def test_a_forgotten_end_sign_is_written() -> None:
    """A stream that has finished but stops without its sign is whole; the caller gets the sign."""
    for stream in (b"".join([*HELLO, FINISH]), b"".join([*HELLO, FINISH]).removesuffix(b"\n\n")):
        raw, events = run(passthrough(), [stream])
        assert raw == b"".join([*HELLO, FINISH, END])
        assert events == [STARTED, FINISHED, Ended()]


def test_an_end_sign_without_a_finish_is_a_failure() -> None:
    """The sign alone does not make an answer whole, and is not passed on."""
    raw, events = run(passthrough(), [*HELLO, END])
    assert raw == b"".join(HELLO)
    assert isinstance(error_of(events), UpstreamProtocolError)


class DeafScan(ToyScan):
    """Never sees a start."""

    @override
    def first(self, frame: Frame) -> Sequence[StreamEvent]:
        return ()


def test_a_stream_that_never_starts_has_failed() -> None:
    """Finishes and ends before a start are out of order."""
    raw, events = run(passthrough(DeafScan()), [FINISH, END])
    assert raw == b""
    assert isinstance(error_of(events), UpstreamProtocolError)
    _, events = run(passthrough(DeafScan()), HELLO)
    assert len(events) == 1


def test_frames_before_the_start_wait_for_it() -> None:
    """A ping before the first event starts nothing, not even the caller's answer; it is passed on with that event."""
    ping = encode(b"{}", "ping")
    assert passthrough().feed(ping) == Batch([], b"")
    raw, events = run(passthrough(), [ping, *GOOD])
    assert raw == ping + b"".join(GOOD)
    assert events[0] == STARTED


def test_comments_are_not_passed_on() -> None:
    """Keep-alives of the upstream end here: alone, between and inside frames, at every split."""
    frames = [b": hi\n\n", HELLO[0], b": PROCESSING\n\n", b": a\n: b\n\n", b": inside\n" + HELLO[1], FINISH, b":\n\n"]
    stream = b"".join([*frames, END])
    for reads in splits(stream):
        raw, events = run(passthrough(), reads)
        assert b": hi" not in raw
        assert b"PROCESSING" not in raw
        assert Decoder().feed(raw) == Decoder().feed(HELLO[0] + HELLO[1] + FINISH + END)
        assert events == [STARTED, FINISHED, Ended()]


def test_a_lone_comment_leaves_nothing() -> None:
    """A read that holds only a comment is nothing to send."""
    codec = passthrough()
    assert [codec.feed(read).raw for read in (HELLO[0], b": x\n\n", b": x\r\n\r\n", b": x\r\r")] == [
        HELLO[0],
        b"",
        b"",
        b"",
    ]


def test_comments_may_pass() -> None:
    """On demand the bytes are those that came, comments and all."""
    stream = b": hi\n\n" + b"".join(GOOD)
    assert run(passthrough(strip_comments=False), [stream])[0] == stream


@pytest.mark.parametrize("cut", [lambda data: [data], lambda data: [data[:50], data[50:]]], ids=["whole", "parts"])
def test_a_frame_without_end_is_cut_off(cut: Callable[[bytes], list[bytes]]) -> None:
    """A frame over the limit fails the stream before memory does."""
    _, events = run(passthrough(max_event=80), [HELLO[0], *cut(frame(say="x" * 100))])
    assert isinstance(error_of(events), UpstreamProtocolError)


def test_a_last_frame_as_long_as_allowed_is_read() -> None:
    """What `close` adds to a forgotten blank line does not count against the limit."""
    last = FINISH.removesuffix(b"\n\n")
    _, events = run(passthrough(max_event=len(last)), [frame(), last])
    assert events[-1] == Ended()
