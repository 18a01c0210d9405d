"""The benchmark page's section about the codecs: goals, speeds, requests, holds. It measures nothing."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from bench import codecs, report, streams
from bench.codecs import Asking, Findings, Hold, Speed
from bench.streams import TITLES, Kind

_PLAIN = 0.2
"""Of the speed of plain decoding and encoding."""
_EVENTS = 130_000
"""Per second: ten times what LiteLLM's adapter between Chat and Messages made, bytes to bytes, on the same machine."""
_REQUEST = 3.0
_READ = 5.0
"""Milliseconds."""

_KINDS: dict[Kind, str] = {"text": "text", "reasoning": "reasoning", "arguments": "tool arguments"}

_T = TypeVar("_T", Speed, Hold, Asking)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _pair(one: Speed | Hold | Asking) -> str:
    """Always from the upstream's side, but for requests, which go the other way."""
    first, second = (one.caller, one.upstream) if isinstance(one, Asking) else (one.upstream, one.caller)
    return f"{TITLES[first]} to {TITLES[second]}"


def _worst(found: Iterable[_T], figure: Callable[[_T], float]) -> _T:
    return min(found, key=figure)


def _of(found: Iterable[Speed], kind: Kind) -> list[Speed]:
    return [speed for speed in found if speed.kind == kind]


def _goals(findings: Findings) -> list[report.Goal]:
    """Each judged by the pair, and the size of reads, that does worst."""
    goals: list[report.Goal] = []
    for kind, title in _KINDS.items():
        worst = _worst(_of(findings.speeds, kind), lambda speed: _median(speed.ratios()))
        claim = f"{title}, events/s: {_pair(worst)}, {worst.read}"
        goals.append(report.Goal(claim, _PLAIN, True, " x plain", worst.ratios()))
    for kind, title in _KINDS.items():
        worst = _worst(_of(findings.speeds, kind), lambda speed: _median(speed.ours))
        claim = f"{title}, events/s: {_pair(worst)}, {worst.read}"
        goals.append(report.Goal(claim, _EVENTS, True, "", worst.ours, 0))
    slowest = _worst(findings.requests, lambda asking: -_median(asking.encode))
    claim = f"200 messages with tools, encoded: {_pair(slowest)}"
    goals.append(report.Goal(claim, _REQUEST, False, " ms", [1000 * each for each in slowest.encode]))
    longest = _worst(findings.holds, lambda hold: -max(hold.longest, hold.lean))
    held = [1000 * max(longest.longest, longest.lean)]
    return [*goals, report.Goal(f"one read of 64 KiB: {_pair(longest)}", _READ, False, " ms", held)]


def _speeds(findings: Findings) -> str:
    """By pair and kind, at the size of reads that is slowest for it."""
    rows: list[list[str]] = []
    for upstream, caller in streams.PAIRS:
        row = [f"{TITLES[upstream]} to {TITLES[caller]}"]
        for kind in streams.KINDS:
            mine = [each for each in _of(findings.speeds, kind) if (each.upstream, each.caller) == (upstream, caller)]
            slowest = _worst(mine, lambda speed: _median(speed.ratios()))
            row += [report.cell(_median(slowest.ours)), report.cell(_median(slowest.ratios()), digits=2)]
        rows.append(row)
    head = ["upstream to caller"]
    for kind in streams.KINDS:
        head += [f"{_KINDS[kind]}/s", "x plain"]
    return report.table(head, rows)


def _reads(findings: Findings) -> str:
    """By size of reads, all pairs together."""
    rows: list[list[str]] = []
    for relayed in (True, False):
        for read in codecs.READS:
            mine = [each for each in findings.speeds if each.read == read and (each.upstream == each.caller) == relayed]
            row = ["one protocol, relayed" if relayed else "two protocols", read]
            for figures in ([_median(each.ours) for each in mine], [_median(each.ratios()) for each in mine]):
                digits = 0 if max(figures) > 100 else 2
                row += [report.cell(figure, digits=digits) for figure in (min(figures), _median(figures))]
            rows.append(row)
    head = ["all pairs and kinds", "a read", "least events/s", "median", "least x plain", "median"]
    return report.table(head, rows)


def _requests(findings: Findings) -> str:
    rows: list[list[str]] = []
    for caller in streams.PROTOCOLS:
        mine = {asking.upstream: asking for asking in findings.requests if asking.caller == caller}
        others = [asking for asking in mine.values() if asking.upstream != caller]
        row = [TITLES[caller], report.cell(mine[caller].size / 1024)]
        row.append(_milliseconds([_median(asking.decode) for asking in others]))
        for upstream in streams.PROTOCOLS:
            one = mine[upstream]
            both = [a + b for a, b in zip(one.decode, one.encode, strict=True)]
            row.append(_milliseconds(one.encode) if upstream != caller else f"({_milliseconds(both)})")
        rows.append(row)
    head = ["200 messages with tools", "KiB", "read ms", *(f"to {title} ms" for title in TITLES.values())]
    return report.table(head, rows)


def _holds(findings: Findings) -> str:
    rows = [
        [_pair(hold), *(_milliseconds([figure]) for figure in (hold.median, hold.longest, hold.lean))]
        for hold in findings.holds
    ]
    return report.table(["a read of 64 KiB", "median ms", "longest ms", "longest ms, lean"], rows)


def _milliseconds(seconds: Sequence[float]) -> str:
    return report.cell(_median(seconds), 1e3, 2)


def write(findings: Findings) -> str:
    """The section without its title."""
    goals = report.table(
        ["goal, judged by the slowest pair", "target", "median", "spread", "verdict"],
        [goal.row() for goal in _goals(findings)],
    )
    return "\n\n".join(
        [_INTRODUCTION, goals, _speeds(findings), _reads(findings), _requests(findings), _holds(findings), _NOTES]
    )


_INTRODUCTION = """\
The codecs alone, in one process: an upstream's bytes become the client's, without sockets and without the rest of
the gateway. *Plain* is `msgspec` decoding and encoding the JSON of the same events, already extracted from their
frames; it interprets nothing. Both alternate. Before that, each answer is decoded as its client would, and must
match what the upstream sent."""

_NOTES = f"""\
- **Events**: streams of {codecs.DELTAS:,} token-sized pieces, in the four vendors' formats. They arrive one event
  at a time, 4 KiB at a time and 64 KiB at a time; the table shows and judges the slowest of the three for each
  pair. With the same protocol on both sides, the stream passes through undecoded, with the model's name replaced. A
  client of Gemini's protocol gets tool calls whole.
- **Requests**: decoded into the protocol-neutral form, then encoded for the upstream; medians. In brackets:
  passthrough, decoded and encoded together.
- **A read**: how long the event loop would be blocked while one read is processed. *Lean* streams omit everything
  optional, so more events fit into one read; the longest is the longest of all reads of all three kinds of streams,
  in CPU time, each read by its median over the rounds."""
