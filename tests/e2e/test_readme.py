"""The lines of the README and of docs/clients.md do what they say, against the demo that they tell to start."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from support.doc_blocks import Block, blocks
from support.npm import MODULES, require_npm
from support.ports import free_port

ROOT = Path(__file__).parents[2]
README, CLIENTS = ROOT / "README.md", ROOT / "docs" / "clients.md"
SHOWN = "http://127.0.0.1:8000"


# As the command is, but at once: its delay is there to be seen by a person.
HASTY_DEMO = """
from llmproxy_asgi.__main__ import main
from llmproxy_asgi.cli.serving import DEMO

DEMO["providers"]["simulated"]["delay"] = 0
main()
"""


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """`make demo`'s server on a free port, without its delay; yields its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", HASTY_DEMO, "demo", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            _wait_until_it_answers(address, process)
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _wait_until_it_answers(address: str, process: "subprocess.Popen[str]") -> None:
    for _ in range(600):
        assert process.poll() is None, process.communicate()[0]
        try:
            httpx2.get(address + "/health", trust_env=False)
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the demo did not start")


def shown(page: Path, language: str, flag: str | None = None) -> list[Block]:
    found = [block for block in blocks(page, language) if flag is None or flag in block.flags]
    assert found, f"{page.name} shows no {language} {flag or ''}"
    return found


def each(page: Path, language: str, flag: str | None = None) -> list[object]:
    return [pytest.param(block, id=f"{page.name}:{block.line}") for block in shown(page, language, flag)]


@pytest.mark.parametrize("block", each(README, "bash"))
def test_the_curl_lines_are_answered(demo: str, block: Block) -> None:
    """Each succeeds, and says something of a model's."""
    assert shutil.which("curl"), "curl is needed: apt-get install curl"
    script = block.text.replace(SHOWN, demo).replace("curl ", "curl --silent --show-error --fail --max-time 60 ")
    ended = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r'"content"|text_delta', ended.stdout), ended.stdout


RUN_EACH = "import runpy, sys; [(runpy.run_path(source), print(end='\\0')) for source in sys.argv[1:]]"
"""One process for all of a page's examples, because importing an SDK takes longer than asking it."""


@pytest.mark.parametrize("page", [README, CLIENTS], ids=lambda page: page.name)
def test_the_sdk_lines_are_answered(demo: str, page: Path, tmp_path: Path) -> None:
    """Each Python example runs as it stands, and prints something."""
    sources = []
    for block in shown(page, "python", "demo"):
        source = tmp_path / f"line_{block.line}.py"
        source.write_text(block.text.replace(SHOWN, demo), encoding="utf-8")
        sources.append(str(source))
    command = [sys.executable, "-c", RUN_EACH, *sources]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    *printed, _ = ended.stdout.split("\0")
    assert len(printed) == len(sources)
    assert all(text.strip() for text in printed), printed


@pytest.mark.parametrize("block", each(CLIENTS, "javascript", "demo"))
def test_the_npm_sdks_lines_are_answered(demo: str, block: Block, tmp_path: Path) -> None:
    """Each example in JavaScript does so, too."""
    node = require_npm()
    (tmp_path / "node_modules").symlink_to(MODULES, target_is_directory=True)
    source = tmp_path / "example.mjs"
    source.write_text(block.text.replace(SHOWN, demo), encoding="utf-8")
    ended = subprocess.run([node, str(source)], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "Hello!"
