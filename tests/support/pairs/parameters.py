"""The pairs of protocols that a test runs with, as parameters with readable ids."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest

from support.pairs.callers import ProtocolPair
from support.pairs.wires import CHAT, GEMINI, MESSAGES, RESPONSES

PROTOCOLS = (CHAT, RESPONSES, MESSAGES, GEMINI)
CHAT_AND_MESSAGES = (CHAT, MESSAGES)


def all_pairs(
    *,
    client: str | None = None,
    upstream: str | None = None,
    modes: Iterable[str] = ("sync", "async"),
    streams: Iterable[bool] = (False, True),
    among: Iterable[str] = PROTOCOLS,
) -> list[Any]:
    """All pairs, or those of one client or upstream, in all modes; `among`: which protocols are taken."""
    clients = [client] if client else list(among)
    upstreams = [upstream] if upstream else list(among)
    found = [
        ProtocolPair(client=one, upstream=other, mode=mode, stream=stream)
        for one, other, mode, stream in product(clients, upstreams, modes, streams)
    ]
    return [pytest.param(pair, id=str(pair)) for pair in found]


def pairs(
    *,
    client: str | None = None,
    upstream: str | None = None,
    stream: bool | None = None,
    among: Iterable[str] = PROTOCOLS,
) -> list[Any]:
    """All pairs, or those of one client or upstream, synchronous; streamed and whole unless `stream` is given."""
    streams = (False, True) if stream is None else (stream,)
    return all_pairs(client=client, upstream=upstream, modes=("sync",), streams=streams, among=among)
