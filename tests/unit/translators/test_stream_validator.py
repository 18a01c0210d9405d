from datetime import UTC, datetime

import pytest
from hypothesis import given

from llmproxy_asgi.conversation import (
    ArgumentsDelta,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    LogprobsDelta,
    PartDelta,
    PartEnded,
    PartStarted,
    Passed,
    Response,
    Seal,
    SealDelta,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamFailed
from llmproxy_asgi.translators.assemble import unfold
from llmproxy_asgi.translators.codec.grammar import Rule
from llmproxy_asgi.translators.stream_validator import StreamRuleError, StreamValidator
from support.conversations import broken_rows, event_rows, responses

STARTED = Started("r", "m", datetime(2026, 1, 1, tzinfo=UTC))
TEXT = PartStarted(0, 0, Text(text=""))
CALL = PartStarted(0, 0, ToolCall(call_id="c", name="f"))
DONE = PartEnded(0, 0)
STOP = Finished(0, Finish(reason=FinishReason.STOP))
CALLS = Finished(0, Finish(reason=FinishReason.TOOL_CALLS))
FAILED = Failed(UpstreamFailed("It broke."))
HI = PartDelta(0, 0, TextDelta("Hi"))

ILLEGAL: dict[str, tuple[Rule, list[StreamEvent]]] = {
    "part before start": (Rule.BEGINS_WITH_STARTED, [TEXT]),
    "delta before start": (Rule.BEGINS_WITH_STARTED, [HI]),
    "usage before start": (Rule.BEGINS_WITH_STARTED, [UsageReported(Usage())]),
    "ended before start": (Rule.BEGINS_WITH_STARTED, [Passed("p", None, b""), Ended()]),
    "two starts": (Rule.STARTS_ONCE, [STARTED, STARTED]),
    "after ended": (Rule.NOTHING_AFTER_THE_ENDING, [STARTED, STOP, Ended(), UsageReported(Usage())]),
    "after failed": (Rule.NOTHING_AFTER_THE_ENDING, [FAILED, Passed("p", None, b"")]),
    "delta after ended": (Rule.NOTHING_AFTER_THE_ENDING, [STARTED, STOP, Ended(), HI]),
    "two endings": (Rule.NOTHING_AFTER_THE_ENDING, [STARTED, FAILED, FAILED]),
    "first index one": (Rule.PARTS_ARE_DENSE, [STARTED, PartStarted(0, 1, Text(text=""))]),
    "index again": (Rule.PARTS_ARE_DENSE, [STARTED, TEXT, DONE, TEXT]),
    "delta to nothing": (Rule.PART_IS_OPEN, [STARTED, HI]),
    "delta after end": (Rule.PART_IS_OPEN, [STARTED, TEXT, DONE, HI]),
    "end of nothing": (Rule.PART_IS_OPEN, [STARTED, DONE]),
    "end twice": (Rule.PART_IS_OPEN, [STARTED, TEXT, DONE, DONE]),
    "end of another candidate": (Rule.PART_IS_OPEN, [STARTED, TEXT, PartEnded(1, 0)]),
    "arguments in text": (Rule.DELTA_FITS, [STARTED, TEXT, PartDelta(0, 0, ArgumentsDelta("{}"))]),
    "text in call": (Rule.DELTA_FITS, [STARTED, CALL, HI]),
    "call without id": (Rule.CALL_IS_NAMED, [STARTED, PartStarted(0, 0, ToolCall(call_id="", name="f"))]),
    "call without name": (Rule.CALL_IS_NAMED, [STARTED, PartStarted(0, 0, ToolCall(call_id="c", name=""))]),
    "other kind": (Rule.SAME_PART, [STARTED, CALL, PartEnded(0, 0, Text(text=""))]),
    "other call": (Rule.SAME_PART, [STARTED, CALL, PartEnded(0, 0, ToolCall(call_id="d", name="f"))]),
    "finished twice": (Rule.FINISHED_IS_LAST, [STARTED, STOP, STOP]),
    "part after finished": (Rule.FINISHED_IS_LAST, [STARTED, STOP, TEXT]),
    "finished too early": (Rule.PARTS_END_FIRST, [STARTED, TEXT, STOP]),
    "calls not said": (Rule.CALLS_ARE_SAID, [STARTED, CALL, DONE, STOP]),
    "calls said of none": (Rule.CALLS_ARE_SAID, [STARTED, CALLS]),
    "no candidate": (Rule.ENDED_IS_WHOLE, [STARTED, Ended()]),
    "candidate not finished": (Rule.ENDED_IS_WHOLE, [STARTED, TEXT, DONE, Ended()]),
    "one of two finished": (
        Rule.ENDED_IS_WHOLE,
        [STARTED, STOP, PartStarted(1, 0, Text(text="")), PartEnded(1, 0), Ended()],
    ),
}


def check(grammar: StreamValidator, row: list[StreamEvent]) -> bool:
    for event in row:
        grammar.check(event)
    return grammar.complete


@pytest.mark.parametrize("case", ILLEGAL)
def test_each_rule_is_named_when_it_is_broken(case: str) -> None:
    """The last event of each row, and none before it, breaks the rule that the row is about."""
    rule, row = ILLEGAL[case]
    grammar = StreamValidator()
    assert not check(grammar, row[:-1]) or rule is Rule.NOTHING_AFTER_THE_ENDING
    with pytest.raises(StreamRuleError) as caught:
        grammar.check(row[-1])
    assert caught.value.rule is rule
    assert isinstance(caught.value, ValueError)


def test_every_rule_has_a_case() -> None:
    """No rule is without a row that breaks it."""
    assert {rule for rule, _ in ILLEGAL.values()} == set(Rule)


@given(event_rows())
def test_legal_rows_pass(row: list[StreamEvent]) -> None:
    """A row of any pieces and any overlap is legal, and complete at its last event only."""
    grammar = StreamValidator()
    assert not check(grammar, row[:-1])
    assert check(grammar, row[-1:])


@given(broken_rows())
def test_a_row_may_fail_anywhere(row: list[StreamEvent]) -> None:
    """`Failed` may stand after any legal beginning, and completes the row."""
    assert check(StreamValidator(), row)


@given(responses())
def test_unfolded_answers_are_legal(response: Response) -> None:
    """What `unfold` makes satisfies the grammar."""
    assert check(StreamValidator(), list(unfold(response)))


def test_seals_and_logprobs_fit_every_part() -> None:
    """Any part may be sealed and any part's tokens may be told."""
    row: list[StreamEvent] = [
        STARTED,
        CALL,
        PartDelta(0, 0, SealDelta(Seal(issuer="gemini", kind="signature", data="eA=="))),
        PartDelta(0, 0, LogprobsDelta(())),
        DONE,
        CALLS,
        Ended(),
    ]
    assert check(StreamValidator(), row)


def test_whoever_was_cut_off_may_hold_calls() -> None:
    """A call and a finish by length go together."""
    assert check(StreamValidator(), [STARTED, CALL, DONE, Finished(0, Finish(reason=FinishReason.LENGTH)), Ended()])
