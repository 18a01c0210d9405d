"""What a soak must have shown, each claim with its figure; from evidence alone, so that each can be seen to fail.

Tolerances stand here, at the head. What the process may have more of afterwards than before is none at all, but for
objects: caches that are bounded by the configuration (label sets, routes, conversations) may fill up during the run.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from soak.load import Played
from soak.plan import NONE
from soak.records import Closing, Entry, Fact, State

OBJECTS = 400
"""Tracked objects that may be left over; in short runs one for each `CALLS_PER_OBJECT` calls, if that is less."""
CALLS_PER_OBJECT = 3
JUDGED_FROM = 360.0
"""Seconds of samples from which the slope of memory is judged; below it a slope says nothing."""
LONG = 3300.0
"""Seconds from which it counts as an hour's."""
SLOPE, LONG_SLOPE = 1.0, 0.2
"""MiB in a minute."""
SHOWN = 5
"""Examples of what was wrong."""

MIB = 2.0**20


class Sample(NamedTuple):
    """The host's memory at one moment."""

    second: float
    size: float
    """Bytes."""


class Evidence(NamedTuple):
    """All that was seen."""

    played: Sequence[Played]
    facts: Sequence[Fact]
    entries: Sequence[Entry]
    closing: Closing
    before: State
    after: State
    samples: Sequence[Sample]
    """Since the warm-up's end."""
    open_in_metrics: float
    """Calls and streams that the metrics hold to be open."""


class Check(NamedTuple):
    """One claim."""

    name: str
    figure: str
    passed: bool | None
    """None: not judged, the run was too short for it."""
    details: Sequence[str] = ()
    """What was wrong, some of it."""


def judge(evidence: Evidence) -> list[Check]:
    """Every claim, in the order of the page."""
    checks: list[Callable[[Evidence], Check]] = [
        _healthy,
        _faulty,
        _no_500,
        _told_once,
        _outcomes,
        _exact,
        _broken_ones,
        _places,
        _memory,
        *(_same(name) for name in ("tasks", "threads", "sockets", "files")),
        _objects,
        _spans,
        _complaints,
        _upstream,
    ]
    return [check(evidence) for check in checks]


def slope(samples: Sequence[Sample]) -> float:
    """Bytes in a second, by least squares."""
    if len(samples) < 2:
        return 0.0
    count = len(samples)
    middle = sum(each.second for each in samples) / count
    level = sum(each.size for each in samples) / count
    spread = sum((each.second - middle) ** 2 for each in samples)
    return sum((each.second - middle) * (each.size - level) for each in samples) / spread if spread else 0.0


def _stayed(evidence: Evidence) -> Iterable[Played]:
    return (each for each in evidence.played if each.call.leaves is None)


def _check(name: str, figure: str, wrong: Sequence[str]) -> Check:
    return Check(name, figure, not wrong, wrong[:SHOWN])


def _shown(each: Played) -> str:
    call, answer = each.call, each.answer
    kind = "stream" if call.stream else "whole"
    asked = f"{call.request_id} {call.talk.wire} {call.talk.model(call.errand.fault)} {kind} {call.errand.fault}"
    return f"{asked}: {answer.end} {answer.status} {answer.seen or answer.text[-200:]!r}"


def _healthy(evidence: Evidence) -> Check:
    """The calls that should not have met a fault: their own upstream's is mended before the first event."""
    meant = [each for each in _stayed(evidence) if not each.call.is_cut and not each.call.fails]
    wrong = [_shown(each) for each in meant if not (each.answer.end == "whole" and each.right)]
    mended = sum(each.call.errand.fault != NONE for each in meant)
    figure = f"{len(wrong)} of {len(meant)} broken ({mended} of them recovered from a fault)"
    return _check("answers that should be complete are, to the letter", figure, wrong)


def _faulty(evidence: Evidence) -> Check:
    """A break that comes in one read with the beginning is mended, too: nothing had been shown by then."""
    meant = [each for each in _stayed(evidence) if each.call.is_cut or each.call.fails]
    asked = Counter(entry.number for entry in evidence.entries)
    mended = 0
    wrong = []
    for each in meant:
        # After a keep-alive, while it waited in a queue, a failure is an event of the stream.
        expected = {("error", 200)} if each.call.is_cut else {("refused", 502), ("error", 200)}
        whole = "".join(each.call.errand.texts()) if each.call.is_cut else ""
        if each.call.is_cut and each.answer.end == "whole" and each.right and asked[each.call.number] > 1:
            mended += 1
        elif (each.answer.end, each.answer.status) not in expected or not whole.startswith(each.answer.text):
            wrong.append(_shown(each))
    figure = f"{len(wrong)} of {len(meant)} ended in another way ({mended} broke before anything was sent)"
    return _check("broken answers end with their protocol's error", figure, wrong)


def _no_500(evidence: Evidence) -> Check:
    wrong = [_shown(each) for each in evidence.played if each.answer.status == 500]
    wrong += [f"{fact.request_id}: {fact.error}" for fact in evidence.facts if fact.status == 500]
    statuses = Counter(each.answer.status for each in evidence.played if each.answer.status)
    figure = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    return _check("no status 500", figure, wrong)


def _told_once(evidence: Evidence) -> Check:
    """Each call that began ended once; and each whose caller stayed is reported."""
    started = Counter(fact.request_id for fact in evidence.facts if fact.kind == "started")
    ends = Counter(fact.request_id for fact in evidence.facts if fact.kind == "finished")
    refused = Counter(fact.request_id for fact in evidence.facts if fact.kind == "refused")
    wrong = [f"{name}: begun {started[name]} times, ended {ends[name]}" for name in started | ends
             if not started[name] == ends[name] == 1]  # fmt: skip
    wrong += [
        f"{each.call.request_id}: never told of"
        for each in _stayed(evidence)
        if ends[each.call.request_id] + refused[each.call.request_id] != 1
    ]
    wrong += [f"{name}: refused" for name in refused]
    figure = f"{started.total()} begun, {ends.total()} ended, {refused.total()} refused"
    return _check("every call that began is reported as ended, exactly once", figure, wrong)


def _outcomes(evidence: Evidence) -> Check:
    """Observers and callers saw the same."""
    seen = {each.call.request_id: each for each in evidence.played}
    agree = {
        "whole": {"ok"},
        "error": {"interrupted", "error"},
        "refused": {"error"},
        "left": {"cancelled", "ok", "interrupted", "error"},
    }
    finished = [fact for fact in evidence.facts if fact.kind == "finished"]
    wrong = [
        f"{_shown(seen[fact.request_id])}, told as {fact.outcome}"
        for fact in finished
        if fact.outcome not in agree.get(seen[fact.request_id].answer.end, set())
    ]
    outcomes = Counter(fact.outcome for fact in finished)
    figure = ", ".join(f"{outcome}: {count}" for outcome, count in sorted(outcomes.items()))
    return _check("outcomes are reported as the clients saw them", figure, wrong)


def _exact(evidence: Evidence) -> Check:
    counted = {f"soak-{entry.number}": entry for entry in evidence.entries}
    exact = [fact for fact in evidence.facts if fact.exactness == "exact"]
    wrong = []
    ours = theirs = 0
    for fact in exact:
        entry = counted[fact.request_id]
        ours += fact.input + fact.output
        theirs += entry.input + entry.output
        if (fact.input, fact.cached, fact.output) != (entry.input, entry.cached, entry.output):
            wrong.append(f"{fact} but {entry}")
    wrong += [
        f"{fact.request_id}: complete, but {fact.exactness}"
        for fact in evidence.facts
        if fact.outcome == "ok" and fact.exactness != "exact"
    ]
    if not exact:
        wrong.append("there were none")
    figure = f"{ours} tokens of {len(exact)} calls; the upstream counted {theirs}"
    return _check("exact usage equals the upstream's count", figure, wrong)


def _broken_ones(evidence: Evidence) -> Check:
    """Cut and left streams are told as estimated; of what never began to be answered nothing is known."""
    broken = [fact for fact in evidence.facts if fact.outcome in ("interrupted", "cancelled")]
    wrong = [
        f"{fact.request_id}: {fact.outcome}, {fact.exactness}"
        for fact in broken
        if fact.exactness != ("estimated" if fact.began else "none") or (fact.began and not fact.input)
    ]
    began = sum(fact.began for fact in broken)
    figure = f"{began} estimated, {len(broken) - began} aborted before an answer began, {len(wrong)} otherwise"
    return _check("interrupted and aborted streams are reported as estimated, once", figure, wrong)


def _places(evidence: Evidence) -> Check:
    after = evidence.after
    held = {
        "places taken": after.places,
        "waiting in line": after.queued,
        "permits not settled": after.unsettled,
        "calls open": after.open_calls,
        "open in metrics": evidence.open_in_metrics,
    }
    waited = sum(fact.queue_seconds > 0 for fact in evidence.facts)
    wrong = [f"{name}: {count:g}" for name, count in held.items() if count]
    return _check("no slot of a limit is leaked", f"{sum(held.values()):g} leaked; {waited} calls were queued", wrong)


def _memory(evidence: Evidence) -> Check:
    samples = evidence.samples
    minutes = slope(samples) * 60 / MIB
    lasted = samples[-1].second - samples[0].second if samples else 0.0
    allowed = LONG_SLOPE if lasted >= LONG else SLOPE
    sizes = [each.size / MIB for each in samples] or [0.0]
    figure = f"{minutes:+.2f} MiB/min over {lasted:.0f} s ({min(sizes):.0f} to {max(sizes):.0f} MiB)"
    verdict = minutes < allowed if lasted >= JUDGED_FROM else None
    return Check("memory is flat", f"{figure}; allowed {allowed}", verdict)


def _same(name: str) -> Callable[[Evidence], Check]:
    def check(evidence: Evidence) -> Check:
        before, after = getattr(evidence.before, name), getattr(evidence.after, name)
        wrong = [str(each) for each in evidence.after.waiting] if after > before else []
        return Check(f"{name} are released", f"{before} before, {after} after", after <= before, wrong[:SHOWN])

    return check


def _objects(evidence: Evidence) -> Check:
    before, after = evidence.before, evidence.after
    more = after.objects - before.objects
    allowed = min(OBJECTS, len(evidence.played) // CALLS_PER_OBJECT)
    grown = Counter(after.types)
    grown.subtract(before.types)
    details = [f"{name}: {count:+}" for name, count in grown.most_common(12) if count > 0]
    return Check("objects are released", f"{before.objects} before, {more:+} after; allowed {allowed:+}",
                 more <= allowed, details if more > allowed else ())  # fmt: skip


def _spans(evidence: Evidence) -> Check:
    wrong = [f"{evidence.after.spans_open} spans are open"] if evidence.after.spans_open else []
    return _check("every span has ended", f"{evidence.after.spans} ended", wrong)


def _complaints(evidence: Evidence) -> Check:
    after = evidence.after
    wrong = [f"{after.complaints} records", *after.complained] if after.complaints else []
    return _check("nothing is logged as an error", f"{after.complaints} records", wrong)


def _upstream(evidence: Evidence) -> Check:
    closing = evidence.closing
    wrong = list(closing.errors)
    if closing.open_connections:
        wrong.append(f"{closing.open_connections} connections are open")
    figure = f"{len(evidence.entries)} requests, {closing.open_connections} connections left open"
    return _check("the upstream understood every request, and no connection is held", figure, wrong)
