"""Where a server listens, and running it until somebody ends it."""

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

from llmproxy_asgi.cli.ending import hold_hang_up
from llmproxy_asgi.cli.reading import fail

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

_BACKLOG = 2048
_LAST_WORDS = 5.0
"""Seconds that the server waits for what the gateway has ended already."""


@dataclass(frozen=True, slots=True)
class Address:
    """A resolved place to listen at."""

    ip: str
    port: int
    family: socket.AddressFamily

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.ip.partition("%")[0]).is_loopback

    @property
    def url(self) -> str:
        """How a browser on this machine gets there."""
        ip = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.ip, self.ip)  # noqa: S104  it is what is not shown
        return f"http://[{ip}]:{self.port}" if ":" in ip else f"http://{ip}:{self.port}"


def resolve(host: str, port: int) -> Address:
    """The address that a host name means here.

    Raises:
        typer.Exit: None.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        fail(f"{host!r} is not a host name or address that this machine knows.", code=2)
    family, _, _, _, where = found[0]
    return Address(str(where[0]), port, family)


def listen(address: Address) -> socket.socket:
    """A socket that connections can already queue at.

    Raises:
        typer.Exit: The address cannot be had.
    """
    try:
        return socket.create_server((address.ip, address.port), family=address.family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{address.ip} port {address.port}"
        if error.errno == errno.EADDRINUSE:
            fail(f"{where} is in use already. End what listens there, or choose another with --port.")
        if error.errno == errno.EACCES:
            fail(f"{where} needs more rights than this user has; a port from 1024 on does not.")
        fail(f"Cannot listen at {where}: {error.strerror}.")


def at(listener: socket.socket) -> Address:
    """Where a socket listens, its port included where any free one was asked for."""
    name = listener.getsockname()
    return Address(str(name[0]), int(name[1]), socket.AddressFamily(listener.family))


def need_server() -> None:
    """Make sure that there is a server to run.

    Raises:
        typer.Exit: There is none; says what to install.
    """
    if find_spec("uvicorn") is None:
        fail('Serving needs uvicorn. Install it with:\n  pip install "llmproxy-asgi[server]"')


def end_well() -> None:
    """From now on, let the signals that ask for an end end this process with 0.

    Uvicorn takes them while it serves and raises them once more when it is done, for whoever had them before.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    hold_hang_up()


def _leave(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def run(app: "ASGIApp", listener: socket.socket, **options: Any) -> None:
    """Serve an application in this process, until a signal asks for the end and what is open has ended.

    Args:
        app: What to serve; drains by itself when the signal comes.
        listener: Where; closed at the end.
        options: As `settings` takes them.
    """
    import uvicorn

    with closing(listener):
        uvicorn.Server(settings(app, **options)).run(sockets=[listener])


def run_workers(factory: str, address: Address, *, workers: int, **options: Any) -> None:
    """Serve from several processes, each with an application of its own.

    Args:
        factory: `module:function` that makes the application; it drains by itself when the signal comes.
        address: Where.
        workers: How many.
        options: As `settings` takes them.
    """
    import uvicorn

    from llmproxy_asgi.cli.supervisor import Supervisor

    plan = uvicorn.Config(
        factory, factory=True, workers=workers, host=address.ip, port=address.port, **_options(**options)
    )
    with closing(plan.bind_socket()) as listener:
        Supervisor.over(plan, listener).run()


def settings(app: "ASGIApp", **options: Any) -> "uvicorn.Config":
    """What uvicorn is told."""
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
        "timeout_graceful_shutdown": math.ceil(graceful + _LAST_WORDS),
    }


def _logging(level: str) -> dict[str, Any]:
    """Uvicorn's own way to log, for our loggers too, and with keys masked: one may stand in a query."""
    from uvicorn.config import LOGGING_CONFIG

    loggers = {**LOGGING_CONFIG["loggers"], "llmproxy_asgi": {"handlers": ["default"], "level": level.upper()}}
    loggers["uvicorn.access"] = {**loggers["uvicorn.access"], "filters": ["mask_keys"]}
    return {**LOGGING_CONFIG, "loggers": loggers, "filters": {"mask_keys": {"()": "llmproxy_asgi.MaskKeys"}}}
