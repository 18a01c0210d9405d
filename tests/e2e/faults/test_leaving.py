"""Callers that disconnect, on every ASGI server: how long their upstream call continues, and what remains of it."""

import statistics
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from fault_matrix import PAGE
from support.page_sections import with_part
from support.servers import ASGI, WSGI
from support.servers.harness import (
    KEEPALIVE,
    KINDS,
    ServerHarness,
    all_is_given_back,
    is_let_go_within,
    leave,
    leave_the_line,
    server_harness,
)


@pytest.fixture(params=ASGI, scope="module")
def asgi(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHarness]:
    with server_harness(str(request.param), tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.mark.fault(33)
@pytest.mark.parametrize("kind", ["head", "middle"])
def test_asgi_upstream_is_let_go_within_a_second(asgi: ServerHarness, kind: str) -> None:
    """On every ASGI server, before the first event and in the middle of a stream, in two callers' protocols."""
    assert is_let_go_within(1, asgi, kind)
    assert is_let_go_within(1, asgi, kind, messages=True)
    all_is_given_back(asgi)


@pytest.mark.fault(33, 34)
@pytest.mark.parametrize("kind", ["silent", "whole"])
def test_asgi_silent_upstream_is_let_go_within_a_second(asgi: ServerHarness, kind: str) -> None:
    """Nothing need be written to find out that a caller has left, be it a stream that was wanted or a whole answer."""
    assert is_let_go_within(1, asgi, kind)
    all_is_given_back(asgi)


@pytest.mark.fault(33)
def test_asgi_leaving_the_line(asgi: ServerHarness) -> None:
    """Who leaves while waiting for a place takes none, and no upstream hears of the call."""
    leave_the_line(asgi)


@pytest.mark.verify
def test_figures_of_leaving(tmp_path: Path) -> None:
    """Twenty callers of each kind on each server; the figures are written into docs/reliability.md."""
    tries = 20
    lines = [
        "Milliseconds from a client's disconnect to the close of its upstream connection: median and slowest of",
        f"{tries} runs. Keep-alives every {KEEPALIVE:g} s; client, server and upstream on one machine.",
        "",
        "| server | " + " | ".join(KINDS.values()) + " |",
        "| --- |" + " --- |" * len(KINDS),
    ]
    for server in (*ASGI, *WSGI):
        (tmp_path / server).mkdir()
        with server_harness(server, tmp_path / server) as on:
            cells = []
            for kind in KINDS:
                if kind == "whole" and server == "waitress":
                    cells.append("at its end")
                    continue
                taken = [1000 * leave(on, kind) for _ in range(tries)]
                cells.append(f"{statistics.median(taken):.0f} / {max(taken):.0f}")
                if server in ASGI:
                    assert statistics.median(taken) < 250, (server, kind, taken)
                else:
                    assert max(taken) < 1000 * (KEEPALIVE + 1), (server, kind, taken)
            all_is_given_back(on)
        lines.append(f"| {_named(server)} | " + " | ".join(cells) + " |")
    PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), "servers", "\n".join(lines)), encoding="utf-8")


def _named(server: str) -> str:
    """A server as it is written down, with the releases that were measured."""
    if server in ("uvicorn", "hypercorn", "granian", "waitress"):
        return f"{server} {version(server)}"
    workers = {"gunicorn": "asgi", "gunicorn-uvicorn": f"uvicorn-worker {version('uvicorn-worker')}"}
    return f"gunicorn {version('gunicorn')}, {workers.get(server, server)}"
