"""One soak, from the processes' start to the verdicts.

    python -m soak [--seconds 600] [--streams 500] [--pace 0.5] [--seed N] [--page docs/reliability.md]

Before anything is counted each conversation and each fault is played once, and then the load itself for a moment, so
that what is made at first use is there. Of the load that counts the first third, at most three minutes, warms up; then
memory is sampled each second.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from bench.processes import TESTS, allow_many_files, cpu_seconds, resident_bytes
from soak.caller import get
from soak.checks import MIB, Check, Evidence, Sample, judge
from soak.load import Load
from soak.plan import NONE, WHOLE_ROUND, Plan
from soak.records import OPS, Closing, Entry, Fact, State
from support.page_sections import with_part

PART = "soak"
"""The name of the page's part that holds the figures."""
PAGED_FROM = 600.0
"""Seconds that a run must have lasted to be written down."""
_WARM_UP = 180.0
_PRELUDE = 30.0
"""Seconds of the load itself before things are counted: each user, key and upstream leaves something at first use."""
_SETTLED = 30.0
"""Seconds in which everything must have let go."""
_THREADS_REST = 11.0
"""Seconds after which a worker thread that had nothing to do ends once the next piece of work comes (anyio: 10)."""
_PACKAGES = ("llmproxy-asgi", "uvicorn", "uvloop", "aiohttp", "starlette")


class Options(NamedTuple):
    """What is asked for."""

    seconds: float = 600.0
    streams: int = 500
    pace: float = 0.5
    seed: int = 1


class Outcome(NamedTuple):
    """What came of it."""

    options: Options
    checks: Sequence[Check]
    calls: int
    faulty: int
    left: int
    busy: float
    """Share of a core that the host used."""
    callers_busy: float
    """Share of a core that the callers used, who are one process."""
    memory: tuple[float, float, float]
    """MiB: before any load, at the warm-up's end, at the load's end."""
    took: float

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.passed is not False for check in self.checks)


class Child:
    """A process of the soak; it ends when its standard input is closed."""

    def __init__(self, process: asyncio.subprocess.Process, said: str) -> None:
        self.pid = process.pid
        self.said = said
        """Its first line."""
        self._process = process

    @classmethod
    async def start(cls, module: str, *arguments: str, log: IO[bytes]) -> "Child":
        """Start it, and wait for its first line."""
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", module, *arguments]
        process = await asyncio.create_subprocess_exec(*command, cwd=TESTS, stdin=pipe, stdout=pipe, stderr=log)
        assert process.stdout is not None
        child = cls(process, (await process.stdout.readline()).decode().strip())
        if not child.said:
            await child.end()
            raise RuntimeError(f"{module} did not start")
        return child

    async def end(self) -> None:
        """Let it end by itself; after a while it is ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Sampler:
    """Looks at the host once a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._since = time.monotonic()
        self.samples: list[Sample] = []

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self.samples.append(Sample(time.monotonic() - self._since, resident_bytes(self._pid)))
            await asyncio.sleep(1)

    def after(self, second: float) -> list[Sample]:
        """What was seen later than so many seconds from its beginning."""
        return [each for each in self.samples if each.second >= second]


@contextlib.asynccontextmanager
async def _watched(sampler: Sampler, port: int) -> AsyncIterator[None]:
    """Samples, and a reader of metrics beside the callers, as hosts have one."""
    tasks = [asyncio.create_task(sampler.watch()), asyncio.create_task(_scrape(port))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError) and isinstance(result, BaseException):
                raise result


async def _scrape(port: int) -> None:
    while True:
        await _metrics(port)
        await asyncio.sleep(10)


async def _metrics(port: int) -> bytes:
    return await get(port, "/llm/metrics", f"authorization: Bearer {OPS}")


async def _state(port: int) -> State:
    return msgspec.json.decode(await get(port, "/state"), type=State)


async def _settled(port: int, before: State | None = None) -> State:
    """Return the host's state after the last call, with idle connections closed.

    Args:
        port: Of the host.
        before: What it should come back to; None: whatever it stays at.
    """
    await get(port, "/settle")
    deadline = time.monotonic() + _SETTLED
    last = await _state(port)
    while time.monotonic() < deadline:
        await asyncio.sleep(0.3)
        state = await _state(port)
        goal = last if before is None else before
        if not state.open_calls and (state.tasks, state.sockets) <= (goal.tasks, goal.sockets):
            return state
        last = state
    return last


async def _greet(port: int) -> None:
    """The host is asked who calls, in a thread; so threads that have rested end."""
    await get(port, "/llm/v1/models", "x-user: u0")


async def soak(options: Options, folder: Path) -> Outcome:
    """Play it and judge.

    Args:
        options: What is asked for.
        folder: Where files and logs go.
    """
    allow_many_files()
    began = time.monotonic()
    facts_file, entries_file, log_file = folder / "facts.jsonl", folder / "upstream.jsonl", folder / "host.log"
    with log_file.open("wb") as log, socket.socket() as closed_port:
        closed_port.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        away = f"http://127.0.0.1:{closed_port.getsockname()[1]}/v1"
        upstream = await Child.start("soak.upstream", str(entries_file), log=log)
        try:
            arguments = (upstream.said, away, str(facts_file), str(options.streams))
            host = await Child.start("soak.host", *arguments, log=log)
            try:
                seen = await _play(options, host)
            finally:
                await host.end()
        finally:
            await upstream.end()
    lines = entries_file.read_bytes().splitlines()
    evidence = Evidence(
        played=seen.load.played,
        facts=[msgspec.json.decode(line, type=Fact) for line in facts_file.read_bytes().splitlines()],
        entries=[msgspec.json.decode(line, type=Entry) for line in lines[:-1]],
        closing=msgspec.json.decode(lines[-1], type=Closing),
        before=seen.before,
        after=seen.after,
        samples=seen.samples,
        open_in_metrics=seen.open_in_metrics,
    )
    memory = (seen.before.memory, seen.samples[0].size, seen.samples[-1].size)
    return Outcome(
        options=options,
        checks=judge(evidence),
        calls=len(evidence.played),
        faulty=sum(entry.fault != NONE for entry in evidence.entries),
        left=sum(each.answer.end == "left" for each in evidence.played),
        busy=seen.busy,
        callers_busy=seen.callers_busy,
        memory=(memory[0] / MIB, memory[1] / MIB, memory[2] / MIB),
        took=time.monotonic() - began,
    )


class _Seen(NamedTuple):
    load: Load
    before: State
    after: State
    samples: list[Sample]
    open_in_metrics: float
    busy: float
    callers_busy: float


async def _play(options: Options, host: Child) -> _Seen:
    port = int(host.said)
    talks = max(1, options.streams // 2 // WHOLE_ROUND) * WHOLE_ROUND
    plan = Plan(options.seed, talks=talks, pace=options.pace)
    load = Load(port, options.streams, plan.calls())
    await load.rehearse(2 * talks)
    await load.play(min(_PRELUDE, options.seconds / 5))
    await _metrics(port)
    await _greet(port)
    before = await _settled(port)
    _say(f"{2 * talks} calls rehearsed; now {options.streams} streams for {options.seconds:g} s")
    sampler = Sampler(host.pid)
    cpu, own, since = cpu_seconds(host.pid), time.process_time(), time.monotonic()
    async with _watched(sampler, port):
        telling = asyncio.create_task(_tell(load, sampler))
        await load.play(options.seconds, spread=min(20.0, options.seconds / 10))
        telling.cancel()
    lasted = time.monotonic() - since
    busy, callers_busy = (cpu_seconds(host.pid) - cpu) / lasted, (time.process_time() - own) / lasted
    open_in_metrics = _gauge(await _metrics(port), "open_calls") + _gauge(await _metrics(port), "open_streams")
    await asyncio.sleep(_THREADS_REST)
    await _greet(port)
    after = await _settled(port, before)
    samples = [each for each in sampler.after(min(_WARM_UP, options.seconds / 3)) if each.second <= options.seconds]
    return _Seen(load, before, after, samples, open_in_metrics, busy, callers_busy)


async def _tell(load: Load, sampler: Sampler) -> None:
    while True:
        await asyncio.sleep(30)
        second, size = sampler.samples[-1]
        _say(f"{second:.0f} s: {size / MIB:.1f} MiB, {load.under_way} under way, {len(load.played)} over")


def _gauge(page: bytes, name: str) -> float:
    found = re.search(rf"^llmproxy_{name} ([0-9.e+]+)$", page.decode(), re.MULTILINE)
    if found is None:
        raise LookupError(f"the metrics know nothing of {name}")
    return float(found[1])


def report(outcome: Outcome) -> str:
    """What came of it, for people."""
    lines = []
    for check in outcome.checks:
        verdict = {True: "passed", False: "FAILED", None: "not judged"}[check.passed]
        lines.append(f"{verdict:10}  {check.name}: {check.figure}")
        lines += [f"{'':12}- {detail}" for detail in check.details]
    start, warm, end = outcome.memory
    lines.append(
        f"{outcome.calls} calls, {outcome.faulty} upstream faults, {outcome.left} callers left; host "
        f"{outcome.busy:.0%} of a core, callers {outcome.callers_busy:.0%}; memory {start:.1f}, {warm:.1f}, {end:.1f} "
        f"MiB; {outcome.took:.0f} s in all"
    )
    return "\n".join(lines)


def section(outcome: Outcome) -> str:
    """What came of it, for the page."""
    options, (start, warm, end) = outcome.options, outcome.memory
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    what = (
        f"{options.streams} concurrent streams for {options.seconds:g} s, a piece of text every {options.pace:g} s: "
        f"{outcome.calls} calls, {outcome.left} of them aborted by their clients; {outcome.faulty} requests to "
        f"upstreams had a fault. The server used {outcome.busy:.0%} of a core, and {start:.0f} MiB before, "
        f"{warm:.0f} MiB when warm and {end:.0f} MiB at the end."
    )
    where = (
        f"Seed {options.seed}, commit {_commit()}, Python {platform.python_version()}, {versions}; "
        f"{os.cpu_count()} cores, shared with upstream and callers; {time.strftime('%Y-%m-%d', time.gmtime())}."
    )
    lines = [what, "", where, "", "| claim | figure | result |", "| --- | --- | --- |"]
    words = {True: "passed", False: "failed", None: "not judged"}
    lines += [f"| {check.name} | {check.figure} | {words[check.passed]} |" for check in outcome.checks]
    return "\n".join(lines)


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=TESTS, capture_output=True, check=False)
    return asked.stdout.decode().strip() or "unknown"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Play, print, write down; 1 if anything failed."""
    usual = Options()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=usual.seconds)
    parser.add_argument("--streams", type=int, default=usual.streams)
    parser.add_argument("--pace", type=float, default=usual.pace, help="seconds between two pieces of an answer")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--page", type=Path, help=f"write the figures there, if it lasts {PAGED_FROM:g} s and passes")
    parser.add_argument("--keep", type=Path, help="a folder for facts, books and logs; by default they are thrown away")
    given = parser.parse_args()
    options = Options(given.seconds, given.streams, given.pace, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        if given.keep is not None:
            given.keep.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(soak(options, given.keep or Path(folder)))
    print(report(outcome))
    if given.page is not None and outcome.passed and options.seconds >= PAGED_FROM:
        text = given.page.read_text(encoding="utf-8")
        given.page.write_text(with_part(text, PART, section(outcome)), encoding="utf-8")
        print(f"{given.page.name} is written")
    return 0 if outcome.passed else 1
