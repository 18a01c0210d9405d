"""What a newcomer does first, in an environment that knows nothing: install the wheel or clone, run the demo, test.

These tests install packages from the registry that pip is configured for, so they are no part of `make test`:
`make fresh` runs the wheel, `make fresh FULL=1` whole clones as well, by each Python and by old and new pips.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUARD = 1800  # seconds; only against hanging
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")
OLDEST_PIPS = {(3, 11): "22.3", (3, 12): "23.2.1", (3, 13): "24.2"}
"""What the first release of a Python brings."""
NEWEST = "newest"

pytestmark = pytest.mark.clean_install


def clean() -> dict[str, str]:
    """An environment where nothing is found except by its path: no cache, no module path, no settings."""
    unwanted = ("PYTHON", "VIRTUAL_ENV", "LLMPROXY", "PYTEST", "COVERAGE", "MAKE", "PIP_CACHE_DIR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "PIP_NO_CACHE_DIR": "1", "PYTHONUNBUFFERED": "1"}


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints; it has to succeed."""
    ended = subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True, timeout=GUARD, check=False)
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


def tree(folder: Path) -> Path:
    """A copy of the files under version control, as a clone would have them."""
    names = run("git", "-c", "safe.directory=*", "ls-files", "-z", folder=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def answer_of_a_demo(*command: str | Path, folder: Path) -> str:
    """What the simulated model answers when a command that runs the demo is started."""
    with subprocess.Popen(
        command, cwd=folder, env=clean(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            return _ask(_address(process))
        finally:
            process.terminate()
            process.communicate(timeout=60)


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if line.strip().startswith("page"):
            return line.split()[1].removesuffix("/ui/")
    raise AssertionError(output)


def _ask(address: str) -> str:
    body = {"model": "simulated/echo", "messages": [{"role": "user", "content": "Hello!"}]}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
        answer = json.load(response)
    return str(answer["choices"][0]["message"]["content"])


def test_the_wheel_runs_the_demo(tmp_path: Path) -> None:
    """The built wheel imports with the core's dependencies alone, and with the extra `server` its demo answers."""
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT, folder=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "venv", folder=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-qq", wheel, folder=tmp_path)
    run(python, "-W", "error", "-c", "import llmproxy_asgi, llmproxy_starlette", folder=tmp_path)
    run(python, "-m", "pip", "install", "-qq", f"{wheel}[server]", folder=tmp_path)
    run(python, "-m", "pip", "check", folder=tmp_path)
    command = (tmp_path / "venv" / "bin" / "llmproxy", "demo", "--port", "0")
    assert answer_of_a_demo(*command, folder=tmp_path) == "Hello!"


def interpreters() -> Iterator[tuple[str, tuple[int, int]]]:
    """Each Python that is here and can make virtual environments."""
    version = "import ensurepip, sys; print(*sys.version_info[:2])"
    for name in PYTHONS:
        in_path = shutil.which(name)
        installed = sorted(Path.home().glob(f".pyenv/versions/*/bin/{name}"))  # pyenv's own links answer only if chosen
        for path in filter(None, [in_path, *map(str, installed)]):
            ended = subprocess.run([path, "-c", version], capture_output=True, text=True, check=False)
            if ended.returncode == 0:
                major, minor = map(int, ended.stdout.split())
                yield path, (major, minor)
                break


def clones() -> list[object]:
    """By each Python: with the oldest pip that a release of it brings, and with the newest there is."""
    return [
        pytest.param(path, pip, id=f"{version[0]}.{version[1]}-pip-{pip}")
        for path, version in interpreters()
        for pip in (OLDEST_PIPS.get(version, "24.2"), *(("23.2.1",) if version == (3, 11) else ()), NEWEST)
    ]


@pytest.mark.verify
@pytest.mark.parametrize(("python", "pip"), clones())
def test_a_clone_answers_and_passes_its_tests(python: str, pip: str, tmp_path: Path) -> None:
    """`make demo` and `make test` work in a fresh clone: the lock installs by that Python and that pip."""
    folder = tree(tmp_path)
    run(python, "-m", "venv", ".venv", folder=folder)
    wanted = ("--upgrade", "pip") if pip == NEWEST else (f"pip=={pip}",)
    run(folder / ".venv" / "bin" / "python", "-m", "pip", "install", "-qq", *wanted, folder=folder)
    assert answer_of_a_demo("make", "demo", "PORT=0", folder=folder) == "Hello!"
    assert "passed" in run("make", "test", "ARGS=tests/unit/config tests/unit/wire", "JOBS=2", folder=folder)
