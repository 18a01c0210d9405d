"""Create the application that `serve` and `demo` serve, in this process or in each worker.

A worker reads what to serve from one environment variable that the parent process sets for its children only.
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
from llmproxy_asgi.cli.config_io import load
from llmproxy_asgi.cli.local_hosts import LocalHosts
from llmproxy_asgi.cli.signals import DrainOnSignal, Reload
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
    """Wrap a gateway so that it drains at SIGTERM and reloads its files at SIGHUP.

    Args:
        proxy: The gateway.
        prefix: The path it is mounted at, like `/llm`; empty for the root.
        local_hosts: Whether requests must name this machine.
        window: The drain timeout, in seconds.
        files: The files to reload; without any, SIGHUP acts like SIGTERM.
        may_open: Whether a reload may set `access.mode: open`.
    """
    app: ASGIApp = proxy
    if prefix:
        app = Starlette(routes=[Mount(prefix, proxy)], lifespan=proxy.lifespan)
    reload = _reloading(proxy, files, may_open=may_open) if files else None
    return DrainOnSignal(LocalHosts(app) if local_hosts else app, proxy.drain, window=window, reload=reload)


def _reloading(proxy: LLMProxy, files: Sequence[str], *, may_open: bool) -> Reload:
    """Return a function that reloads files; invalid ones change nothing and are logged."""

    async def reload() -> None:
        try:
            config = await asyncio.to_thread(read_config_files, files, may_open=may_open)
            await proxy.reload(config)
        except ConfigError as error:
            _log.error("Reload failed, the current configuration stays in force: %s", "; ".join(error.findings))
        except Exception:  # noqa: BLE001  the process must keep serving
            _log.exception("Reload failed, the current configuration stays in force")
        else:
            _log.info("Reloaded %s", ", ".join(files))

    return reload


def read_config_files(files: Sequence[str], *, may_open: bool) -> Config:
    """Read a configuration for a process whose address was chosen at its start.

    Raises:
        ConfigError: It is invalid, or open although the process was not started so.
    """
    config = load([Path(file) for file in files])
    if config.access.mode == "open" and not may_open:
        raise ConfigError(["access.mode: cannot become open in a reload; restart the process"])
    return config


def instruct(files: Sequence[str], *, prefix: str, local_hosts: bool, window: float, may_open: bool) -> None:
    """Pass the arguments of `serving` to the worker processes that are about to start."""
    arguments = {
        "files": list(files), "prefix": prefix, "local_hosts": local_hosts, "window": window, "may_open": may_open,
    }  # fmt: skip
    os.environ[VARIABLE] = json.dumps(arguments)


def from_environment() -> "ASGIApp":
    """Create the application of a worker process."""
    arguments = json.loads(os.environ[VARIABLE])
    return serving(LLMProxy(worker_config()), **arguments)


def worker_config() -> Config:
    """Read the configuration that a worker started now would serve.

    Raises:
        ConfigError: As `read_config_files`.
    """
    arguments = json.loads(os.environ[VARIABLE])
    return read_config_files(arguments["files"], may_open=arguments["may_open"])
