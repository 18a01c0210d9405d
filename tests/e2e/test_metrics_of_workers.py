"""Two real worker processes behind one port: whichever is scraped tells what both have counted."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2

from support.ports import free_port
from support.telemetry import Series, series, value

GUARD = 60  # seconds; only against hanging

APP = """\
from llmproxy_asgi import LLMProxy

app = LLMProxy({"providers": {"simulated": {}}, "access": {"mode": "open"}, "endpoints": {"metrics": True}})
"""


@contextmanager
def workers(folder: Path) -> Iterator[str]:
    """The application in two processes of uvicorn; yields its address."""
    (folder / "served_app.py").write_text(textwrap.dedent(APP), encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "served_app:app", "--workers", "2", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PROMETHEUS_MULTIPROC_DIR": str(folder / "counts")}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GUARD)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def call(base: str) -> int:
    """One call on a connection of its own."""
    body = {"model": "simulated/echo", "messages": [{"role": "user", "content": "hi"}]}
    try:
        return httpx2.post(base + "/v1/chat/completions", json=body, trust_env=False, timeout=GUARD).status_code
    except httpx2.ConnectError:
        return 0  # not up yet


def scrape(base: str) -> Series:
    """A page from whichever worker takes the connection."""
    answer = httpx2.get(base + "/metrics", trust_env=False, timeout=GUARD)
    assert answer.status_code == 200, answer.text
    return series(answer.text)


def calls_of(found: Series) -> float:
    return value(found, "llmproxy_calls_total", outcome="ok")


def test_both_workers_are_on_every_page(tmp_path: Path) -> None:
    """However the calls fall on the workers, every scrape shows all of them, and none shows fewer than one before."""
    deadline = time.monotonic() + GUARD
    answered = 0
    with workers(tmp_path) as base, ThreadPoolExecutor(8) as threads:
        while len({path.name.split("_")[2] for path in (tmp_path / "counts").glob("*.snapshot")}) < 2:
            assert time.monotonic() < deadline, (tmp_path / "output").read_text(encoding="utf-8")
            answered += sum(status == 200 for status in threads.map(call, [base] * 8))
        shown = 0.0
        while shown != answered:
            assert time.monotonic() < deadline, (shown, answered)
            now = calls_of(scrape(base))
            assert now >= shown
            shown = now
        pages = list(threads.map(scrape, [base] * 12))
    assert {calls_of(page) for page in pages} == {answered}
    assert {value(page, "llmproxy_open_calls") for page in pages} == {0}
