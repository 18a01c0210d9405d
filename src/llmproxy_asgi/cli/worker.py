"""The application that `serve` and `demo` serve, and how each worker process makes its own.

A worker learns what to serve from one environment variable that the parent process sets for its children alone.
"""

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import Mount

from llmproxy_asgi.app import LLMProxy
from llmproxy_asgi.cli.ending import DrainsAtSignals, Reload
from llmproxy_asgi.cli.local_hosts import LocalHosts
from llmproxy_asgi.cli.reading import load
from llmproxy_asgi.config.schema import Config
from llmproxy_asgi.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

VARIABLE = "LLMPROXY_SERVE"
FACTORY = "llmproxy_asgi.cli.worker:from_environment"


_log = logging.getLogger("llmproxy_asgi.serve")


def serving(
    proxy: LLMProxy,
    *,
    prefix: str,
    local_hosts: bool,
    window: float,
    files: Sequence[str] = (),
    may_open: bool = False,
) -> "ASGIApp":
    """A gateway that drains when its process is asked to end, and takes up its files again at SIGHUP.

    Args:
        proxy: The gateway.
        prefix: What it is under, like `/llm`; empty for the root.
        local_hosts: Whether requests must name this machine.
        window: Seconds that open calls get at the end.
        files: What is taken up again; without any, SIGHUP asks for the end.
        may_open: Whether what is taken up may say `access.mode: open`.
    """
    app: ASGIApp = proxy
    if prefix:
        app = Starlette(routes=[Mount(prefix, proxy)], lifespan=proxy.lifespan)
    reload = _reloading(proxy, files, may_open=may_open) if files else None
    return DrainsAtSignals(LocalHosts(app) if local_hosts else app, proxy.drain, window=window, reload=reload)


def _reloading(proxy: LLMProxy, files: Sequence[str], *, may_open: bool) -> Reload:
    """Takes up files; those that are wrong change nothing and are reported in the log."""

    async def reload() -> None:
        try:
            plan = await asyncio.to_thread(_read, files, may_open=may_open)
            await proxy.reload(plan)
        except ConfigError as error:
            _log.error("The configuration in force stays: %s", "; ".join(error.findings))
        except Exception:  # noqa: BLE001  whatever it is, the process goes on serving
            _log.exception("The configuration in force stays: taking up the new one failed")
        else:
            _log.info("Took up %s", ", ".join(files))

    return reload


def _read(files: Sequence[str], *, may_open: bool) -> Config:
    plan = load([Path(file) for file in files])
    if plan.access.mode == "open" and not may_open:
        raise ConfigError(["access.mode: open needs a restart, because it decides who may reach this process"])
    return plan


def instruct(files: Sequence[str], *, prefix: str, local_hosts: bool, window: float, may_open: bool) -> None:
    """Leave word for the worker processes that this one is about to start: the arguments of `serving`."""
    word = {
        "files": list(files), "prefix": prefix, "local_hosts": local_hosts, "window": window, "may_open": may_open,
    }  # fmt: skip
    os.environ[VARIABLE] = json.dumps(word)


def from_environment() -> "ASGIApp":
    """What a worker process serves."""
    word = json.loads(os.environ[VARIABLE])
    return serving(LLMProxy(word["files"]), **word)
