"""Bind a socket, and run uvicorn on it."""

import errno
import ipaddress
import math
import signal
import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

from llmproxy_asgi.cli.config_io import fail
from llmproxy_asgi.cli.signals import block_sighup

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

_BACKLOG = 2048
_GRACE = 5.0
"""Seconds that the server waits for connections after the gateway has ended their calls."""


@dataclass(frozen=True, slots=True)
class Address:
    """A resolved address to listen at."""

    ip: str
    port: int
    family: socket.AddressFamily

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        return ipaddress.ip_address(self.ip.partition("%")[0]).is_loopback

    @property
    def url(self) -> str:
        """The URL for a browser on this machine."""
        ip = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.ip, self.ip)  # noqa: S104  it is replaced, not bound
        return f"http://[{ip}]:{self.port}" if ":" in ip else f"http://{ip}:{self.port}"


def resolve(host: str, port: int) -> Address:
    """Resolve a host name.

    Raises:
        typer.Exit: The name has no address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        fail(f"{host!r} is not a host name or address that this machine knows.", code=2)
    family, _, _, _, where = found[0]
    return Address(str(where[0]), port, family)


def listen(address: Address) -> socket.socket:
    """Return a listening socket; connections queue at it from now on.

    Raises:
        typer.Exit: The address cannot be bound.
    """
    try:
        return socket.create_server((address.ip, address.port), family=address.family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{address.ip} port {address.port}"
        if error.errno == errno.EADDRINUSE:
            fail(f"{where} is already in use. Stop the process that listens there, or choose another port with --port.")
        if error.errno == errno.EACCES:
            fail(f"{where} needs more permissions than this user has: choose a port from 1024 with --port.")
        fail(f"Cannot listen at {where}: {error.strerror}.")


def bound_address(listener: socket.socket) -> Address:
    """Return the address of a listening socket, with the actual port where port 0 was requested."""
    name = listener.getsockname()
    return Address(str(name[0]), int(name[1]), socket.AddressFamily(listener.family))


def check_installed() -> None:
    """Check that uvicorn is installed.

    Raises:
        typer.Exit: It is not; the message says what to install.
    """
    if find_spec("uvicorn") is None:
        fail('Serving needs uvicorn. Install it with:\n  pip install "llmproxy-asgi[server]"')


def exit_cleanly() -> None:
    """Exit with status 0 at SIGTERM and SIGINT from now on.

    Uvicorn handles them while it serves, and raises them again at its end for the handlers installed before.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    block_sighup()


def _exit(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def run(app: "ASGIApp", listener: socket.socket, **options: Any) -> None:
    """Serve an application in this process until a signal ends it and open calls are done.

    Args:
        app: The application; it drains by itself at the signal.
        listener: The socket; closed at the end.
        options: As `uvicorn_config` takes them.
    """
    import uvicorn

    with closing(listener):
        uvicorn.Server(uvicorn_config(app, **options)).run(sockets=[listener])


def run_workers(factory: str, address: Address, *, workers: int, **options: Any) -> None:
    """Serve from several processes, each with its own application.

    Args:
        factory: `module:function` that creates the application, which drains by itself at the signal.
        address: The address to bind.
        workers: The number of processes.
        options: As `uvicorn_config` takes them.
    """
    import uvicorn

    from llmproxy_asgi.cli.supervisor import Supervisor

    config = uvicorn.Config(
        factory, factory=True, workers=workers, host=address.ip, port=address.port, **_options(**options)
    )
    with closing(config.bind_socket()) as listener:
        Supervisor.over(config, listener).run()


def uvicorn_config(app: "ASGIApp", **options: Any) -> "uvicorn.Config":
    """Return uvicorn's configuration."""
    import uvicorn

    return uvicorn.Config(app, **_options(**options))


def _options(*, log_level: str, access_log: bool, graceful: float) -> dict[str, Any]:
    return {
        "ws": "none",
        "lifespan": "on",
        "server_header": False,
        "backlog": _BACKLOG,
        "log_config": _logging(log_level),
        "log_level": log_level,
        "access_log": access_log,
        "timeout_graceful_shutdown": math.ceil(graceful + _GRACE),
    }


def _logging(level: str) -> dict[str, Any]:
    """Extend uvicorn's logging to our loggers, and mask keys in the access log: a query may hold one."""
    from uvicorn.config import LOGGING_CONFIG

    loggers = {**LOGGING_CONFIG["loggers"], "llmproxy_asgi": {"handlers": ["default"], "level": level.upper()}}
    loggers["uvicorn.access"] = {**loggers["uvicorn.access"], "filters": ["mask_keys"]}
    return {**LOGGING_CONFIG, "loggers": loggers, "filters": {"mask_keys": {"()": "llmproxy_asgi.MaskKeys"}}}
