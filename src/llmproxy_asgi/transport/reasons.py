"""Why a connection failed, as one short line for an operator, and which of our errors that is.

Both transports wrap the same few causes: `getaddrinfo`, an `errno`, TLS, a clock, a proxy. This module finds the cause
under whatever was raised.
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

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of this process or machine, whoever it meant to call."""
_GAI_NAMES = {value: name for name, value in vars(socket).items() if name.startswith("EAI_")}
_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
"""What TLS says of an answer that is none."""
_BYTES = re.compile(r"(?:bytearray\()?b['\"]")
_DEEPEST = 16
_LONGEST = 200

UNREACHABLE = "The upstream could not be reached."
BROKE = "The connection to the upstream broke."
UNTRUSTED = "The upstream's certificate was not accepted."
LATE = "The upstream could not be reached in time."
EXHAUSTED = "The gateway could not open a connection; it has too many open."


def unreachable(broken: BaseException, where: str, *, connected: bool = False) -> UpstreamError:
    """The error for a connection that could not be made, or that broke.

    Args:
        broken: What was raised.
        where: `host:port` that was called, and the proxy on the way.
        connected: Whether there was a connection.
    """
    causes = list(_causes(broken))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = next((found for each in causes if (found := getattr(each, "verify_message", None))), "not trusted")
            return UpstreamTLSError(UNTRUSTED, reason=f"TLS certificate not accepted: {said}; {where}")
        if isinstance(cause, OSError) and (cause.errno in _OURS or (_is_lookup(cause) and _has_no_descriptor())):
            name = errno.errorcode.get(cause.errno or 0) if cause.errno in _OURS else None
            return _exhausted(name or "EMFILE")
    reason = f"{_said(causes, broken)} {where}"
    return UpstreamUnreachable(BROKE, reason=reason) if connected else UpstreamNotConnected(UNREACHABLE, reason=reason)


def late(seconds: float, where: str) -> UpstreamConnectTimeout:
    """The error for a connection that was not there in time."""
    return UpstreamConnectTimeout(LATE, reason=f"no connection within {seconds:g} s (DNS, TCP and TLS): {where}")


def refused_by_proxy(status: int, where: str) -> UpstreamNotConnected:
    """The error for a proxy that does not let a call through."""
    hint = ": the proxy wants other credentials" if status == 407 else ""
    return UpstreamNotConnected(UNREACHABLE, reason=f"the proxy answered {status}{hint}; {where}")


def not_http(broken: BaseException, where: str) -> str:
    """The reason of an answer that is not HTTP; the bytes themselves may be somebody's answer, and are left out."""
    said = str(getattr(broken, "message", "") or broken)  # the text of aiohttp's errors begins with a status of its own
    said = shortened(_BYTES.split(said.strip().partition("\n")[0])[0].rstrip(": "))
    return f"not HTTP/1.1, or its headers are too large ({said}): {where}"


def shortened(text: str, longest: int = _LONGEST) -> str:
    """A text of one printable line, cut."""
    line = " ".join(text[: 4 * longest].split())
    line = line if line.isprintable() else "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= longest else line[: longest - 3] + "..."


def _exhausted(name: str) -> SocketsExhausted:
    words = "Too many open files" if name in ("EMFILE", "ENFILE") else "no memory for another socket"
    return SocketsExhausted(EXHAUSTED, reason=f"{name} {words} in the gateway's own process; not the upstream's fault")


def _said(causes: list[BaseException], broken: BaseException) -> str:
    """The most telling cause."""
    for cause in causes:
        if _is_lookup(cause):
            number = cause.args[0] if cause.args else None
            words = cause.args[1] if len(cause.args) > 1 else "the name has no address"
            return f"gaierror {_GAI_NAMES.get(number, number)} ({words})"
        if isinstance(cause, ssl.SSLError):
            code = next((found for each in causes if (found := getattr(each, "reason", None))), None)
            hint = " (is it plain http?)" if code in _PLAIN else ""
            return f"TLS {code or shortened(str(cause))}{hint}"
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            return errno.errorcode[cause.errno]
    if any(isinstance(cause, EOFError | ConnectionError) or "isconnected" in type(cause).__name__ for cause in causes):
        return "closed without an answer:"
    return f"{type(broken).__name__} {shortened(str(broken))}".strip()


def _is_lookup(cause: BaseException) -> bool:
    return isinstance(cause, socket.gaierror)


def _has_no_descriptor() -> bool:
    """Whether a lookup failed because it could open no file: `getaddrinfo` then says that there is no such name."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _OURS
    return False


def _causes(broken: BaseException, depth: int = 0) -> Iterator[BaseException]:
    """What was raised, and what it was raised for, in groups too."""
    cause: BaseException | None = broken
    while cause is not None and depth < _DEEPEST:
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            for one in cause.exceptions:
                yield from _causes(one, depth + 1)
        inner = getattr(cause, "os_error", None)
        if isinstance(inner, OSError) and inner is not cause.__cause__:
            yield inner
        cause, depth = cause.__cause__ or cause.__context__, depth + 1
