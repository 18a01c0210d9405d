"""The soak's own checks: a long run is worth something only if what it looks for could not slip through."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice

import msgspec
import pytest

from soak.caller import Answer, _judged
from soak.checks import Evidence, Sample, judge, slope
from soak.load import Played
from soak.plan import DOWN, FAULTS, NONE, REFUSED, WHOLE_ROUND, Call, Plan, errand_in
from soak.records import Closing, Entry, Fact, State
from soak.run import Options, Outcome, section

STATE = State(
    tasks=2, threads=3, files=17, sockets=4, objects=70_000, types={"builtins.dict": 9000}, waiting=[], memory=70 << 20,
    places=0, queued=0, unsettled=0, open_calls=0, spans=1000, spans_open=0, remembered=48, complaints=0, complained=[],
)  # fmt: skip


@cache
def evidence() -> Evidence:
    """Of a soak in which all was well."""
    calls = list(islice(Plan(3, talks=WHOLE_ROUND, pace=0.1).calls(), 400))
    samples = [Sample(float(second), (80 << 20) + second % 3 * 4096) for second in range(180, 600)]
    facts = [fact for call in calls for fact in _facts(call)]
    entries = [_entry(call, attempt) for call in calls for attempt in range(1, 3)]
    played = [Played(call, _answer(call), not (call.is_cut or call.fails)) for call in calls]
    return Evidence(played, facts, entries, Closing(open_connections=0, errors=[]), STATE, STATE, samples, 0.0)


def _answer(call: Call) -> Answer:
    if call.leaves is not None:
        return Answer("left")
    if call.is_cut:
        return Answer("error", 200, call.errand.texts()[0])
    return Answer("refused", 502) if call.fails else Answer("whole", 200)


def _facts(call: Call) -> list[Fact]:
    errand = call.errand
    outcome = {"left": "cancelled", "error": "interrupted", "refused": "error", "whole": "ok"}[_answer(call).end]
    counted = {"input": errand.input, "cached": errand.cached, "output": errand.output}
    finished = Fact(kind="finished", request_id=call.request_id, outcome=outcome, status=200, stream=call.stream)
    if outcome == "ok":
        finished = msgspec.structs.replace(finished, began=True, exactness="exact", **counted)
    elif outcome == "interrupted":
        finished = msgspec.structs.replace(finished, began=True, exactness="estimated", input=300)
    else:
        finished = msgspec.structs.replace(finished, exactness="none", status=502)
    return [Fact(kind="started", request_id=call.request_id), finished]


def _entry(call: Call, attempt: int) -> Entry:
    errand = call.errand
    return Entry(
        number=errand.number, attempt=attempt, wire=call.talk.first, fault=errand.fault if attempt == 1 else NONE,
        input=errand.input, cached=errand.cached, output=errand.output,
    )  # fmt: skip


def failed(seen: Evidence) -> list[str]:
    return [check.name for check in judge(seen) if check.passed is False]


def _first(seen: Evidence, fits: Callable[[Played], bool]) -> int:
    return next(index for index, each in enumerate(seen.played) if each.call.leaves is None and fits(each))


def _answered(seen: Evidence, index: int, answer: Answer, *, right: bool = False) -> Evidence:
    played = list(seen.played)
    played[index] = Played(played[index].call, answer, right)
    return seen._replace(played=played)


def _told(seen: Evidence, fits: Callable[[Fact], bool], **changes: object) -> Evidence:
    facts = list(seen.facts)
    index = next(index for index, fact in enumerate(facts) if fits(fact))
    facts[index] = msgspec.structs.replace(facts[index], **changes)
    return seen._replace(facts=facts)


def _healthy(each: Played) -> bool:
    return not each.call.is_cut and not each.call.fails


def test_a_soak_without_flaws_passes() -> None:
    """Nothing fails, and nothing is left unjudged where the run was long enough."""
    assert all(check.passed for check in judge(evidence())), failed(evidence())


WORDS = {
    "whole": "answers that should be complete are, to the letter",
    "broken": "broken answers end with their protocol's error",
    "500": "no status 500",
    "once": "every call that began is reported as ended, exactly once",
    "seen": "outcomes are reported as the clients saw them",
    "exact": "exact usage equals the upstream's count",
    "estimated": "interrupted and aborted streams are reported as estimated, once",
    "places": "no slot of a limit is leaked",
    "objects": "objects are released",
    "upstream": "the upstream understood every request, and no connection is held",
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("whole", lambda seen: _answered(seen, _first(seen, _healthy), Answer("whole", 200, "something else"))),
        ("whole", lambda seen: _answered(seen, _first(seen, _healthy), Answer("torn", 200))),
        ("broken", lambda seen: _answered(seen, _first(seen, lambda each: each.call.is_cut), Answer("torn", 200))),
        ("broken", lambda seen: _answered(seen, _first(seen, lambda each: each.call.fails), Answer("refused", 503))),
        ("500", lambda seen: _told(seen, lambda fact: fact.outcome == "error", status=500)),
        ("once", lambda seen: seen._replace(facts=seen.facts[:-1])),
        ("once", lambda seen: seen._replace(facts=[*seen.facts, seen.facts[-1]])),
        ("once", lambda seen: seen._replace(facts=[*seen.facts, Fact(kind="refused", request_id="soak-x")])),
        ("seen", lambda seen: _told(seen, lambda fact: fact.outcome == "interrupted", outcome="ok", exactness="exact")),
        ("exact", lambda seen: _told(seen, lambda fact: fact.exactness == "exact", output=1)),
        ("exact", lambda seen: _told(seen, lambda fact: fact.exactness == "exact", exactness="none")),
        ("estimated", lambda seen: _told(seen, lambda fact: fact.outcome == "interrupted", exactness="exact")),
        ("estimated", lambda seen: _told(seen, lambda fact: fact.outcome == "interrupted", input=0)),
        ("places", lambda seen: seen._replace(after=msgspec.structs.replace(STATE, places=1))),
        ("places", lambda seen: seen._replace(after=msgspec.structs.replace(STATE, unsettled=1))),
        ("places", lambda seen: seen._replace(open_in_metrics=1.0)),
        ("memory is flat", lambda seen: seen._replace(samples=[Sample(t, 2e4 * t) for t in map(float, range(420))])),
        ("tasks are released", lambda seen: seen._replace(after=msgspec.structs.replace(STATE, tasks=3))),
        ("threads are released", lambda seen: seen._replace(after=msgspec.structs.replace(STATE, threads=4))),
        ("sockets are released", lambda seen: seen._replace(after=msgspec.structs.replace(STATE, sockets=5))),
        ("files are released", lambda seen: seen._replace(after=msgspec.structs.replace(STATE, files=18))),
        ("objects", lambda seen: seen._replace(after=msgspec.structs.replace(STATE, objects=70_500))),
        ("every span has ended", lambda seen: seen._replace(after=msgspec.structs.replace(STATE, spans_open=1))),
        (
            "nothing is logged as an error",
            lambda seen: seen._replace(after=msgspec.structs.replace(STATE, complaints=1)),
        ),
        ("upstream", lambda seen: seen._replace(closing=Closing(open_connections=1, errors=[]))),
        ("upstream", lambda seen: seen._replace(closing=Closing(open_connections=0, errors=["ValueError()"]))),
    ],
)
def test_what_is_wrong_is_seen(name: str, change: Callable[[Evidence], Evidence]) -> None:
    """One thing wrong among hundreds fails the check that is meant for it."""
    assert WORDS.get(name, name) in failed(change(evidence()))


def test_a_short_run_says_nothing_of_memory() -> None:
    """Neither that it is flat nor that it grows."""
    short = evidence()._replace(samples=[Sample(float(second), 1e9 * second) for second in range(20)])
    assert [check.passed for check in judge(short) if check.name == "memory is flat"] == [None]


@pytest.mark.parametrize(("samples", "expected"), [([(0, 5), (1, 7), (2, 9)], 2.0), ([(3, 1)], 0.0), ([], 0.0)])
def test_slopes_are_least_squares(samples: Sequence[tuple[float, float]], expected: float) -> None:
    """A straight line has its own slope; a point has none."""
    assert slope([Sample(*each) for each in samples]) == pytest.approx(expected)


def test_a_plan_is_its_seeds() -> None:
    """The same again from the same seed, another from another; and all that is to happen does."""
    calls = list(islice(Plan(7, talks=WHOLE_ROUND, pace=0.1).calls(), 3000))
    assert calls == list(islice(Plan(7, talks=WHOLE_ROUND, pace=0.1).calls(), 3000))
    assert calls != list(islice(Plan(8, talks=WHOLE_ROUND, pace=0.1).calls(), 3000))
    drawn = calls[2 * WHOLE_ROUND :]
    faulty = sum(call.errand.fault != NONE for call in drawn) / len(drawn)
    assert 0.17 < faulty < 0.23
    assert 0.08 < sum(call.leaves is not None for call in drawn) / len(drawn) < 0.12
    assert {call.errand.fault for call in drawn} == {NONE, *FAULTS}
    assert {(call.talk.wire, call.talk.first) for call in drawn} == {
        (wire, first) for wire in ("chat", "responses", "messages", "gemini")
        for first in ("chat", "responses", "messages", "gemini")
    }  # fmt: skip
    rehearsed = calls[: 2 * WHOLE_ROUND]
    assert {call.errand.fault for call in rehearsed} == {NONE, *FAULTS}
    assert (
        len({(call.talk, call.talk.model(REFUSED)) for call in rehearsed if call.errand.fault == REFUSED})
        == WHOLE_ROUND
    )


def test_an_errand_is_read_from_its_prompt() -> None:
    """What a call asks of its upstream arrives as it was meant; what asks nothing is refused."""
    errand = next(Plan(1, talks=4, pace=0.5).calls()).errand
    assert errand_in(b'{"content": "Go on. ' + errand.told().encode() + b'"}') == errand
    with pytest.raises(LookupError):
        errand_in(b"{}")


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n', "whole"),
        (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "torn"),
        (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"error":{"message":"x"}}\n\n', "error"),
        (b'data: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n', "torn"),
        (b"", "torn"),
    ],
)
def test_an_answer_without_end_or_error_is_torn(body: bytes, end: str) -> None:
    """Only the protocol's end makes an answer whole, and an error beside an end is neither."""
    plan = Plan(1, talks=4, pace=0.5)
    call = next(call for call in plan.calls() if call.talk.wire == "chat" and call.stream)
    assert _judged(call, 200, body).end == end


def test_the_page_names_what_can_be_repeated() -> None:
    """Seed, counts, seconds, commit, versions and cores stand beside every figure."""
    options = Options(seconds=600, streams=500, pace=0.5, seed=11)
    checks = judge(evidence())
    written = section(Outcome(options, checks, 400, 80, 40, 0.25, 0.1, (70.0, 90.0, 90.5), 640.0))
    for word in (
        "500 concurrent streams",
        "600 s",
        "400 calls",
        "Seed 11",
        "commit ",
        "Python 3.",
        "uvicorn ",
        " cores",
    ):
        assert word in written
    assert written.count("| passed |") == len(checks)
    assert DOWN not in written
