"""The head of requests to upstreams: the address, the method, and validated headers.

This package controls the framing. Headers about the body's length or the connection are always left out, so servers and
proxies cannot disagree about where a request ends (request smuggling).
"""

import socket
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv6Address
from typing import TypeAlias
from urllib.parse import SplitResult, quote, urlsplit

from typing_extensions import override

from llmproxy_asgi.errors import MisuseError

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

_PORTS = {"http": 80, "https": 443}

# RFC 3986, 3.3 and 3.4: characters that need no escape, and `%`, because existing escapes are kept.
_IN_PATH = "%/:@!$&'()*+,;=-._~"
_IN_QUERY = _IN_PATH + "?"
_HOST = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~:"

METHODS = {name: name.encode() for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}

# Methods that usually have no body: `content-length: 0` is not needed, and some servers refuse it.
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

_FRAMING_HEADERS = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_SPECIAL = _FRAMING_HEADERS | {b"host", b"accept-encoding"}

# RFC 9110, 5.1 and 5.5: a name is a token; a value has no line break and no NUL, and here no control but tab.
_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TEXT = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))


class Address:
    """The parsed address of a call. Create it once and keep it: connections cache data about it by its identity."""

    __slots__ = ("host_port", "netloc", "port", "raw_host", "raw_path", "scheme")

    def __init__(self, *, scheme: str, raw_host: bytes, port: int | None, raw_path: bytes) -> None:
        self.scheme = scheme
        self.raw_host = raw_host
        """The host in ASCII; an IPv6 address without its brackets."""
        self.port = port
        """The port; None: the scheme's default."""
        self.raw_path = raw_path
        """The path with the query, as in the request line."""
        host = b"[%b]" % raw_host if b":" in raw_host else raw_host
        self.netloc = host if port is None else b"%b:%d" % (host, port)
        self.host_port = f"{host.decode('ascii')}:{port or _PORTS[scheme]}"
        """Host and port, for messages."""

    @override
    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc.decode('ascii')}{self.raw_path.decode('ascii')}"


def address(text: str) -> Address:
    """Parse an address.

    Raises:
        MisuseError: It is not an absolute http or https URL, or contains credentials or a fragment.
    """
    if not text.isprintable() or " " in text:  # the standard library would drop line breaks silently
        raise MisuseError("An upstream's address holds a space, a line break or another control character.")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        # For ASCII hosts, too: a name that DNS does not allow would fail in every call.
        raw_host = _canonical(host).encode("idna")
    except ValueError as error:
        raise MisuseError("An upstream's address is not a URL, or names a port that does not exist.") from error
    if parts.scheme not in _PORTS or not _is_host(raw_host) or not _is_literal_sound(parts, _canonical(host)):
        raise MisuseError("An upstream's address must begin with http:// or https:// and name a host.")
    if port == 0:
        raise MisuseError("An upstream's address names a port that does not exist.")
    if "@" in parts.netloc or "#" in text:
        raise MisuseError("An upstream's address must hold neither credentials nor a fragment.")
    path = quote(parts.path or "/", safe=_IN_PATH)
    query = f"?{quote(parts.query, safe=_IN_QUERY)}" if parts.query else ""
    return Address(
        scheme=parts.scheme,
        raw_host=raw_host,
        port=None if port == _PORTS[parts.scheme] else port,
        raw_path=(path + query).encode("ascii"),
    )


def _is_host(host: bytes) -> bool:
    return bool(host) and not host.translate(None, _HOST)


def _is_literal_sound(parts: SplitResult, host: str) -> bool:
    """Return whether a numeric address is valid: an invalid one would fail later, differently in each transport."""
    netloc = parts.netloc.rpartition("@")[2]
    if netloc.startswith("["):
        try:
            IPv6Address(host)
        except AddressValueError:
            return False
        return netloc.rpartition("]")[2][:1] in ("", ":")
    if not host.rstrip(".").rpartition(".")[2].isdecimal():
        return True
    return host.count(".") == 3 and all(part.isdecimal() and int(part) < 256 for part in host.split("."))


def _canonical(host: str) -> str:
    """Return an IPv4 address of any notation (``127.1``) as four decimal numbers; other hosts unchanged."""
    if not host.rpartition(".")[2].isdecimal():
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host


def encode_method(method: str) -> bytes:
    """Encode the method for the request line.

    Raises:
        MisuseError: It is not supported.
    """
    try:
        return METHODS[method]
    except KeyError:
        raise MisuseError("A call to an upstream uses an HTTP method that is not supported.") from None


def complete_headers(headers: Headers, netloc: bytes, method: str, body: bytes) -> list[tuple[bytes, bytes]]:
    """Return all headers of a request: the given ones without those about framing, then those of this package.

    Compression would delay the pieces of a stream, so none is requested unless `headers` do.

    Raises:
        MisuseError: A name or value contains characters that are not allowed, such as a line break.
    """
    names = [name.lower() for name, _ in headers]
    kept = [pair for name, pair in zip(names, headers, strict=True) if name not in _FRAMING_HEADERS]
    if b"host" not in names:
        kept.insert(0, (b"host", netloc))
    if b"accept-encoding" not in names:
        kept.append((b"accept-encoding", b"identity"))
    if body or method not in _BODILESS:
        kept.append((b"content-length", b"%d" % len(body)))
    return kept


class HeaderLines:
    """The header lines of requests to one host: `complete_headers` and `encode_headers` at a fraction of the cost.

    Most requests to an address have the same headers as the one before, whose lines are cached.
    """

    __slots__ = ("_default_lines", "_encoded", "_headers", "_netloc")

    def __init__(self, netloc: bytes) -> None:
        self._netloc = netloc
        # The first lines of a request without these headers of its own.
        self._default_lines = b"host: " + netloc + b"\r\naccept-encoding: identity\r\n"
        self._headers: Headers = ()
        self._encoded = b""

    def write(self, headers: Headers, method: str, body: bytes) -> bytes:
        """Encode all header lines of a request and the empty line after them.

        Raises:
            MisuseError: A name or value contains characters that are not allowed, such as a line break.
        """
        if headers != self._headers:
            if not _SPECIAL.isdisjoint([name.lower() for name, _ in headers]):
                return encode_headers(complete_headers(headers, self._netloc, method, body)) + b"\r\n"
            encoded = encode_headers(headers)
            self._headers, self._encoded = tuple(headers), encoded
        if body or method not in _BODILESS:
            return b"%b%bcontent-length: %d\r\n\r\n" % (self._default_lines, self._encoded, len(body))
        return b"%b%b\r\n" % (self._default_lines, self._encoded)


def encode_headers(headers: Headers) -> bytes:
    """Encode header lines.

    Raises:
        MisuseError: A name or value contains characters that are not allowed, such as a line break.
    """
    names = [name for name, _ in headers]
    joined = b"".join([b"%b: %b\r\n" % pair for pair in headers])
    # Without all characters that a line may contain only the line ends are left; any more are in a value.
    if (
        joined.translate(None, _TEXT) != b"\r\n" * len(names)
        or b"".join(names).translate(None, _TOKEN)
        or not all(names)
    ):
        raise MisuseError(
            "A header of this call holds a line break or another character that HTTP does not allow; nothing was sent. "
            "The usual cause is a credential with a stray line break."
        )
    return joined
