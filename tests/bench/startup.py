"""What it takes to begin: imports in fresh interpreters, measured against an interpreter that imports nothing."""

import statistics
import subprocess
import sys
import time
from typing import NamedTuple

_EMPTY = "pass"
_PACKAGE = "import llmproxy_asgi"
_NAME = "from llmproxy_asgi import LLMProxy"
_LIBRARIES = "import httpx2, pydantic, starlette.applications"
_MODULES = f"""
import sys
before = set(sys.modules)
{_NAME}
new = set(sys.modules) - before
print(sum(name.partition(".")[0] == "llmproxy_asgi" for name in new), len(new))
"""


class Imports(NamedTuple):
    """Medians over fresh interpreters with warm bytecode, less the start of the interpreter; in seconds."""

    package: float
    name: float
    libraries: float
    own_modules: int
    all_modules: int


class NotImportable(RuntimeError):
    """The package or its main class can't be imported yet."""


def check() -> None:
    """Refuse to go on without the subject.

    Raises:
        NotImportable: with the last line of what the interpreter said.
    """
    tried = subprocess.run([sys.executable, "-c", _NAME], capture_output=True, check=False)
    if tried.returncode:
        raise NotImportable(tried.stderr.decode().strip().rpartition("\n")[2])


def measure(runs: int) -> Imports:
    """Time the imports, taking turns, so that a busy moment does not fall on one alone."""
    statements = (_EMPTY, _PACKAGE, _NAME, _LIBRARIES)
    taken: dict[str, list[float]] = {statement: [] for statement in statements}
    for _ in range(runs):
        for statement in statements:
            taken[statement].append(_seconds(statement))
    start = statistics.median(taken[_EMPTY])
    package, name, libraries = (statistics.median(taken[statement]) - start for statement in statements[1:])
    counted = subprocess.run([sys.executable, "-c", _MODULES], capture_output=True, check=True).stdout.split()
    return Imports(package, name, libraries, int(counted[0]), int(counted[1]))


def _seconds(statement: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - began
