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
from llmproxy_asgi.cli.local_hosts import LocalHosts

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from llmproxy_asgi.config.schema import Config

VARIABLE = "LLMPROXY_SERVE"
FACTORY = "llmproxy_asgi.cli.worker:from_environment"


def application(config: "Config | Sequence[str]", *, prefix: str, local_hosts: bool) -> "ASGIApp":
    """The gateway, under its prefix.

    Args:
        config: Read already, or the files to read.
        prefix: Like `/llm`; empty for the root.
        local_hosts: Whether requests must name this machine.
    """
    return serving(LLMProxy(config), prefix=prefix, local_hosts=local_hosts)


def serving(proxy: LLMProxy, *, prefix: str, local_hosts: bool) -> "ASGIApp":
    """A gateway, under its prefix; the arguments are those of `application`."""
    app: ASGIApp = proxy
    if prefix:
        app = Starlette(routes=[Mount(prefix, proxy)], lifespan=proxy.lifespan)
    return LocalHosts(app) if local_hosts else app


def instruct(files: Sequence[str], *, prefix: str, local_hosts: bool) -> None:
    """Leave word for the worker processes that this one is about to start."""
    os.environ[VARIABLE] = json.dumps({"config": list(files), "prefix": prefix, "local_hosts": local_hosts})


def from_environment() -> "ASGIApp":
    """What a worker process serves."""
    word = json.loads(os.environ[VARIABLE])
    return application(word["config"], prefix=word["prefix"], local_hosts=word["local_hosts"])
