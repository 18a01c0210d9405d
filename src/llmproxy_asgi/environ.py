"""What a WSGI server says of a request, as an ASGI application reads it, and an application's head as WSGI wants it.

No decision is made here, and nothing waits but a `RequestBody`, for the client. What a server says wrongly, or not at
all, becomes what is safe: a body that cannot be read to its end never looks whole, and a path never says more than it
did.
"""

import logging
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, unquote_to_bytes
from wsgiref.types import WSGIEnvironment

from starlette.types import Scope

_FIRST_READ = 16 * 1024
_LEAST_READ = 4 * 1024
_MOST_READ = 256 * 1024
"""Bytes. A server's `read` returns when it has them all, so small ones show a slow client's progress."""
_SLOW = 0.1  # seconds for one read
_LONGEST_LENGTH = 18  # digits; with more, a body is larger than any limit
_ESTABLISHED = 1  # TCP_ESTABLISHED of Linux

# They speak of one connection, and the connection belongs to the server (PEP 3333, "Other HTTP Features").
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"trailers",
        b"transfer-encoding",
        b"upgrade",
    },
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The beginning of an answer, as the application gave it."""

    status: int
    headers: list[tuple[bytes, bytes]]


class RequestBody:
    """A request's body, read piece by piece, and only as far as somebody asks for it.

    Args:
        environ: The request's.
        limit: Bytes that are read at most, and one more to know that there are more.

    Attributes:
        ended: Whether there is nothing more to read.
        refusal: Why what was read is not the whole of it; None while it may be.

    Raises:
        ValueError: Its length is no number.
    """

    def __init__(self, environ: WSGIEnvironment, limit: int) -> None:
        self._input = environ.get("wsgi.input")
        self._rest: float = math.inf if environ.get("wsgi.input_terminated") else 0
        self._left = limit + 1
        self._size = _FIRST_READ
        self._is_declared = False
        self.refusal: HTTPStatus | None = None
        declared = environ.get("CONTENT_LENGTH") or ""
        if declared:
            if not (declared.isascii() and declared.isdecimal()):
                raise ValueError("content-length is no number")
            self._is_declared = True
            self._rest = math.inf if len(declared) > _LONGEST_LENGTH else int(declared)
            if len(declared) > _LONGEST_LENGTH or int(declared) > limit:
                self.refusal = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            else:
                self._left = int(declared)
            self.ended = self.refusal is not None or self._left == 0
        else:
            self.ended = not environ.get("wsgi.input_terminated")

    def read(self) -> bytes:
        """Wait for the next piece; empty at the end, which `refusal` may say has come too early."""
        if self.ended:
            return b""
        try:
            began = time.monotonic()
            data = self._input.read(min(self._left, self._size)) if self._input is not None else b""
            self._size = _LEAST_READ if time.monotonic() - began > _SLOW else _MOST_READ
        except Exception:  # each server has its own errors for an upload that breaks off or breaks HTTP's rules
            logger.debug("a request's body could not be read", exc_info=True)
            self.ended, self.refusal = True, HTTPStatus.BAD_REQUEST
            self._rest = 0
            return b""
        self._left -= len(data)
        self._rest = self._rest - len(data) if data else 0
        if not data:
            self.ended, self.refusal = True, HTTPStatus.BAD_REQUEST if self._is_declared else None
        elif self._left == 0:
            self.ended, self.refusal = True, None if self._is_declared else HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return data

    @property
    def has_rest(self) -> bool:
        """Whether the client may still be sending, as far as it was read."""
        return self._rest > 0

    def discard(self) -> None:
        """Read what is left, however much it is, and drop it."""
        try:
            while self._rest > 0 and self._input is not None:
                data = self._input.read(int(min(self._rest, _MOST_READ)))
                self._rest = self._rest - len(data) if data else 0
        except Exception:  # as above
            logger.debug("the rest of a request's body could not be read", exc_info=True)


def stop_reading(connection: socket.socket) -> None:
    """Have reads of a connection return what has arrived and then nothing, at once, whoever waits in one now."""
    try:
        # A twin, because shutting down a socket of TLS itself would end its encryption, and gevent's is another class.
        with socket.socket(fileno=os.dup(connection.fileno())) as twin:
            twin.shutdown(socket.SHUT_RD)
    except OSError:
        logger.debug("a connection is closed already", exc_info=True)


def decode_scope(environ: WSGIEnvironment) -> Scope:
    """The request as an ASGI 3 `http` scope."""
    root = environ.get("SCRIPT_NAME", "").rstrip("/").encode("latin-1")
    path = (root + environ.get("PATH_INFO", "").encode("latin-1")) or b"/"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": _http_version(environ),
        "method": environ["REQUEST_METHOD"].upper(),
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "path": path.decode("utf-8", "replace"),
        "raw_path": _raw_path(environ, path),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "root_path": root.decode("utf-8", "replace"),
        "headers": list(_decode_headers(environ)),
        "client": _decode_client(environ),
        "server": _decode_server(environ),
    }


def shown_connection(environ: WSGIEnvironment) -> socket.socket | None:
    """The client's connection, where the server shows it and its state can be told."""
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return None if connection is None or _tcp_state(connection) is None else connection


def is_left(connection: socket.socket) -> bool:
    """Whether the other end has closed it, or its sending side: no HTTP client does that and goes on reading."""
    state = _tcp_state(connection)
    return state is not None and state != _ESTABLISHED


def _tcp_state(connection: socket.socket) -> int | None:
    """As the kernel counts them; None: it does not tell, or the server has closed the connection."""
    # Not by reading ahead: the bytes belong to the server, and under gevent a read would wait.
    option: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
    if option is None:
        return None
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, option, 1)[0]
    except OSError:
        return None


def _http_version(environ: WSGIEnvironment) -> str:
    version: str = environ.get("SERVER_PROTOCOL", "HTTP/1.1").partition("/")[2]
    return version.removesuffix(".0") if version.startswith(("2", "3")) else version


def _raw_path(environ: WSGIEnvironment, path: bytes) -> bytes:
    """The path as the client wrote it, if the server tells it and it says what the decoded one says."""
    target: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    raw = target.partition("?")[0].encode("latin-1")
    if raw and unquote_to_bytes(raw) == path:
        return raw
    return quote(path, safe="/:@!$&'()*+,;=~-._").encode("ascii")


def _decode_headers(environ: WSGIEnvironment) -> Iterator[tuple[bytes, bytes]]:
    for name, key in (("CONTENT_TYPE", b"content-type"), ("CONTENT_LENGTH", b"content-length")):
        if environ.get(name):
            yield key, environ[name].encode("latin-1")
    for name, value in environ.items():
        if name.startswith("HTTP_") and name not in {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"}:
            yield name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")


def _decode_client(environ: WSGIEnvironment) -> tuple[str, int] | None:
    address = environ.get("REMOTE_ADDR")
    return (address, _port(environ.get("REMOTE_PORT")) or 0) if address else None


def _decode_server(environ: WSGIEnvironment) -> tuple[str, int | None] | None:
    name = environ.get("SERVER_NAME")
    return (name, _port(environ.get("SERVER_PORT"))) if name else None


def _port(value: object) -> int | None:
    text = str(value or "")
    return int(text) if text.isascii() and text.isdecimal() else None


def encode_head(head: Head) -> tuple[str, list[tuple[str, str]]]:
    """Status line and headers, less those that are the server's."""
    dropped = _HOP_BY_HOP | {b"content-length"} if head.status == HTTPStatus.NO_CONTENT else _HOP_BY_HOP
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers if name.lower() not in dropped
    ]
    return status_line(head.status), headers


def status_line(status: int) -> str:
    """A status with its reason."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
