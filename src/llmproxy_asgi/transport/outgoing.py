"""What we send: the address, and headers that cannot be mistaken for anything else.

Framing belongs to this package. A header that says how the body is delimited or what becomes of the connection is left
out wherever it comes from, so no two readers of one request can disagree about where it ends.
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

# RFC 3986, 3.3 and 3.4: what stands for itself, and `%`, because what is escaped already stays as it is.
_IN_PATH = "%/:@!$&'()*+,;=-._~"
_IN_QUERY = _IN_PATH + "?"
_HOST = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~:"

METHODS = {name: name.encode() for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}

# Where no body is the rule, saying so (`content-length: 0`) is not needed and some servers dislike it.
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

_OURS = frozenset(
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

_SPECIAL = _OURS | {b"host", b"accept-encoding"}

# RFC 9110, 5.1 and 5.5: a name is a token; a value has no line break and no NUL, nor for us any other control but tab.
_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TEXT = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))


class Address:
    """Where a call goes, parsed. Build it once and keep it: what a connection needs of it is remembered by identity."""

    __slots__ = ("netloc", "port", "raw_host", "raw_path", "scheme", "where")

    def __init__(self, *, scheme: str, raw_host: bytes, port: int | None, raw_path: bytes) -> None:
        self.scheme = scheme
        self.raw_host = raw_host
        """In ASCII; an IPv6 address without its brackets."""
        self.port = port
        """None: the scheme's own."""
        self.raw_path = raw_path
        """With the query, as it stands in the request line."""
        host = b"[%b]" % raw_host if b":" in raw_host else raw_host
        self.netloc = host if port is None else b"%b:%d" % (host, port)
        self.where = f"{host.decode('ascii')}:{port or _PORTS[scheme]}"
        """Host and port, as a message names them."""

    @override
    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc.decode('ascii')}{self.raw_path.decode('ascii')}"


def address(text: str) -> Address:
    """Read an address; once, when a provider is built.

    Raises:
        MisuseError: it is not an absolute http or https URL, or carries credentials or a fragment.
    """
    if not text.isprintable() or " " in text:  # the standard library would leave line breaks out without a word
        raise MisuseError("An upstream's address holds a space, a line break or another control character.")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        # Also where it is ASCII: what DNS cannot hold would fail in every call.
        raw_host = _canonical(host).encode("idna")
    except ValueError as broken:
        raise MisuseError("An upstream's address is not a URL, or names a port that does not exist.") from broken
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
    """Whether an address that is written as a number is one: what is none fails later, otherwise on each transport."""
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
    """IPv4 as four decimal numbers in whatever form it is written (``127.1``); anything else as it is."""
    if not host.rpartition(".")[2].isdecimal():
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host


def verb(method: str) -> bytes:
    """The method as it stands in the request line.

    Raises:
        MisuseError: it is none that we send.
    """
    try:
        return METHODS[method]
    except KeyError:
        raise MisuseError("A call to an upstream uses an HTTP method that is not supported.") from None


def allowed(headers: Headers, netloc: bytes, method: str, body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of one request, complete: those given less the ones that are ours, then ours.

    An answer's compression would hold back the pieces of a stream, so none is asked for unless `headers` do.

    Raises:
        MisuseError: a name or value could break out of its line.
    """
    names = [name.lower() for name, _ in headers]
    kept = [pair for name, pair in zip(names, headers, strict=True) if name not in _OURS]
    if b"host" not in names:
        kept.insert(0, (b"host", netloc))
    if b"accept-encoding" not in names:
        kept.append((b"accept-encoding", b"identity"))
    if body or method not in _BODILESS:
        kept.append((b"content-length", b"%d" % len(body)))
    return kept


class HeaderLines:
    """The header lines of requests to one host: `allowed` and `block` at a fraction of the cost.

    Most requests to an address have the same headers as the one before, whose lines are kept.
    """

    __slots__ = ("_block", "_headers", "_netloc", "_usual")

    def __init__(self, netloc: bytes) -> None:
        self._netloc = netloc
        # What every request begins with unless its headers say otherwise.
        self._usual = b"host: " + netloc + b"\r\naccept-encoding: identity\r\n"
        self._headers: Headers = ()
        self._block = b""

    def write(self, headers: Headers, method: str, body: bytes) -> bytes:
        """All header lines of one request and the empty one after them.

        Raises:
            MisuseError: a name or value could break out of its line.
        """
        if headers != self._headers:
            if not _SPECIAL.isdisjoint([name.lower() for name, _ in headers]):
                return block(allowed(headers, self._netloc, method, body)) + b"\r\n"
            written = block(headers)
            self._headers, self._block = tuple(headers), written
        if body or method not in _BODILESS:
            return b"%b%bcontent-length: %d\r\n\r\n" % (self._usual, self._block, len(body))
        return b"%b%b\r\n" % (self._usual, self._block)


def block(headers: Headers) -> bytes:
    """Header lines as they go out.

    Raises:
        MisuseError: a name or value could break out of its line.
    """
    names = [name for name, _ in headers]
    joined = b"".join([b"%b: %b\r\n" % pair for pair in headers])
    # Without everything that may stand in a line, what is left is the line ends; more would be a value's own.
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
