"""Servers that are told to stop while streams run: the drain that begins with the signal, and servers left alone.

`asgi_host` wires the drain as docs/operation.md shows it. Where a server ends its tasks by itself, before anybody has
asked the gateway to drain, callers read the same last word.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from llmproxy_asgi.testing import Gate, Hold, ThreadedUpstream, Upstream, sse_answer
from support.gateway import chat_delta, chat_frames, messages_body
from support.servers import (
    ASGI,
    CHAT,
    HANG,
    MESSAGES,
    Caller,
    chat,
    children,
    configuration,
    serving,
    until,
)

WINDOW = "2s"
LAST_WORD = b"shutting down"
ALONE = {"uvicorn": ("--timeout-graceful-shutdown", "1"), "hypercorn": ("--graceful-timeout", "1")}
"""Servers that cancel what runs when their own patience is over; the others are killed over it."""
ENDS = {0, -signal.SIGTERM}
"""Exit codes of a good end: uvicorn raises the signal once more when it is done."""


def in_place(server: str) -> int:
    """How many worker processes: with none of its own hypercorn serves in the process that gets the signal."""
    return 0 if server == "hypercorn" else 1


def script(upstream: ThreadedUpstream) -> Gate:
    """One stream that ends when the gate opens, and all later ones never."""
    gate = Gate()
    head = [chat_delta({"role": "assistant", "content": "x"})]
    upstream.enqueue(sse_answer([*head, Hold(gate), *chat_frames("the end")[1:]]))
    upstream.default = sse_answer([*head, Hold(Gate())])
    return gate


@pytest.mark.fault(46)
@pytest.mark.parametrize("server", ASGI)
def test_drain_at_the_signal(server: str, tmp_path: Path) -> None:
    """A stream ends inside the window; others outlast it, in two protocols, and read their error event; all is over."""
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream.in_thread())
        gate = script(upstream)
        config = configuration(upstream.base_url, drain_timeout=WINDOW)
        wired = {"SERVED_DRAINS": "1"}
        site = stack.enter_context(serving(server, config, tmp_path, workers=in_place(server), environment=wired))
        asked = (
            (CHAT, chat(), b'"x"'),
            (CHAT, chat(), b'"x"'),
            (MESSAGES, messages_body(stream=True, model="up/m"), b"text_delta"),
        )
        callers = []
        for path, body, begun in asked:
            callers.append(stack.enter_context(site.ask(path, body)))
            callers[-1].read_until(begun)
        kept = stack.enter_context(Caller(site.port))
        assert kept.ask("/llm/ready").whole()[0] == 200
        site.process.send_signal(signal.SIGTERM)
        until(lambda: is_turned_away(kept))
        gate.set()
        ending, lasting, in_other_words = callers
        assert b"the end" in ending.rest()
        assert b"[DONE]" in ending.data
        assert LAST_WORD in lasting.rest()
        assert LAST_WORD in in_other_words.rest()
        assert b"event: error" in in_other_words.data
        assert all(caller.has_ended for caller in callers)
        assert upstream.wait_closed(1)
        assert upstream.wait_closed(2)
        assert site.process.wait(HANG) in ENDS


def is_turned_away(kept: Caller, path: str = "/llm/ready") -> bool:
    """Whether a connection that was open before gets the answer that the gateway is not ready, or is closed."""
    try:
        return kept.ask(path).whole()[0] == 503
    except (EOFError, OSError):
        return True


@pytest.mark.fault(46)
@pytest.mark.parametrize("server", ALONE)
def test_server_that_cancels_by_itself(server: str, tmp_path: Path) -> None:
    """Without a drain, and after the server's timeout, callers still read the protocol's error event."""
    with Upstream.in_thread() as upstream:
        upstream.default = sse_answer([chat_delta({"content": "x"}), Hold()])
        with serving(server, configuration(upstream.base_url), tmp_path, options=ALONE[server]) as site:
            with site.ask(CHAT, chat()) as lasting:
                lasting.read_until(b'"x"')
                site.process.send_signal(signal.SIGTERM)
                assert LAST_WORD in lasting.rest()
                assert lasting.has_ended
            assert upstream.wait_closed(0)
            assert site.process.wait(HANG) in ENDS


@pytest.mark.fault(46, 53)
@pytest.mark.parametrize("server", ["gthread", "sync"])
def test_drain_at_the_signal_under_wsgi(server: str, tmp_path: Path) -> None:
    """Flask on gunicorn, wired by a thread: a stream that outlasts the window reads its error event, well ended."""
    wired = {"SERVED_DRAINS": "1"}
    with Upstream.in_thread() as upstream:
        upstream.default = sse_answer([chat_delta({"content": "x"}), Hold()])
        config = configuration(upstream.base_url, drain_timeout="500ms")
        with serving(server, config, tmp_path, environment=wired) as site:
            with site.ask(CHAT, chat()) as lasting:
                lasting.read_until(b'"x"')
                site.process.send_signal(signal.SIGTERM)
                assert LAST_WORD in lasting.rest()
                assert lasting.has_ended
            assert upstream.wait_closed(0)
            assert site.process.wait(HANG) in ENDS


def serve(folder: Path, upstream: ThreadedUpstream, *options: str) -> "subprocess.Popen[str]":
    """`llmproxy serve`, on its own."""
    (folder / "llmproxy.json").write_text(json.dumps(configuration(upstream.base_url)), encoding="utf-8")
    words = ["serve", "--config", "llmproxy.json", "--port", "0", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "llmproxy_asgi", *words],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def port_of(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
    assert found is not None
    return int(found[1])


@pytest.mark.fault(46)
def test_the_command_drains_at_the_signal(tmp_path: Path) -> None:
    """`serve` turns unready at once and says so, refuses new calls, gives streams their window, and ends with 0."""
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream.in_thread())
        gate = script(upstream)
        process = stack.enter_context(serve(tmp_path, upstream, "--graceful", "4s"))
        stack.callback(process.kill)
        port = port_of(process)
        ending, lasting = (stack.enter_context(Caller(port)) for _ in range(2))
        for caller in (ending, lasting):
            caller.ask(CHAT, chat()).read_until(b'"x"')
        kept = stack.enter_context(Caller(port))
        assert kept.ask("/ready").whole()[0] == 200
        process.send_signal(signal.SIGTERM)
        until(lambda: kept.ask("/ready").whole()[0] == 503)
        assert kept.ask("/health").whole()[0] == 200
        status, body = kept.ask(CHAT, chat()).whole()
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
        assert b"connection: close" in kept.data.lower()
        with Caller(port) as late:
            assert late.ask("/ready").whole()[0] == 503
        gate.set()
        assert b"the end" in ending.rest()
        assert LAST_WORD in lasting.rest()
        assert lasting.has_ended
        assert process.wait(HANG) == 0


@pytest.mark.fault(46)
def test_the_command_ends_at_once_when_nothing_runs(tmp_path: Path) -> None:
    """The window is for those who need it."""
    with (
        Upstream.in_thread() as upstream,
        serve(tmp_path, upstream, "--graceful", "1h") as process,
        Caller(port_of(process)) as idle,
    ):
        assert idle.ask("/health").whole()[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG) == 0


@pytest.mark.fault(46)
def test_a_second_signal_does_not_wait_for_the_window(tmp_path: Path) -> None:
    """A second signal ends the server in its own way, without an hour of draining, and still with an error event."""
    with Upstream.in_thread() as upstream, serve(tmp_path, upstream, "--graceful", "1h") as process:
        upstream.default = sse_answer([chat_delta({"content": "x"}), Hold()])
        port = port_of(process)
        with Caller(port) as lasting:
            lasting.ask(CHAT, chat()).read_until(b'"x"')
            process.send_signal(signal.SIGINT)
            with Caller(port) as kept:
                until(lambda: is_unready(kept))
            until(lambda: ends_when_asked_again(process))
            assert LAST_WORD in lasting.rest()
            assert process.returncode in {0, -signal.SIGINT}  # one that comes while Python goes kills it


def ends_when_asked_again(process: "subprocess.Popen[str]") -> bool:
    """Like a user who presses Ctrl+C several times."""
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    return process.poll() is not None


def is_unready(kept: Caller) -> bool:
    return kept.ask("/ready").whole()[0] == 503


@contextmanager
def several(folder: Path, upstream: ThreadedUpstream, window: str) -> "Iterator[tuple[subprocess.Popen[str], int]]":
    """`llmproxy serve` with two workers that both listen, and its port; what is left of it is killed."""
    with serve(folder, upstream, "--workers", "2", "--graceful", window) as process:
        try:
            port = port_of(process)
            assert process.stderr is not None
            for _ in range(2):
                while "Application startup complete" not in process.stderr.readline():
                    assert process.poll() is None
            yield process, port
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.fault(46)
def test_the_commands_workers_wait_for_their_streams(tmp_path: Path) -> None:
    """At the signal all are unready at once and refuse calls; streams end whole; then 0, and no process is left."""
    gate = Gate()
    first, *rest = chat_frames("the end")
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream.in_thread())
        upstream.default = sse_answer([first, chat_delta({"content": "x"}), Hold(gate), *rest])
        process, port = stack.enter_context(several(tmp_path, upstream, "1h"))
        family = children(process.pid)
        streams, kept = ([stack.enter_context(Caller(port)) for _ in range(8)] for _ in range(2))
        for stream in streams:
            stream.ask(CHAT, chat()).read_until(b'"x"')
        assert [each.ask("/ready").whole()[0] for each in kept] == [200] * 8
        process.send_signal(signal.SIGTERM)
        for each in kept:
            until(lambda each=each: is_turned_away(each, "/ready"))  # type: ignore[misc]
        with Caller(port) as late:
            assert late.ask(CHAT, chat()).whole()[0] == 503
        gate.set()
        for stream in streams:
            assert b"[DONE]" in stream.rest()
            assert stream.has_ended
        assert process.wait(HANG) == 0
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.fault(46)
def test_the_commands_workers_end_what_outlasts_the_window(tmp_path: Path) -> None:
    """In whichever worker it runs, with its protocol's error event."""
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream.in_thread())
        upstream.default = sse_answer([chat_delta({"content": "x"}), Hold()])
        process, port = stack.enter_context(several(tmp_path, upstream, "500ms"))
        streams = [stack.enter_context(Caller(port)) for _ in range(8)]
        for stream in streams:
            stream.ask(CHAT, chat()).read_until(b'"x"')
        process.send_signal(signal.SIGTERM)
        for stream in streams:
            assert LAST_WORD in stream.rest()
            assert stream.has_ended
        assert process.wait(HANG) == 0


@pytest.mark.fault(46)
def test_a_second_interrupt_from_the_terminal_ends_the_workers_window(tmp_path: Path) -> None:
    """The first Ctrl+C, which reaches parent and workers alike, leaves the window; the second ends it."""
    with Upstream.in_thread() as upstream, several(tmp_path, upstream, "1h") as (process, port):
        upstream.default = sse_answer([chat_delta({"content": "x"}), Hold()])
        with Caller(port) as lasting, Caller(port) as kept:
            lasting.ask(CHAT, chat()).read_until(b'"x"')
            assert kept.ask("/ready").whole()[0] == 200
            os.killpg(process.pid, signal.SIGINT)
            until(lambda: is_turned_away(kept, "/ready"))
            time.sleep(1)  # the parent looks at its signals twice a second, and then sends its own
            assert upstream.open_connections == 1
            os.killpg(process.pid, signal.SIGINT)
            assert LAST_WORD in lasting.rest()
            assert lasting.has_ended
        assert process.wait(HANG) == 0
