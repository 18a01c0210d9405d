"""The builder of events: whatever a decoder calls, the events are legal, and nothing is said twice."""

import random

import pytest

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import UpstreamRequest
from llmproxy_asgi.translators.codec.events import CandidateBuilder, EventBuilder, KeptBuilder, PartBuilder, TextBuilder
from llmproxy_asgi.translators.stream_validator import StreamValidator

STOP = ir.Finish(reason=ir.FinishReason.STOP)
SEAL = ir.Seal(issuer="anthropic", kind="signature", data="c2VhbA==")


def begun(**request: object) -> EventBuilder[CandidateBuilder]:
    """Return a builder of an answer that has started."""
    upstream_request = UpstreamRequest(body=b"", stream=True, **request)  # type: ignore[arg-type]  # names its fields
    events = EventBuilder(upstream_request, CandidateBuilder)
    events.start("r1", "asked")
    return events


def answer(events: EventBuilder[CandidateBuilder], reason: ir.FinishReason = ir.FinishReason.STOP) -> ir.Response:
    """Finish the answer and fold it."""
    events.candidate(0).finish(ir.Finish(reason=reason))
    events.end()
    return fold(events.take())


HEADERS = (ir.Text(text=""), ir.Refusal(text=""), ir.Reasoning(), ir.Opaque(protocol="p", kind="k", data={}))


def start_something(candidate: CandidateBuilder, key: int, rng: random.Random) -> None:
    match rng.randrange(5):
        case 0:
            candidate.open(rng.choice(HEADERS), key)
        case 1:
            candidate.call(key).start(rng.choice(("f", "emulated")), rng.choice(("", "c1")), str(candidate.count))
        case 2:
            candidate.call(key)
        case 3:
            candidate.switch(rng.choice(HEADERS))
        case _:
            candidate.logprobs((ir.TokenLogprob(token="a", logprob=-1.0),))


def add_something(part: PartBuilder, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0 if part.kind is not None:
            part.append(rng.choice(('{"input":', '"a"}', " ", "b")))
        case 1 if part.started:
            part.seal(SEAL)
            part.cite(ir.Citation(url="https://example.org"))
        case 2 if part.started and isinstance(part, TextBuilder | KeptBuilder):
            part.restate("ab")
        case _:
            part.end()


@pytest.mark.parametrize("seed", range(200))
def test_any_calls_build_legal_events(seed: int) -> None:
    """Satisfy the grammar for any order of calls."""
    rng = random.Random(seed)
    events = begun(emulated=frozenset({"emulated"}))
    for _ in range(rng.randrange(2, 40)):
        candidate = events.candidate(rng.randrange(2))
        part = candidate.parts.get(key := rng.randrange(3))
        if part is None or rng.random() < 0.4:
            start_something(candidate, key, rng)
        else:
            add_something(part, rng)
    for candidate in events.candidates.values():
        candidate.finish(ir.Finish(reason=rng.choice((STOP.reason, ir.FinishReason.TOOL_CALLS))))
    events.end(ir.Usage(input=1))
    validator = StreamValidator()
    for event in events.take():
        validator.check(event)
    assert validator.complete


def test_an_ended_part_is_refused_once_and_for_all() -> None:
    """Refuse pieces of a part that has ended; drop what only repeats it."""
    events = begun()
    text = events.candidate(0).open(ir.Text(text=""), key=0)
    assert isinstance(text, TextBuilder)
    text.append("a")
    text.end()
    text.end()
    text.restate("ab")
    text.seal(SEAL)
    text.cite(ir.Citation(url="https://example.org"))
    with pytest.raises(UpstreamProtocolError, match="had ended"):
        text.append("b")
    assert answer(events).candidates[0].parts == (ir.Text(text="a"),)


def test_nothing_precedes_the_start() -> None:
    """Refuse parts before the answer has started; drop a second start and what follows the end."""
    events = EventBuilder(UpstreamRequest(body=b"", stream=True), CandidateBuilder)
    with pytest.raises(UpstreamProtocolError):
        events.candidate(0).open(ir.Text(text=""))
    events.passed("p", None, b"{}")
    events.fail(UpstreamProtocolError("Broken."))
    events.passed("p", None, b"{}")
    assert [event.type for event in events.take()] == ["passed", "failed"]


def test_nothing_follows_a_finish() -> None:
    """Refuse a part of a candidate that has finished; an answer without a finished candidate fails."""
    events = begun()
    events.end()
    assert isinstance(events.take()[-1], ir.Failed)
    events = begun()
    events.candidate(0).finish(STOP)
    events.candidate(0).finish(STOP)
    with pytest.raises(UpstreamProtocolError):
        events.candidate(0).open(ir.Text(text=""))
    events.end()
    assert [event.type for event in events.take()] == ["started", "finished", "ended"]


@pytest.mark.parametrize(
    ("pieces", "kind", "arguments"),
    [
        ([], "function", "{}"),
        ([" ", "\n"], "function", "{}"),
        (['{"a":', "1}"], "function", '{"a":1}'),
        ([], "custom", ""),
        ([" "], "custom", " "),
    ],
)
def test_arguments_are_never_blank(pieces: list[str], kind: str, arguments: str) -> None:
    """Give a call of a function arguments if none are streamed, as a delta and whole; free text may be blank."""
    events = begun()
    call = events.candidate(0).call()
    for piece in pieces:
        call.append(piece)
    call.start("f", "c1", custom=kind == "custom")
    call.end()
    call.end()
    built = events.pending
    streamed = "".join(
        event.delta.text
        for event in built
        if isinstance(event, ir.PartDelta) and isinstance(event.delta, ir.ArgumentsDelta)
    )
    assert (streamed.strip() or arguments.strip()) == arguments.strip()
    assert answer(events).tool_calls[0].arguments == arguments


def test_an_emulated_call_is_unwrapped_when_it_ends() -> None:
    """Hold the arguments of an emulated free-text tool, and emit its input once."""
    events = begun(emulated=frozenset({"f_1"}), names={"f_1": "f.1"}, call_ids={"up": "mine"})
    call = events.candidate(0).call()
    call.start("f_1", "up")
    call.append('{"input":"a')
    call.seal(SEAL)
    call.append('b"}')
    call.end()
    deltas = [event.delta for event in events.pending if isinstance(event, ir.PartDelta)]
    assert deltas == [ir.SealDelta(SEAL), ir.ArgumentsDelta("ab")]
    part = answer(events).tool_calls[0]
    assert (part.name, part.call_id, part.kind, part.arguments) == ("f.1", "mine", "custom", "ab")


def test_ids_are_distinct_as_the_client_sees_them() -> None:
    """Replace an id that equals the restored id of another call."""
    events = begun(call_ids={"up": "mine"})
    for call_id in ("up", "mine", ""):
        events.candidate(0).call().start("f", call_id, str(events.candidate(0).count))
    assert len({call.call_id for call in answer(events).tool_calls}) == 3


@pytest.mark.parametrize(
    ("reason", "arguments", "expected"),
    [
        (ir.FinishReason.STOP, "{}", ir.FinishReason.TOOL_CALLS),
        (ir.FinishReason.UNKNOWN, "{}", ir.FinishReason.TOOL_CALLS),
        (ir.FinishReason.UNKNOWN, '{"a":', ir.FinishReason.UNKNOWN),
        (ir.FinishReason.LENGTH, '{"a":', ir.FinishReason.LENGTH),
        (ir.FinishReason.TOOL_CALLS, None, ir.FinishReason.STOP),
        (ir.FinishReason.UNKNOWN, None, ir.FinishReason.UNKNOWN),
    ],
)
def test_the_finish_reason_fits_the_calls(
    reason: ir.FinishReason, arguments: str | None, expected: ir.FinishReason
) -> None:
    """Correct a finish reason that contradicts the calls; an unknown one needs complete calls."""
    events = begun()
    if arguments is not None:
        call = events.candidate(0).call()
        call.start("f", "c1")
        call.append(arguments)
    assert answer(events, reason).finish_reason is expected


def test_citations_of_all_texts_are_placed_in_their_own() -> None:
    """Convert a span within the candidate's texts to one within its part."""
    events = begun()
    candidate = events.candidate(0)
    for text in ("Köln ", "am Rhein"):
        part = candidate.switch(ir.Text(text=""))
        assert isinstance(part, TextBuilder)
        part.append(text)
        part.cite_in_candidate(ir.Citation(url="https://example.org", start=5, end=7))
    cited = [part.citations[0] for part in answer(events).candidates[0].parts if isinstance(part, ir.Text)]
    assert [(each.start, each.end) for each in cited] == [(5, 7), (0, 2)]


def test_log_probabilities_wait_for_a_part() -> None:
    """Emit log probabilities with the last part, or with the next one if that has ended."""
    events = begun()
    candidate = events.candidate(0)
    first, second = ((ir.TokenLogprob(token=token, logprob=-1.0),) for token in "ab")
    candidate.logprobs(first)
    candidate.call().start("f", "c1")
    candidate.logprobs(second)
    assert answer(events).candidates[0].logprobs == (*first, *second)
