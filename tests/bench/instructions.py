"""Instructions per call and per chunk: what a change costs, to the per mille, on a busy machine as on an idle one.

    .venv/bin/python tests/bench/instructions.py [--before TREE]

Run by hand; it needs valgrind, and takes about a minute for each tree. Instructions are not time: a cache miss counts
nothing. Take a ratio for the direction and the size of a change, and `make bench` for what it is in microseconds.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent.parent
# Run as a script, our own folder is the first place of all imports, and `profile.py` would hide the standard one.
if sys.path[0] == str(TESTS / "bench"):
    sys.path[0] = str(TESTS)

from bench import traffic  # noqa: E402  behind the path

_MARK = "getloadavg"
"""A function of libc that nothing else calls. Valgrind writes down what it has counted each time it is entered."""
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


class Case(NamedTuple):
    """Some calls of one kind."""

    wire: traffic.Wire
    model: str
    calls: int


_SHORT, _LONG = 100, 600
CASES = [
    Case(wire, model, calls)
    for wire in traffic.PATHS
    for model, calls in (("plain-1", 100), (f"full-{_SHORT}", 4), (f"full-{_LONG}", 4))
]
_TITLES: dict[traffic.Wire, str] = {"chat": "relayed (Chat to Chat)", "messages": "translated (Messages to Chat)"}


def mark() -> None:
    """Begin a new count."""
    os.getloadavg()


def figures(counts: Iterable[int]) -> dict[str, float]:
    """Return instructions per call and per chunk, by what they are of.

    Args:
        counts: Of each of `CASES` in turn.
    """
    found: dict[str, float] = {}
    each = {case: count / case.calls for case, count in zip(CASES, counts, strict=True)}
    for wire, title in _TITLES.items():
        whole, short, long = (cost for case, cost in each.items() if case.wire == wire)
        chunk = (long - short) / (_LONG - _SHORT)
        found[f"{title}, whole, per call"] = whole
        found[f"{title}, stream, per call"] = short - chunk * _SHORT
        found[f"{title}, stream, per chunk"] = chunk
    return found


def measure(tree: Path) -> dict[str, float]:
    """Return the figures of the gateway in a checkout.

    Raises:
        RuntimeError: It did not answer as it should.
    """
    with tempfile.TemporaryDirectory(prefix="bench-instructions-") as folder:
        command = ["valgrind", "--tool=callgrind", f"--dump-before={_MARK}", "--callgrind-out-file=out", "-q"]
        command += [sys.executable, "-m", "bench.counted"]
        # The gateway's own folders come first, so this checkout's benchmark drives that checkout's gateway.
        paths = [str(tree / "src"), str(TESTS)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}
        played = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if played.returncode:
            raise RuntimeError(played.stderr.strip())
        written = (Path(folder, f"out.{number}").read_text() for number in range(1, 2 * len(CASES) + 1))
        counts = [int(found[1]) for text in written if (found := _TOTALS.search(text))]
    return figures(counts[1::2])


def table(now: dict[str, float], before: dict[str, float] | None) -> str:
    """Return the figures for reading, with the ratio where there are two trees."""
    lines = [f"{'instructions':<46}{'now':>12}" + (f"{'before':>12}{'ratio':>8}" if before else "")]
    for name, count in now.items():
        line = f"{name:<46}{count:>12,.0f}"
        if before:
            line += f"{before[name]:>12,.0f}{count / before[name]:>8.3f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Measure this checkout and, where asked, another one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="TREE", help="also measure the gateway of another checkout")
    options = parser.parse_args()
    before = measure(options.before.resolve()) if options.before else None
    print(table(measure(TESTS.parent), before))


if __name__ == "__main__":
    main()
