"""Stop sequences cut from an answer's events: exactly, and without a letter too much."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    UNDATED,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    ReasoningDelta,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamTimeout
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.stop_sequences import MAX_LENGTH, MAX_SEQUENCES, StopSequenceFilter, emulate_stops
from llmproxy_asgi.translators.stream_validator import StreamValidator

BEGIN = Started("resp_1", "m", UNDATED)


def end(reason: FinishReason = FinishReason.STOP) -> list[StreamEvent]:
    return [Finished(0, Finish(reason=reason, native="completed")), UsageReported(Usage(input=3, output=9)), Ended()]


def said(*pieces: str, index: int = 0) -> list[StreamEvent]:
    return [
        PartStarted(0, index, Text(text="")),
        *(PartDelta(0, index, TextDelta(piece)) for piece in pieces),
        PartEnded(0, index),
    ]


def fed(stops: StopSequenceFilter, events: list[StreamEvent]) -> list[StreamEvent]:
    """Each event on its own, as streams come."""
    told = [each for event in events for each in stops.feed([event])]
    validator = StreamValidator()
    for event in told:
        validator.check(event)
    return told


def test_what_follows_a_stop_is_told_to_nobody() -> None:
    """The text ends before the stop; later texts and calls are gone; the end and the usage are not."""
    call = ToolCall(call_id="call_1", name="f", arguments="{}")
    events = [
        BEGIN,
        *said("One E", "ND two"),
        *said("three", index=1),
        PartStarted(0, 2, call),
        PartEnded(0, 2, call),
        *end(FinishReason.TOOL_CALLS),
    ]
    whole = fold(fed(StopSequenceFilter(["END"]), events))
    assert (whole.text, whole.tool_calls, whole.usage.output) == ("One ", (), 9)
    finish = whole.candidates[0].finish
    assert (finish.reason, finish.stop_sequence, finish.native) == (FinishReason.STOP_SEQUENCE, "END", "completed")


def test_a_beginning_that_was_none_is_told() -> None:
    """Held text is sent as soon as it cannot be a stop sequence, at the latest when its part ends."""
    told = fed(StopSequenceFilter(["END", "\n\n"]), [BEGIN, *said("One EN", "T", " two EN"), *end()])
    pieces = [event.delta.text for event in told if isinstance(event, PartDelta) and isinstance(event.delta, TextDelta)]
    assert pieces == ["One ", "ENT", " two ", "EN"]
    assert fold(told).finish_reason is FinishReason.STOP


def test_calls_that_were_told_are_still_to_be_answered() -> None:
    """A stop in the words behind a call cuts them, and the answer ends as one that calls."""
    call = ToolCall(call_id="call_1", name="f", arguments="{}")
    events = [BEGIN, PartStarted(0, 0, call), PartEnded(0, 0, call), *said("One END", index=1)]
    whole = fold(fed(StopSequenceFilter(["END"]), [*events, *end(FinishReason.TOOL_CALLS)]))
    assert (whole.text, len(whole.tool_calls), whole.finish_reason) == ("One ", 1, FinishReason.TOOL_CALLS)


def test_a_failure_tells_what_was_held() -> None:
    """A stream that breaks off has said what it has said."""
    failed = Failed(UpstreamTimeout("Silence."))
    told = StopSequenceFilter(["END"]).feed([BEGIN, *said("One E")[:2], failed])
    assert told[-2:] == [PartDelta(0, 0, TextDelta("E")), failed]


def test_thinking_is_not_cut() -> None:
    """Stop sequences apply to text alone."""
    thought: list[StreamEvent] = [
        PartStarted(0, 0, Reasoning()),
        PartDelta(0, 0, ReasoningDelta("the END of it")),
        PartEnded(0, 0),
    ]
    whole = fold(fed(StopSequenceFilter(["END"]), [BEGIN, *thought, *said("Fine.", index=1), *end()]))
    assert (whole.reasoning, whole.text) == ("the END of it", "Fine.")


@given(
    text=st.text("abx", max_size=24),
    stops=st.lists(st.text("abx", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 24), max_size=6),
)
def test_any_pieces_give_what_one_piece_gives(text: str, stops: list[str], cuts: list[int]) -> None:
    """The text is what comes before the stop that is complete first, however it was cut into pieces."""
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    whole = fold(fed(StopSequenceFilter(stops), [BEGIN, *said(*pieces), *end()]))
    found = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in stops if stop in text]
    if not found:
        assert (whole.text, whole.finish_reason) == (text, FinishReason.STOP)
    else:
        _, begin, stop = min(found)
        assert (whole.text, whole.candidates[0].finish.stop_sequence) == (text[:begin], stop)


def test_only_so_many_stops_are_looked_for() -> None:
    """Number and length of stop sequences are bounded with a warning: each delta is compared with every one."""
    losses = Losses()
    assert emulate_stops(["END", "", "END", "x" * MAX_LENGTH], losses) == ("END", "x" * MAX_LENGTH)
    assert list(losses.words) == ["emulated:stop"]
    many = [str(number) for number in range(MAX_SEQUENCES + 1)]
    assert emulate_stops(many, losses) == tuple(many[:MAX_SEQUENCES])
    assert list(losses.words) == ["emulated:stop", "clamped:stop"]
    losses = Losses()
    assert emulate_stops(["x" * (MAX_LENGTH + 1)], losses) == ()
    assert list(losses.words) == ["clamped:stop"]
    losses = Losses()
    assert emulate_stops([""], losses) == losses.words == ()
