"""The benchmark's entry: one run, interleaved rounds, medians, a table of goals.

    .venv/bin/python tests/bench/run.py [--quick] [--codecs] [--before TREE] [--rounds N] [--write docs/benchmarks.md]

Each server has one core while it is measured, the upstream and the load share another. It reports what it saw and
fails no build: only ratios inside one run can be compared, never figures of two runs or two machines.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

# Run as a script, our own folder is the first place of all imports, and `profile.py` would hide the standard one.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from bench import codec_report, codecs, leaving, load, processes, report, startup, traffic


class Plan(NamedTuple):
    """How much is measured. Times in seconds."""

    rounds: int
    closed: float
    single: float
    paced: float
    turns: int
    starts: int
    memory: int
    imports: int
    leavers: int
    codecs: int


_DEFAULT = Plan(
    rounds=5, closed=2.0, single=1.0, paced=3.0, turns=8, starts=5, memory=3, imports=7, leavers=200, codecs=3
)
_QUICK = Plan(rounds=3, closed=0.6, single=0.3, paced=0.8, turns=3, starts=3, memory=1, imports=3, leavers=20, codecs=1)
_HELD = 1000
"""Streams held open to see what one costs in memory."""


class Contestant(NamedTuple):
    """One way from the client to the upstream."""

    name: report.Name
    app: str
    wire: traffic.Wire = "chat"
    prefix: str = ""
    access: str = "open"
    tree: Path | None = None
    """Another checkout whose gateway it is; None: this one's."""

    def subject(self, port: int, pid: int, idle: float = 0.0) -> load.Subject:
        """The same, as the load knows it."""
        key = "" if self.access == "open" else traffic.KEY
        return load.Subject(port=port, pid=pid, idle=idle, wire=self.wire, prefix=self.prefix, key=key)


_BARE = Contestant("bare", "bench.bare:app")
_RELAYED = Contestant("relayed", "bench.ours:app", prefix="/llm")
_TRANSLATED = Contestant("translated", "bench.ours:app", wire="messages", prefix="/llm")
_KEYS = Contestant("keys", "bench.ours:app", prefix="/llm", access="keys")
_GUARDED = Contestant("guarded", "bench.ours:app", prefix="/llm", access="guarded")


class Load:
    """The load generator, a process of its own that plays one job at a time."""

    def __init__(self, core: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load", "--core", str(core)],
            cwd=processes.TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def play(self, job: load.Job) -> load.Finding:
        """Wait for a job's finding.

        Raises:
            RuntimeError: the load generator broke down, so no further figure can be had.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The load generator has ended; what it said stands above.")
        return msgspec.json.decode(line, type=load.Finding)

    def close(self) -> None:
        """End the process."""
        processes.end(self._process)


class Bench:
    """One run: the plan, the processes it needs and the findings it gathers."""

    def __init__(self, plan: Plan, cores: processes.Cores, *, before: Path | None = None) -> None:
        self.plan = plan
        self._before = before
        self.findings = report.Findings()
        self._cores = cores
        self._stack = contextlib.ExitStack()
        self._upstream: processes.Running
        self._load: Load

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._upstream = stack.enter_context(processes.server("bench.upstream", core=self._cores.rest))
            processes.first_answer(self._upstream, traffic.request("chat", "plain-1"))
            self._load = Load(self._cores.rest)
            stack.callback(self._load.close)
            os.sched_setaffinity(0, {self._cores.rest})
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def contestants(self) -> list[Contestant]:
        """Those that can run today; who can't is noted in the findings."""
        ready = [_BARE]
        try:
            startup.check()
        except startup.NotImportable as error:
            self.findings.notes.append(f"Ours was not measured: `LLMProxy` can't be imported ({error}).")
            return ready
        ours = [_RELAYED, _TRANSLATED, _KEYS, _GUARDED]
        if self._before is not None:
            ours.append(Contestant("before", "bench.ours:app", prefix="/llm", tree=self._before))
        for contestant in ours:
            try:
                with self._server(contestant) as running:
                    self._first_answer(running, contestant)
            except processes.NotServing as error:
                self.findings.notes.append(f"Not measured, {report.TITLES[contestant.name]}: {error}")
            else:
                ready.append(contestant)
        return ready

    def _server(self, contestant: Contestant) -> contextlib.AbstractContextManager[processes.Running]:
        env = {
            "BENCH_UPSTREAM": f"http://127.0.0.1:{self._upstream.port}",
            "BENCH_ACCESS": contestant.access,
        }
        if contestant.tree is not None:
            env["PYTHONPATH"] = str(contestant.tree / "src")
        return processes.server("bench.serve", contestant.app, core=self._cores.gateway, env=env)

    def _first_answer(self, running: processes.Running, contestant: Contestant) -> float:
        return processes.first_answer(running, contestant.subject(running.port, running.pid).request("plain-1"))

    def rounds(self, contestants: list[Contestant]) -> None:
        """All measures of speed, every contestant in every round, one at a time."""
        with contextlib.ExitStack() as stack:
            subjects: dict[report.Name, load.Subject] = {"direct": load.Subject(port=self._upstream.port)}
            for contestant in contestants:
                running = stack.enter_context(self._server(contestant))
                self._first_answer(running, contestant)
                idle = _idle(running.pid)
                subjects[contestant.name] = contestant.subject(running.port, running.pid, idle)
            for number in range(self.plan.rounds):
                _say(f"round {number + 1} of {self.plan.rounds}")
                self._round(subjects)

    def _round(self, subjects: dict[report.Name, load.Subject]) -> None:
        plan = self.plan
        makers: dict[report.Measure, Callable[[load.Subject], load.Job]] = {
            "closed": lambda who: load.Closed(subject=who, connections=64, seconds=plan.closed, warm_up=0.3),
            "single": lambda who: load.Closed(subject=who, connections=1, seconds=plan.single, warm_up=0.1),
            "paced": lambda who: load.Paced(subject=who, streams=50, seconds=plan.paced, warm_up=0.3),
            "full": lambda who: load.Full(subject=who, streams=64, chunks=256, turns=plan.turns),
        }
        for measure, make in makers.items():
            for name, subject in subjects.items():
                if name in report.BY_REQUEST and measure in {"paced", "full"}:
                    continue
                self.findings.add(measure, name, self._load.play(make(subject)))

    def starts(self, contestants: list[Contestant]) -> None:
        """Fresh processes: seconds to the first answer, then memory per open stream."""
        for number in range(self.plan.starts):
            _say(f"start {number + 1} of {self.plan.starts}")
            for contestant in contestants:
                if contestant.name in report.BY_REQUEST:
                    continue
                with self._server(contestant) as running:
                    wall = self._first_answer(running, contestant)
                    cost = startup.Cost(wall, processes.cpu_seconds(running.pid))
                    self.findings.starts[contestant.name].append(cost)
                    if number < self.plan.memory:
                        job = load.Hold(subject=contestant.subject(running.port, running.pid), streams=_HELD)
                        self.findings.add("hold", contestant.name, self._load.play(job))


def _idle(pid: int) -> float:
    time.sleep(0.3)
    before = processes.cpu_seconds(pid)
    time.sleep(0.7)
    return (processes.cpu_seconds(pid) - before) / 0.7


def _codecs(core: int, rounds: int) -> str:
    """The section about the codecs, which are measured in a process of their own."""
    _say("codecs")
    command = [sys.executable, "-m", "bench.codecs", "--core", str(core), "--rounds", str(rounds)]
    played = subprocess.run(command, cwd=processes.TESTS, stdout=subprocess.PIPE, check=True)
    return codec_report.write(msgspec.json.decode(played.stdout, type=codecs.Findings))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute, for a first look")
    parser.add_argument("--codecs", action="store_true", help="the codecs alone; --write then keeps all other sections")
    parser.add_argument("--before", type=Path, metavar="TREE", help="also measure the gateway of another checkout")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 5, quick 3; of the codecs 3 and 1)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report to this file as well")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write if asked to."""
    options = _options()
    plan = _QUICK if options.quick else _DEFAULT
    if options.rounds:
        plan = plan._replace(rounds=options.rounds, codecs=options.rounds)
    if options.codecs:
        section = _codecs(processes.cores().gateway, plan.codecs)
        print(section)
        if options.write:
            page = options.write.read_text() if options.write.exists() else ""
            options.write.write_text(report.with_codecs(page, section))
        return
    processes.allow_many_files()
    cores = processes.cores()
    load_before = os.getloadavg()[0]
    began = time.perf_counter()
    with processes.warm_bytecode():
        with Bench(plan, cores, before=options.before and options.before.resolve()) as bench:
            contestants = bench.contestants()
            bench.rounds(contestants)
            bench.starts(contestants)
            findings = bench.findings
        if len(contestants) > 1:
            findings.codecs = _codecs(cores.gateway, plan.codecs)
            _say("imports")
            findings.imports = startup.measure(plan.imports)
            _say("callers who leave")
            findings.leavers = leaving.measure(cores.gateway, calls=plan.leavers, prefix=_RELAYED.prefix)
    facts = report.Facts(
        quick=options.quick,
        rounds=plan.rounds,
        seconds=time.perf_counter() - began,
        cores=cores,
        load_before=load_before,
    )
    text = report.write(findings, facts)
    print(text)
    if options.write:
        options.write.write_text(text + "\n")


if __name__ == "__main__":
    main()
