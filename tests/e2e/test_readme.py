"""The README's lines do what it says, against the demo that it tells to start."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from doc_blocks import Block, blocks
from support_ports import free_port

README = Path(__file__).parents[2] / "README.md"
SHOWN = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """`make demo`'s server on a free port; yields its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "llmproxy_asgi", "demo", "--port", str(port)]
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


def shown(language: str, flag: str | None = None) -> list[object]:
    found = [block for block in blocks(README, language) if flag is None or flag in block.flags]
    assert found, f"the README shows no {language} {flag or ''}"
    return [pytest.param(block, id=f"line-{block.line}") for block in found]


@pytest.mark.parametrize("block", shown("bash"))
def test_the_curl_lines_are_answered(demo: str, block: Block) -> None:
    """Each succeeds, and says something of a model's."""
    assert shutil.which("curl"), "curl is needed: apt-get install curl"
    script = block.text.replace(SHOWN, demo).replace("curl ", "curl --silent --show-error --fail --max-time 60 ")
    ended = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r'"content"|text_delta', ended.stdout), ended.stdout


@pytest.mark.parametrize("block", shown("python", "demo"))
def test_the_sdk_lines_are_answered(demo: str, block: Block, tmp_path: Path) -> None:
    """Each runs as it stands, and prints something."""
    source = tmp_path / "example.py"
    source.write_text(block.text.replace(SHOWN, demo), encoding="utf-8")
    ended = subprocess.run([sys.executable, str(source)], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
