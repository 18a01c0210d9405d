from base64 import b64decode, b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    ArgumentsDelta,
    Candidate,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    InlineData,
    Media,
    MediaDelta,
    Opaque,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    Response,
    Seal,
    SealDelta,
    ServiceTier,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamError, UpstreamProtocolError
from llmproxy_asgi.translators.assemble import Folder, fold, unfold
from support.conversations import broken_rows, event_rows, responses

STARTED = Started("r", "m", datetime(2026, 1, 1, tzinfo=UTC))
TEXT = PartStarted(0, 0, Text(text=""))
STOP = Finished(0, Finish(reason=FinishReason.STOP))


def only_part(*deltas: PartDelta, header: Text | Media | ToolCall, restated: Text | ToolCall | None = None) -> object:
    row: list[StreamEvent] = [STARTED, PartStarted(0, 0, header), *deltas, PartEnded(0, 0, restated), STOP, Ended()]
    (part,) = fold(row).candidates[0].parts
    return part


@given(responses())
def test_what_unfolds_folds_back(response: Response) -> None:
    """An answer told as a stream is the same answer."""
    assert fold(unfold(response)) == response


@given(st.data())
def test_any_cutting_and_overlap_folds_to_the_answer(data: st.DataObject) -> None:
    """However a stream tells an answer, in whatever pieces and overlap, it folds to that answer."""
    response = data.draw(responses())
    assert fold(data.draw(event_rows(response))) == response


@given(st.data())
def test_feeding_by_batches_changes_nothing(data: st.DataObject) -> None:
    """A folder fed in two batches knows what one fed at once knows."""
    row = data.draw(event_rows())
    cut = data.draw(st.integers(0, len(row)))
    folder = Folder()
    folder.feed(row[:cut])
    folder.feed(row[cut:])
    assert folder.result() == fold(row)


@given(broken_rows())
def test_a_failure_is_raised(row: list[StreamEvent]) -> None:
    """Folding a stream that failed raises the very error it failed with."""
    failed = row[-1]
    assert isinstance(failed, Failed)
    with pytest.raises(UpstreamError) as caught:
        fold(row)
    assert caught.value is failed.error


@given(st.data())
def test_a_stream_that_just_stops_is_no_answer(data: st.DataObject) -> None:
    """Without its ending no beginning of a stream folds."""
    row = data.draw(event_rows())
    with pytest.raises(UpstreamProtocolError):
        fold(row[: data.draw(st.integers(0, len(row) - 1))])


BROKEN: dict[str, list[StreamEvent]] = {
    "begins in the middle": [STOP],
    "starts twice": [STARTED, STARTED],
    "delta to nothing": [STARTED, PartDelta(0, 0, TextDelta("x"))],
    "end of nothing": [STARTED, PartEnded(0, 0)],
    "wrong number": [STARTED, PartStarted(0, 3, Text(text="")), PartEnded(0, 3), STOP],
    "number twice": [STARTED, TEXT, PartEnded(0, 0), TEXT, PartEnded(0, 0), STOP],
    "wrong delta": [STARTED, PartStarted(0, 0, Text(text="")), PartDelta(0, 0, ArgumentsDelta("{}"))],
    "part left open": [STARTED, PartStarted(0, 0, Text(text="")), STOP],
    "never finished": [STARTED, PartStarted(0, 0, Text(text="")), PartEnded(0, 0)],
    "no candidate": [STARTED],
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_stream_out_of_order_is_its_upstreams_error(case: str) -> None:
    """No broken row crashes the folder, and none folds, whatever follows."""
    with pytest.raises(UpstreamProtocolError):
        fold([*BROKEN[case], Ended()])


def test_an_answer_without_candidates_unfolds_into_a_failure() -> None:
    """A broken stream yields no answer."""
    events = list(unfold(Response(id="r", model="m", created_at=STARTED.created_at, candidates=())))
    assert [type(event) for event in events] == [Started, Failed]


def test_the_vendors_restatement_wins() -> None:
    """The part given at its end counts, not the sum of its deltas."""
    said = ToolCall(call_id="c", name="f", arguments='{"a":1}')
    delta = PartDelta(0, 0, ArgumentsDelta('{"a":'))
    assert only_part(delta, header=ToolCall(call_id="c", name="f"), restated=said) == said


def test_a_whole_header_needs_no_deltas() -> None:
    """A part that starts whole ends whole; deltas that come add to it."""
    assert only_part(header=Text(text="Hi")) == Text(text="Hi")
    assert only_part(PartDelta(0, 0, TextDelta("!")), header=Text(text="Hi")) == Text(text="Hi!")


def test_seals_add_up() -> None:
    """A header's seals and those that come later are all kept, in order."""
    seals = [Seal(issuer="gemini", kind="signature", data=letter) for letter in "ab"]
    row: list[StreamEvent] = [
        STARTED,
        PartStarted(0, 0, Reasoning(seals=(seals[0],))),
        PartDelta(0, 0, SealDelta(seals[1])),
        PartEnded(0, 0),
        STOP,
        Ended(),
    ]
    assert fold(row).candidates[0].parts == (Reasoning(seals=tuple(seals)),)


def test_any_part_can_be_sealed_by_a_delta() -> None:
    """A seal that comes for a part which has no text of its own is kept with it."""
    seal = Seal(issuer="gemini", kind="signature", data="a")
    header = Opaque(protocol="p", kind="k", data={})
    row: list[StreamEvent] = [
        STARTED,
        PartStarted(0, 0, header),
        PartDelta(0, 0, SealDelta(seal)),
        PartEnded(0, 0),
        STOP,
        Ended(),
    ]
    assert fold(row).candidates[0].parts == (Opaque(protocol="p", kind="k", data={}, seals=(seal,)),)


def test_an_empty_text_unfolds_without_deltas() -> None:
    """No delta is made up for what says nothing."""
    candidate = Candidate(parts=(Text(text=""),), finish=Finish(reason=FinishReason.STOP))
    response = Response(id="r", model="m", created_at=STARTED.created_at, candidates=(candidate,))
    events = list(unfold(response))
    assert [type(event) for event in events] == [Started, PartStarted, PartEnded, Finished, Ended]
    assert fold(events) == response


def test_the_last_usage_counts() -> None:
    """Usage is a snapshot: the last one replaces all before, that of the start too."""
    started = Started("r", "m", STARTED.created_at, Usage(input=9, cache_read=5), ServiceTier.AUTO)
    row: list[StreamEvent] = [
        started,
        UsageReported(Usage(input=10)),
        STOP,
        UsageReported(Usage(input=10, output=3)),
        Ended(),
    ]
    assert fold(row).usage == Usage(input=10, output=3)
    assert fold([started, STOP, Ended()]).usage == Usage(input=9, cache_read=5)


def test_the_tier_said_last_counts() -> None:
    """The service tier is read from the start or the end of a stream."""
    started = Started("r", "m", STARTED.created_at, None, ServiceTier.AUTO)
    assert fold([started, STOP, Ended(ServiceTier.FLEX)]).service_tier is ServiceTier.FLEX
    assert fold([started, STOP, Ended()]).service_tier is ServiceTier.AUTO


@given(st.binary(max_size=60), st.data())
def test_sound_adds_up_however_it_was_encoded(sound: bytes, data: st.DataObject) -> None:
    """Pieces of one base64 text and pieces encoded one by one give the same sound."""
    cut = data.draw(st.integers(0, len(sound)))
    apart = [b64encode(sound[:cut]).decode(), b64encode(sound[cut:]).decode()]
    text = b64encode(sound).decode()
    letter = data.draw(st.integers(0, len(text)))
    header = Media(kind="audio", source=InlineData(data=""))
    for pieces in (apart, [text[:letter].rstrip("="), text[len(text[:letter].rstrip("=")) :]]):
        part = only_part(*[PartDelta(0, 0, MediaDelta(piece, "w")) for piece in pieces], header=header)
        assert isinstance(part, Media)
        assert isinstance(part.source, InlineData)
        assert b64decode(part.source.data, validate=True) == sound
        assert part.transcript == "ww"


def test_sound_that_cannot_be_read_is_the_upstreams_error() -> None:
    """Padding in the middle of a text that is not base64 breaks the stream, not us."""
    deltas = [PartDelta(0, 0, MediaDelta(piece)) for piece in ("A===", "B")]
    with pytest.raises(UpstreamProtocolError):
        only_part(*deltas, header=Media(kind="audio", source=InlineData(data="")))


def test_nothing_after_the_ending_counts() -> None:
    """A folder that has seen the ending keeps its answer."""
    row: list[StreamEvent] = [STARTED, STOP, Ended()]
    assert fold([*row, UsageReported(Usage(input=1))]) == fold(row)
