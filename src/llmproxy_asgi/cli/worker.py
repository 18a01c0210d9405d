"""The application that `serve` and `demo` serve, and how each worker process makes its own.

A worker learns what to serve from one environment variable that the parent process sets for its children alone.
"""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import Mount

from llmproxy_asgi.app import LLMProxy
from llmproxy_asgi.cli.ending import DrainsAtSignals
from llmproxy_asgi.cli.local_hosts import LocalHosts

if TYPE_CHECKING:
    from starlette.types import ASGIApp

VARIABLE = "LLMPROXY_SERVE"
FACTORY = "llmproxy_asgi.cli.worker:from_environment"


def serving(proxy: LLMProxy, *, prefix: str, local_hosts: bool, window: float) -> "ASGIApp":
    """A gateway that drains when its process is asked to end.

    Args:
        proxy: The gateway.
        prefix: What it is under, like `/llm`; empty for the root.
        local_hosts: Whether requests must name this machine.
        window: Seconds that open calls get at the end.
    """
    app: ASGIApp = proxy
    if prefix:
        app = Starlette(routes=[Mount(prefix, proxy)], lifespan=proxy.lifespan)
    return DrainsAtSignals(LocalHosts(app) if local_hosts else app, proxy.drain, window=window)


def instruct(files: Sequence[str], *, prefix: str, local_hosts: bool, window: float) -> None:
    """Leave word for the worker processes that this one is about to start: the arguments of `serving`."""
    word = {"config": list(files), "prefix": prefix, "local_hosts": local_hosts, "window": window}
    os.environ[VARIABLE] = json.dumps(word)


def from_environment() -> "ASGIApp":
    """What a worker process serves."""
    word = json.loads(os.environ[VARIABLE])
    return serving(LLMProxy(word.pop("config")), **word)
