"""Which lanes a test runs on, with ids that a person can read."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest

from support.pairs.callers import Lane
from support.pairs.wires import CHAT, GEMINI, MESSAGES, RESPONSES

PROTOCOLS = (CHAT, RESPONSES, MESSAGES, GEMINI)
CHAT_AND_MESSAGES = (CHAT, MESSAGES)


def lanes(
    *,
    client: str | None = None,
    upstream: str | None = None,
    modes: Iterable[str] = ("sync", "async"),
    streams: Iterable[bool] = (False, True),
    among: Iterable[str] = PROTOCOLS,
) -> list[Any]:
    """All lanes, or those of one client or upstream, as parameters; `among`: which protocols stand for all."""
    clients = [client] if client else list(among)
    upstreams = [upstream] if upstream else list(among)
    found = [
        Lane(client=one, upstream=other, mode=mode, stream=stream)
        for one, other, mode, stream in product(clients, upstreams, modes, streams)
    ]
    return [pytest.param(lane, id=str(lane)) for lane in found]


def pairs(
    *,
    client: str | None = None,
    upstream: str | None = None,
    stream: bool | None = None,
    among: Iterable[str] = PROTOCOLS,
) -> list[Any]:
    """One synchronous lane per pair, streamed and whole unless `stream` says which."""
    streams = (False, True) if stream is None else (stream,)
    return lanes(client=client, upstream=upstream, modes=("sync",), streams=streams, among=among)
