"""What a WSGI server says of a request, as an ASGI application reads it, and an application's head as WSGI wants it.

No decision is made here, and nothing waits but `read_body`, for the client. What a server says wrongly, or not at all,
becomes what is safe: a body that cannot be read to its end never looks whole, and a path never says more than it did.
"""

import logging
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, unquote_to_bytes
from wsgiref.types import WSGIEnvironment

from starlette.types import Scope

_READ_SIZE = 64 * 1024
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
class RequestBody:
    """What was read of a request's body; `refusal` says why that isn't the whole of it."""

    data: bytes
    refusal: HTTPStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The beginning of an answer, as the application gave it."""

    status: int
    headers: list[tuple[bytes, bytes]]


def read_body(environ: WSGIEnvironment, limit: int) -> RequestBody | None:
    """Read the request's body up to the limit; None if its length is no number."""
    try:
        return _read_within(environ, limit)
    except Exception:  # each server has its own errors for an upload that breaks off or breaks HTTP's rules
        logger.debug("a request's body could not be read", exc_info=True)
        return RequestBody(data=b"", refusal=HTTPStatus.BAD_REQUEST)


def _read_within(environ: WSGIEnvironment, limit: int) -> RequestBody | None:
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared:
        if not (declared.isascii() and declared.isdecimal()):
            return None
        if len(declared) > _LONGEST_LENGTH or int(declared) > limit:
            return RequestBody(data=b"", refusal=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        length = int(declared)
        data = b"".join(_read(environ, length))
        return RequestBody(data=data, refusal=None if len(data) == length else HTTPStatus.BAD_REQUEST)
    if not environ.get("wsgi.input_terminated"):
        return RequestBody(data=b"")
    data = b"".join(_read(environ, limit + 1))
    return RequestBody(data=data, refusal=HTTPStatus.REQUEST_ENTITY_TOO_LARGE if len(data) > limit else None)


def _read(environ: WSGIEnvironment, length: int) -> Iterator[bytes]:
    while length > 0:
        data = environ["wsgi.input"].read(min(length, _READ_SIZE))
        if not data:
            return
        length -= len(data)
        yield data


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
