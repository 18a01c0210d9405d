"""Convert failures of connections to the gateway's errors, each with a reason of one short line for the operator.

Both channels wrap the same few causes: `getaddrinfo`, an `errno`, TLS, a timeout, a proxy. This module finds the cause
of the raised exception.
"""

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator

from llmproxy_asgi.errors import (
    SocketsExhausted,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamNotConnected,
    UpstreamTLSError,
    UpstreamUnreachable,
)

_LOCAL_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of this process or machine, not of the upstream."""
_GAI_NAMES = {value: name for name, value in vars(socket).items() if name.startswith("EAI_")}
_PLAINTEXT_REASONS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
"""OpenSSL's reasons for a response that is not TLS."""
_BYTES = re.compile(r"(?:bytearray\()?b['\"]")
_MAX_DEPTH = 16
_MAX_LENGTH = 200

UNREACHABLE = "The upstream could not be reached."
BROKE = "The connection to the upstream broke."
UNTRUSTED = "The upstream's certificate was not accepted."
LATE = "The upstream could not be reached in time."
FULL = "All of the gateway's connections to the upstream are in use."
EXHAUSTED = "The gateway could not open a connection; it has too many open."


def unreachable(error: BaseException, peer: str, *, connected: bool = False) -> UpstreamError:
    """Return the error for a connection that could not be made, or that broke.

    Args:
        error: The raised exception.
        peer: The `host:port` of the call, and its proxy.
        connected: Whether the connection was established.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = next((found for each in causes if (found := getattr(each, "verify_message", None))), "not trusted")
            return UpstreamTLSError(UNTRUSTED, reason=f"TLS certificate not accepted: {text}; {peer}")
        if isinstance(cause, OSError) and (
            cause.errno in _LOCAL_ERRNOS or (_is_lookup(cause) and _has_no_descriptor())
        ):
            name = errno.errorcode.get(cause.errno or 0) if cause.errno in _LOCAL_ERRNOS else None
            return _exhausted(name or "EMFILE")
    reason = f"{_describe(causes, error)} {peer}"
    return UpstreamUnreachable(BROKE, reason=reason) if connected else UpstreamNotConnected(UNREACHABLE, reason=reason)


def connect_timeout(seconds: float, peer: str) -> UpstreamConnectTimeout:
    """Return the error for a connection that was not established in time."""
    return UpstreamConnectTimeout(LATE, reason=f"no connection within {seconds:g} s (DNS, TCP and TLS): {peer}")


def pool_timeout(seconds: float, peer: str, most: int | None = None) -> UpstreamConnectTimeout:
    """Return the error for a call that waited in vain for another one to release its connection.

    Args:
        seconds: The length of the wait.
        peer: The `host:port` of the call, and its proxy.
        most: The pool's maximum of connections; None: unknown, as it is the host's own pool.
    """
    pool = "connections of the host's own pool" if most is None else f"{most} connections of the pool (max_connections)"
    return UpstreamConnectTimeout(FULL, reason=f"all {pool} were in use for {seconds:g} s: {peer}")


def refused_by_proxy(status: int, peer: str) -> UpstreamNotConnected:
    """Return the error for a proxy that refuses a call."""
    hint = ": the proxy wants other credentials" if status == 407 else ""
    return UpstreamNotConnected(UNREACHABLE, reason=f"the proxy answered {status}{hint}; {peer}")


def not_http(error: BaseException, peer: str) -> str:
    """Return the reason for a response that is not HTTP, without its bytes, which may be confidential."""
    text = str(getattr(error, "message", "") or error)  # the text of aiohttp's errors begins with a status
    text = shortened(_BYTES.split(text.strip().partition("\n")[0])[0].rstrip(": "))
    return f"not HTTP/1.1, or its headers are too large ({text}): {peer}"


def shortened(text: str, max_length: int = _MAX_LENGTH) -> str:
    """Convert a text to one printable line, cut."""
    line = " ".join(text[: 4 * max_length].split())
    line = line if line.isprintable() else "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= max_length else line[: max_length - 3] + "..."


def _exhausted(name: str) -> SocketsExhausted:
    text = "Too many open files" if name in ("EMFILE", "ENFILE") else "no memory for another socket"
    return SocketsExhausted(EXHAUSTED, reason=f"{name} {text} in the gateway's own process; not the upstream's fault")


def _describe(causes: list[BaseException], error: BaseException) -> str:
    """Describe the most specific cause."""
    for cause in causes:
        if _is_lookup(cause):
            number = cause.args[0] if cause.args else None
            text = cause.args[1] if len(cause.args) > 1 else "the name has no address"
            return f"gaierror {_GAI_NAMES.get(number, number)} ({text})"
        if isinstance(cause, ssl.SSLError):
            code = next((found for each in causes if (found := getattr(each, "reason", None))), None)
            hint = " (is it plain http?)" if code in _PLAINTEXT_REASONS else ""
            return f"TLS {code or shortened(str(cause))}{hint}"
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            return errno.errorcode[cause.errno]
    if any(isinstance(cause, EOFError | ConnectionError) or "isconnected" in type(cause).__name__ for cause in causes):
        return "closed without an answer:"
    return f"{type(error).__name__} {shortened(str(error))}".strip()


def _is_lookup(cause: BaseException) -> bool:
    return isinstance(cause, socket.gaierror)


def _has_no_descriptor() -> bool:
    """Return whether a lookup failed for lack of file descriptors: `getaddrinfo` then reports an unknown name."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _LOCAL_ERRNOS
    return False


def _causes(error: BaseException, depth: int = 0) -> Iterator[BaseException]:
    """Yield an exception and its causes, including those in exception groups."""
    cause: BaseException | None = error
    while cause is not None and depth < _MAX_DEPTH:
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            for one in cause.exceptions:
                yield from _causes(one, depth + 1)
        inner = getattr(cause, "os_error", None)
        if isinstance(inner, OSError) and inner is not cause.__cause__:
            yield inner
        cause, depth = cause.__cause__ or cause.__context__, depth + 1
