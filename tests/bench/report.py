"""From findings to a page: medians, ratios within a round, goals met or not. It measures nothing."""

import dataclasses
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from bench import leaving, load, processes, startup

Name = Literal["direct", "bare", "relayed", "translated", "keys", "guarded", "before"]
Measure = Literal["closed", "single", "paced", "full", "hold"]

TITLES: dict[Name, str] = {
    "direct": "direct, no gateway",
    "bare": "bare relay (aiohttp + Starlette)",
    "relayed": "ours, Chat to Chat",
    "translated": "ours, Messages to Chat",
    "keys": "ours, Chat to Chat, with a key",
    "guarded": "ours, Chat to Chat, all protections on",
    "before": "ours at an earlier commit, Chat to Chat",
}
BY_REQUEST: frozenset[Name] = frozenset({"keys"})
"""What is done once per request; chunks do not know of it."""
_OURS: tuple[Name, ...] = ("relayed", "translated", "keys", "guarded", "before")
CODECS = "## Codecs"
_LIBRARIES = ("uvicorn", "uvloop", "httptools", "aiohttp", "httpx2", "starlette", "msgspec")


@dataclasses.dataclass(slots=True)
class Findings:
    """All that one run saw."""

    rounds: dict[tuple[Measure, Name], list[load.Finding]] = dataclasses.field(
        default_factory=lambda: defaultdict(list)
    )
    starts: dict[Name, list[startup.Cost]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    imports: startup.Imports | None = None
    leavers: dict[leaving.Kind, list[float]] = dataclasses.field(default_factory=dict)
    codecs: str = ""
    """The section about the codecs, which are measured and judged by themselves."""
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, measure: Measure, name: Name, finding: load.Finding) -> None:
        """Keep one round's finding; what went wrong in it becomes a note."""
        self.rounds[measure, name].append(finding)
        if finding.errors:
            self.notes.append(f"{TITLES[name]}, {measure}: {finding.errors} errors, the first: {finding.first_error}")


class Facts(NamedTuple):
    """The circumstances of a run."""

    quick: bool
    rounds: int
    seconds: float
    cores: processes.Cores
    load_before: float


Figure = Callable[[load.Finding], float]


def _cpu(finding: load.Finding) -> float:
    return finding.cpu / finding.done


def _p50(finding: load.Finding) -> float:
    return finding.p50


def _p99(finding: load.Finding) -> float:
    return finding.p99


def _rate(finding: load.Finding) -> float:
    return finding.done / finding.wall


def _per_stream(finding: load.Finding) -> float:
    return (finding.bytes_after - finding.bytes_before) / finding.done / 1024


class _Results:
    """Figures by measure and contestant; None where nothing was seen."""

    def __init__(self, findings: Findings) -> None:
        self._rounds = findings.rounds

    def there(self, measure: Measure, names: Iterable[Name]) -> list[Name]:
        """Those of some contestants that were measured so."""
        return [name for name in names if self._rounds.get((measure, name))]

    def values(self, measure: Measure, name: Name, figure: Figure) -> list[float]:
        """One value per round; empty unless every round saw something."""
        seen = self._rounds.get((measure, name), [])
        return [figure(finding) for finding in seen] if all(finding.done for finding in seen) else []

    def median(self, measure: Measure, name: Name, figure: Figure) -> float | None:
        """The median over the rounds."""
        return _median(self.values(measure, name, figure))

    def ratios(self, measure: Measure, name: Name, figure: Figure) -> list[float]:
        """To the bare relay, round by round."""
        mine, bare = self.values(measure, name, figure), self.values(measure, "bare", figure)
        return [one / other for one, other in zip(mine, bare, strict=True)] if mine and bare else []

    def added(self, name: Name) -> list[float]:
        """Seconds that the median request at one connection takes longer than the direct one, round by round."""
        mine, direct = self.values("single", name, _p50), self.values("single", "direct", _p50)
        return [one - other for one, other in zip(mine, direct, strict=True)] if mine and direct else []

    def added_ratios(self, name: Name) -> list[float]:
        """The same, as multiples of what the bare relay adds."""
        mine, bare = self.added(name), self.added("bare")
        return [one / other for one, other in zip(mine, bare, strict=True)] if mine and bare else []


def _median(values: Iterable[float]) -> float | None:
    return statistics.median(seen) if (seen := list(values)) else None


def _inverse(values: list[float]) -> list[float]:
    return [1 / value for value in values]


class Goal(NamedTuple):
    """One promise and what became of it."""

    claim: str
    limit: float
    at_least: bool
    unit: str
    seen: list[float]
    digits: int = 2

    def row(self) -> list[str]:
        """Its line in the table of goals."""
        wanted = f"{'>=' if self.at_least else '<='} {self.limit:g}{self.unit}"
        value = _median(self.seen)
        if value is None:
            return [self.claim, wanted, "not measured", "", "-"]
        met = value >= self.limit if self.at_least else value <= self.limit
        spread = f"{min(self.seen):.{self.digits}f} to {max(self.seen):.{self.digits}f}" if len(self.seen) > 1 else ""
        return [self.claim, wanted, f"{value:.{self.digits}f}{self.unit}", spread, "met" if met else "NOT MET"]


def _last(seconds: list[float]) -> list[float]:
    """The 99th percentile, in milliseconds."""
    return [statistics.quantiles(seconds, n=100)[98] * 1000] if len(seconds) > 1 else []


def _leaving(found: dict[leaving.Kind, list[float]]) -> str:
    rows = [
        [leaving.TITLES[kind], str(len(seconds)), cell(_median(seconds), 1e3, 1), cell(_last(seconds)[0], digits=1)]
        for kind, seconds in found.items()
    ]
    return table(["the client disconnects", "calls", "p50 ms", "p99 ms"], rows)


def _wall(costs: list[startup.Cost]) -> list[float]:
    return [cost.wall for cost in costs]


def _goals(results: _Results, findings: Findings) -> list[Goal]:
    bare = " x bare"
    rates: dict[Name, float] = {"relayed": 0.6, "translated": 0.5, "keys": 0.6}
    chunks: dict[Name, float] = {"relayed": 1.3, "translated": 1.6}
    package: list[float] = []
    main_class: list[float] = []
    if findings.imports:
        package, main_class = [findings.imports.package.wall * 1000], [findings.imports.name.wall * 1000]
    return [
        *(
            Goal(
                f"requests per CPU second: {TITLES[name]}",
                limit,
                True,
                bare,
                _inverse(results.ratios("closed", name, _cpu)),
            )
            for name, limit in rates.items()
        ),
        *(Goal(f"added latency: {TITLES[name]}", 2, False, bare, results.added_ratios(name)) for name in rates),
        *(
            Goal(f"CPU per paced chunk: {TITLES[name]}", limit, False, bare, results.ratios("paced", name, _cpu))
            for name, limit in chunks.items()
        ),
        *(
            Goal(
                f"memory per open stream: {TITLES[name]}",
                48,
                False,
                " KiB",
                results.values("hold", name, _per_stream),
                1,
            )
            for name in chunks
        ),
        *(
            Goal(f"start to first answer: {TITLES[name]}", 0.5, False, " s", _wall(findings.starts[name]))
            for name in chunks
        ),
        *(
            Goal(f"disconnect {title}, p99", 250, False, " ms", _last(findings.leavers.get(kind, [])), 0)
            for kind, title in leaving.TITLES.items()
        ),
        Goal(f"`{startup.PACKAGE}`", 250, False, " ms", package, 0),
        Goal(f"`{startup.NAME}`", 250, False, " ms", main_class, 0),
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that is also readable in a terminal; all columns but the first are figures."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def cell(value: float | None, scale: float = 1, digits: int = 0) -> str:
    """A figure, or a dash for what was not seen."""
    return "-" if value is None else f"{value * scale:,.{digits}f}"


def _closed(results: _Results) -> str:
    rows = []
    for name in results.there("closed", ("bare", *_OURS)):
        cpu = results.median("closed", name, _cpu)
        rows.append(
            [
                TITLES[name],
                cell(cpu, 1e3, 3),
                cell(1 / cpu if cpu else None),
                cell(_median(_inverse(results.ratios("closed", name, _cpu))), digits=2),
                cell(results.median("closed", name, _rate)),
            ]
        )
    return table(["64 connections", "CPU ms/request", "requests/CPU s", "x bare", "requests/s seen"], rows)


def _single(results: _Results) -> str:
    rows = [
        [
            TITLES[name],
            cell(results.median("single", name, _p50), 1e6),
            cell(_median(results.added(name)) if name != "direct" else None, 1e6),
            cell(_median(results.added_ratios(name)) if name != "direct" else None, digits=2),
            cell(results.median("single", name, _cpu) if name != "direct" else None, 1e3, 3),
        ]
        for name in results.there("single", TITLES)
    ]
    return table(["one connection", "p50 us", "added p50 us", "x bare", "CPU ms/request"], rows)


def _paced(results: _Results) -> str:
    rows = [
        [
            TITLES[name],
            cell(results.median("paced", name, _cpu) if name != "direct" else None, 1e6, 1),
            cell(_median(results.ratios("paced", name, _cpu)) if name != "direct" else None, digits=2),
            cell(results.median("paced", name, _p50), 1e3, 2),
            cell(results.median("paced", name, _p99), 1e3, 2),
            cell(results.median("paced", name, _rate)),
        ]
        for name in results.there("paced", TITLES)
    ]
    return table(["50 paced streams", "CPU us/chunk", "x bare", "lag p50 ms", "lag p99 ms", "chunks/s"], rows)


def _full(results: _Results) -> str:
    rows = [
        [
            TITLES[name],
            cell(results.median("full", name, _cpu) if name != "direct" else None, 1e6, 1),
            cell(_median(results.ratios("full", name, _cpu)) if name != "direct" else None, digits=2),
            cell(results.median("full", name, _rate)),
        ]
        for name in results.there("full", TITLES)
    ]
    return table(["64 streams at full speed", "CPU us/chunk", "x bare", "chunks/s"], rows)


def _resident(finding: load.Finding) -> float:
    return finding.bytes_before / 2**20


def _resident_held(finding: load.Finding) -> float:
    return finding.bytes_after / 2**20


def _process(results: _Results, findings: Findings) -> str:
    rows = [
        [
            TITLES[name],
            cell(_median(start.wall for start in findings.starts[name]), digits=2),
            cell(_median(start.cpu for start in findings.starts[name]), digits=2),
            cell(results.median("hold", name, _resident), digits=1),
            cell(results.median("hold", name, _resident_held), digits=1),
            cell(results.median("hold", name, _per_stream), digits=1),
        ]
        for name in ("bare", *_OURS)
        if findings.starts[name]
    ]
    head = [
        "a fresh process",
        "start to first answer s",
        "CPU s",
        "RSS MiB",
        "RSS MiB, 1000 streams",
        "KiB per open stream",
    ]
    return table(head, rows)


def _imports(imports: startup.Imports) -> str:
    rows = [
        [f"`{statement}`", cell(cost.wall, 1e3), cell(cost.cpu, 1e3)]
        for statement, cost in (
            (startup.PACKAGE, imports.package),
            (startup.NAME, imports.name),
            (startup.LIBRARIES, imports.libraries),
        )
    ]
    counts = (
        f"Importing `LLMProxy` loads {imports.own_modules} modules of the gateway and {imports.all_modules} in total."
    )
    return f"{table(['import', 'ms', 'CPU ms'], rows)}\n\n{counts}"


def _versions() -> str:
    versions = [f"Python {platform.python_version()}"]
    for library in _LIBRARIES:
        try:
            versions.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{library} (not installed)")
    return ", ".join(versions)


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=processes.TESTS.parent, capture_output=True, check=True).stdout.decode()

    try:
        commit = git("rev-parse", "--short=12", "HEAD").strip()
        changed = git("status", "--porcelain", "--", "src")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}, with changes that are not committed" if changed.strip() else commit


def _circumstances(facts: Facts) -> str:
    shared = "" if facts.cores.gateway != facts.cores.rest else ", all on one core: read no figure as exact"
    return "\n".join(
        [
            f"- Versions: {_versions()}.",
            f"- Commit: {_commit()}.",
            f"- Machine: {os.cpu_count()} cores, {platform.machine()}, {platform.system()}{shared}.",
            f"- Load average before the run: {facts.load_before:.2f}.",
            f"- Rounds: {facts.rounds}{' (quick)' if facts.quick else ''}, {facts.seconds:.0f} s in total.",
        ]
    )


def _without_places(note: str) -> str:
    """One line that says nothing of where this machine keeps its files."""
    line = " ".join(note.split())
    for place in (processes.TESTS.parent, sys.prefix, sys.base_prefix, Path.home()):
        line = line.replace(f"{place}{os.sep}", "")
    return line


def with_codecs(page: str, section: str) -> str:
    """A page that was written before, with another section about the codecs; at its end if it has none yet."""
    before, _, rest = page.partition(f"{CODECS}\n")
    after = rest[rest.find("\n## ") :].strip("\n") if "\n## " in rest else ""
    return "\n\n".join(part for part in (before.strip("\n"), CODECS, section, after) if part) + "\n"


def write(findings: Findings, facts: Facts) -> str:
    """The whole page, in Markdown that also reads well in a terminal."""
    results = _Results(findings)
    goals = table(["goal", "target", "median", "spread", "verdict"], [goal.row() for goal in _goals(results, findings)])
    notes = [_without_places(note) for note in dict.fromkeys(findings.notes)]
    if facts.load_before > 0.7:
        notes.append("The machine was busy before the run: expect additional spread.")
    sections = [
        "# Benchmarks",
        _INTRODUCTION,
        "## Goals",
        goals,
        *(["## Problems in this run", "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Requests",
        _closed(results),
        _single(results),
        "## Streams",
        _paced(results),
        _full(results),
        *([CODECS, findings.codecs] if findings.codecs else []),
        "## Startup and memory",
        _process(results, findings),
        *([_imports(findings.imports)] if findings.imports else []),
        *(["## Disconnects", _leaving(findings.leavers)] if findings.leavers else []),
        "## Environment",
        _circumstances(facts),
        "## Run it yourself",
        _REPEAT,
    ]
    return "\n\n".join(sections)


_INTRODUCTION = """\
The benchmark writes this page; do not edit it. It compares the gateway with the smallest possible replacement: a
relay of forty lines on aiohttp and Starlette, without keys, models, limits or accounting. Only ratios inside one
run are comparable: another machine, or the same one an hour later, gives other figures.

Each server has one core while it is measured, and runs one uvicorn worker with uvloop and httptools and without an
access log. The upstream and the load generator share another core. The contestants alternate in every round;
figures are medians over the rounds. Every answer is checked: status, all chunks, their order, the correct end."""

_REPEAT = """\
```sh
make bench                                                               # about six minutes, to the terminal
make bench ARGS=--quick                                                  # about one minute
make bench ARGS=--codecs                                                 # the codecs alone
.venv/bin/python tests/bench/run.py --write docs/benchmarks.md           # this page
.venv/bin/python tests/bench/profile.py --wire messages --model full-256 # where the time goes
```

- **Requests**: plain requests; each connection sends its next one after the last is answered. *CPU* is user and
  system time of the server's process. *Added* is the median latency minus the median of calling the upstream
  directly. If requests per second are far below requests per CPU second, another process was using the server's
  core.
- **Paced**: one chunk every 20 ms in each stream, so nearly every chunk is a separate wake-up, as in production.
  The CPU time of the idle server is subtracted. *Lag* is the time from the upstream's write to the client's read.
- **Full speed**: streams of 256 chunks without pauses, so many chunks arrive in one read.
- **Memory**: the resident size that 1000 streams, held open after their first chunk, add to a process that has
  served a few requests, divided by 1000.
- **Disconnects**: from the close of the client's socket to the close of the upstream's connection, one call at a
  time, through uvicorn.
- **Start**: from the start of the process to the first answer with status 200. Imports: fresh interpreters with warm
  bytecode, minus the start of an interpreter that imports nothing. Both are wall-clock times, which a busy machine
  increases; the CPU time beside them is what an idle one would need."""
