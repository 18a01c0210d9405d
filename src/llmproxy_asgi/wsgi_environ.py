"""Convert a WSGI environ to an ASGI scope, and the start of an ASGI response to WSGI's status and headers.

This module decides nothing, and only `RequestBody` blocks, waiting for the client. Values that a server leaves out or
gets wrong are read safely: a body that cannot be read to its end never looks complete, and a path never gains
characters by decoding.
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
_MIN_READ = 4 * 1024
_MAX_READ = 256 * 1024
"""Bytes. A server's `read` returns when it has them all, so small reads show a slow client's progress."""
_SLOW = 0.1  # seconds for one read
_MAX_LENGTH_DIGITS = 18  # with more, a body is larger than any limit
_ESTABLISHED = 1  # TCP_ESTABLISHED of Linux

# Headers about one connection, which belongs to the server (PEP 3333, "Other HTTP Features").
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
    """The status and headers of a response, as the application sent them."""

    status: int
    headers: list[tuple[bytes, bytes]]


class RequestBody:
    """Read a request's body in chunks, on demand.

    Args:
        environ: The request's WSGI environ.
        limit: Bytes to read at most; one more is read to detect a larger body.

    Attributes:
        ended: Whether there is nothing more to read.
        refusal: The status for a body that was not read completely; None while it may be complete.

    Raises:
        ValueError: The `Content-Length` is not a number.
    """

    def __init__(self, environ: WSGIEnvironment, limit: int) -> None:
        self._input = environ.get("wsgi.input")
        self._unread: float = math.inf if environ.get("wsgi.input_terminated") else 0
        self._budget = limit + 1
        self._size = _FIRST_READ
        self._is_declared = False
        self.refusal: HTTPStatus | None = None
        declared = environ.get("CONTENT_LENGTH") or ""
        if declared:
            if not (declared.isascii() and declared.isdecimal()):
                raise ValueError("content-length is not a number")
            self._is_declared = True
            self._unread = math.inf if len(declared) > _MAX_LENGTH_DIGITS else int(declared)
            if len(declared) > _MAX_LENGTH_DIGITS or int(declared) > limit:
                self.refusal = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            else:
                self._budget = int(declared)
            self.ended = self.refusal is not None or self._budget == 0
        else:
            self.ended = not environ.get("wsgi.input_terminated")

    def read(self) -> bytes:
        """Wait for the next chunk; empty at the end, where `refusal` says whether the body was incomplete."""
        if self.ended:
            return b""
        try:
            began = time.monotonic()
            data = self._input.read(min(self._budget, self._size)) if self._input is not None else b""
            self._size = _MIN_READ if time.monotonic() - began > _SLOW else _MAX_READ
        except Exception:  # each server raises its own errors for an upload that breaks off or violates HTTP
            logger.debug("a request's body could not be read", exc_info=True)
            self.ended, self.refusal = True, HTTPStatus.BAD_REQUEST
            self._unread = 0
            return b""
        self._budget -= len(data)
        self._unread = self._unread - len(data) if data else 0
        if not data:
            self.ended, self.refusal = True, HTTPStatus.BAD_REQUEST if self._is_declared else None
        elif self._budget == 0:
            self.ended, self.refusal = True, None if self._is_declared else HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return data

    @property
    def has_unread(self) -> bool:
        """Whether the client may still be sending the body."""
        return self._unread > 0

    def discard(self) -> None:
        """Read the rest of the body, however large, and drop it."""
        try:
            while self._unread > 0 and self._input is not None:
                data = self._input.read(int(min(self._unread, _MAX_READ)))
                self._unread = self._unread - len(data) if data else 0
        except Exception:  # as above
            logger.debug("the rest of a request's body could not be read", exc_info=True)


def stop_reading(connection: socket.socket) -> None:
    """Make reads of a connection, pending ones included, return at once with what has arrived and then nothing."""
    try:
        # A duplicate, since shutting down a TLS socket itself would end its encryption, and gevent's has its own class.
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RD)
    except OSError:
        logger.debug("a connection is closed already", exc_info=True)


def decode_scope(environ: WSGIEnvironment) -> Scope:
    """Return the request as an ASGI 3 `http` scope."""
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


def client_socket(environ: WSGIEnvironment) -> socket.socket | None:
    """Return the client's socket if the server exposes it and the kernel reports its state."""
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return None if connection is None or _tcp_state(connection) is None else connection


def is_disconnected(connection: socket.socket) -> bool:
    """Whether the client has closed the connection, or its sending side: HTTP clients do not read on after that."""
    state = _tcp_state(connection)
    return state is not None and state != _ESTABLISHED


def _tcp_state(connection: socket.socket) -> int | None:
    """Return the kernel's state number; None: not available, or the server has closed the connection."""
    # Not by reading ahead: the bytes belong to the server, and under gevent a read would block.
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
    """Return the path as the client wrote it, if the server passes it on and it decodes to `path`."""
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
    """Return the status line and the headers, without those that belong to the server."""
    dropped = _HOP_BY_HOP | {b"content-length"} if head.status == HTTPStatus.NO_CONTENT else _HOP_BY_HOP
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers if name.lower() not in dropped
    ]
    return status_line(head.status), headers


def status_line(status: int) -> str:
    """Return a status with its reason phrase."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
