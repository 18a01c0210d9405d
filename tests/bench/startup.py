"""What it takes to begin: imports in fresh interpreters, measured against an interpreter that imports nothing."""

import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

_EMPTY = "pass"
PACKAGE = "import llmproxy_asgi"
NAME = "from llmproxy_asgi import LLMProxy"
LIBRARIES = "import httpx2, pydantic, starlette.applications"
_MODULES = f"""
import sys
before = set(sys.modules)
{NAME}
new = set(sys.modules) - before
print(sum(name.partition(".")[0] == "llmproxy_asgi" for name in new), len(new))
"""


class Cost(NamedTuple):
    """What one statement takes in a fresh interpreter with warm bytecode, in seconds."""

    wall: float
    cpu: float
    """User and system time; a busy machine does not stretch it as it does the other."""


class Imports(NamedTuple):
    """Medians, less the start of the interpreter."""

    package: Cost
    name: Cost
    libraries: Cost
    own_modules: int
    all_modules: int


class NotImportable(RuntimeError):
    """The package or its main class can't be imported yet."""


def check() -> None:
    """Refuse to go on without the subject.

    Raises:
        NotImportable: with the last line of what the interpreter said.
    """
    tried = subprocess.run([sys.executable, "-c", NAME], capture_output=True, check=False)
    if tried.returncode:
        raise NotImportable(tried.stderr.decode().strip().rpartition("\n")[2])


def measure(runs: int) -> Imports:
    """Time the imports, taking turns, so that a busy moment does not fall on one alone."""
    statements = (_EMPTY, PACKAGE, NAME, LIBRARIES)
    taken: dict[str, list[Cost]] = {statement: [] for statement in statements}
    for _ in range(runs):
        for statement in statements:
            taken[statement].append(_cost(statement))
    start = _median(taken[_EMPTY])
    package, name, libraries = (_less(_median(taken[statement]), start) for statement in statements[1:])
    counted = subprocess.run([sys.executable, "-c", _MODULES], capture_output=True, check=True).stdout.split()
    return Imports(package, name, libraries, int(counted[0]), int(counted[1]))


def _median(costs: list[Cost]) -> Cost:
    return Cost(statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs))


def _less(cost: Cost, start: Cost) -> Cost:
    return Cost(cost.wall - start.wall, cost.cpu - start.cpu)


def _cost(statement: str) -> Cost:
    # The children's time grows when one of them is waited for, and no other ends in between.
    before = _children_cpu()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return Cost(time.perf_counter() - began, _children_cpu() - before)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
