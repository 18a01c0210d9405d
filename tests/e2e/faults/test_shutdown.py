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
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmproxy_asgi.testing import Gate, Hold, ThreadedUpstream, Upstream, sse_answer
from support_gateway import chat_delta, chat_frames, messages_body
from support_servers import ASGI, CHAT, HANG, MESSAGES, Caller, chat, configuration, serving, until

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
        config = configuration(upstream.base_url, drain=WINDOW)
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


def is_turned_away(kept: Caller) -> bool:
    """Whether a connection that was open before is told that the gateway is not ready, or is closed by its server."""
    try:
        return kept.ask("/llm/ready").whole()[0] == 503
    except (EOFError, OSError):
        return True


@pytest.mark.fault(46)
@pytest.mark.parametrize("server", ALONE)
def test_server_that_cancels_by_itself(server: str, tmp_path: Path) -> None:
    """Where nobody drains and the server's patience ends, callers read the protocol's error event all the same."""
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
        config = configuration(upstream.base_url, drain="500ms")
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
        text=True,
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
    """Whoever insists gets the server's own end: no window of an hour, and still a last word."""
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
    """As somebody does who presses Ctrl+C until something happens."""
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    return process.poll() is not None


def is_unready(kept: Caller) -> bool:
    return kept.ask("/ready").whole()[0] == 503
