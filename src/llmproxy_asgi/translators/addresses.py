"""Addresses that a request gives the upstream to fetch media from.

An upstream that runs in the operator's own network would fetch what only that network should reach: files of its
machine, the cloud's metadata, services that trust their neighbours. So only `https:`, `http:` and `data:` pass (and
`gs:` to Google), and private hosts only where the provider says so. Names are judged as they are written: nothing is
looked up here. Names of members are read as loosely as any server reads them.
"""

import ipaddress
import re
import stringprep
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import InboundRequest, Upstream
from llmproxy_asgi.translators.outline import fold
from llmproxy_asgi.translators.vendor_references import may_hide_names

_Found: TypeAlias = Iterator[tuple[str, object]]
"""The members of one object that hold addresses: their paths within it, and their values."""
_HARMLESS = re.compile(rb"""\s*(?:[^:\s]|:\s*(?:\{|null|"data:))""")
"""What follows a name that is the value of another member, or whose own value is an object, nothing, or the bytes."""
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{100,}={0,2}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_QUOTE = ord('"')
_PRIVATE_ENDINGS = (".localhost", ".internal", ".local", ".lan", ".home.arpa", ".intranet", ".private", ".corp", ".svc")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


class _Kind(msgspec.Struct, frozen=True):
    """Where one protocol's requests hold addresses."""

    within: tuple[str, ...]
    hints: tuple[bytes, ...]
    """How the names of members that hold addresses end, in small letters."""
    found: Callable[[Mapping[str, Any]], _Found]
    skipped: frozenset[str] = frozenset()
    """Members whose contents are the model's or a tool's own data."""


def refuse_addresses(inbound_request: InboundRequest, upstream: Upstream) -> None:
    """Refuse a request that gives this upstream an address which it must not fetch.

    Raises:
        BadRequest: The address has another scheme, or is none; `param` says where it stands.
        Unsupported: It is a private one, and the provider does not allow those.
    """
    kind = _KINDS.get(inbound_request.protocol)
    if kind is None:
        return
    for key in kind.within:
        value = inbound_request.raw.get(key)
        if value is None:
            continue
        data = bytes(value)
        if data[0] == _QUOTE:
            continue
        if not _may_hold_address(data.lower(), kind.hints) and not may_hide_names(data):
            continue
        try:
            decoded = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"{key} cannot be read: {error}.", param=key, code="invalid_value") from None
        _walk(decoded, key, kind, upstream)


def _may_hold_address(data: bytes, hints: tuple[bytes, ...]) -> bool:
    """Whether any such member has a value that is no media by itself: most bodies are never taken apart.

    Quotes within strings are escaped, so that no text looks like a member.
    """
    for hint in hints:
        at = data.find(hint)
        while at >= 0:
            end = at + len(hint)
            if _HARMLESS.match(data, end) is None:
                return True
            at = data.find(hint, end)
    return False


def _walk(found: Any, path: str, kind: _Kind, upstream: Upstream) -> None:
    if isinstance(found, list):
        for number, each in enumerate(found):
            if isinstance(each, list | dict):
                _walk(each, f"{path}[{number}]", kind, upstream)
    elif isinstance(found, dict):
        for place, address in kind.found(found):
            if isinstance(address, str):
                _check(address, f"{path}.{place}", upstream)
        for key, each in found.items():
            if isinstance(each, list | dict) and key not in kind.skipped:
                _walk(each, f"{path}.{key}", kind, upstream)


# ── where addresses stand ────────────────────────────────────────────────────────────────────────────────────────────


def _in_openai(found: Mapping[str, Any]) -> _Found:
    for key, value in found.items():
        name = fold(key)
        if name.endswith("_url"):
            if isinstance(value, dict):
                yield from ((f"{key}.{place}", address) for place, address in _named(value, "url"))
            else:
                yield key, value
        elif name == "file_data" and isinstance(value, str) and ":" in value[:32]:
            yield key, value


def _in_embeddings(found: Mapping[str, Any]) -> _Found:
    """Yield the inputs that compatible servers accept beside texts: a conversation, or objects of one text or image."""
    yield from _in_openai(found)
    for key, value in _named(found, "url", "image", "video", "audio"):
        if isinstance(value, str) and _SCHEME.match(value):
            yield key, value


def _in_messages(found: Mapping[str, Any]) -> _Found:
    for key, source in _named(found, "source"):
        if isinstance(source, dict):
            yield from ((f"{key}.{place}", address) for place, address in _named(source, "url"))


def _in_gemini(found: Mapping[str, Any]) -> _Found:
    return _named(found, "fileuri", "file_uri")


def _named(found: Mapping[str, Any], *names: str) -> _Found:
    return ((key, value) for key, value in found.items() if fold(key) in names)


_CHAT = _Kind(("messages",), (b'url"', b'file_data"'), _in_openai)
_GEMINI_HINTS = (b'fileuri"', b'file_uri"')
_KINDS: Mapping[str, _Kind] = {
    "openai-chat": _CHAT,
    "openai-responses": _Kind(("input", "tools"), _CHAT.hints, _in_openai, frozenset({"parameters", "server_url"})),
    "anthropic-messages": _Kind(("system", "messages"), (b'url"',), _in_messages, frozenset({"input"})),
    "gemini": _Kind(
        ("contents", "systemInstruction", "system_instruction"),
        _GEMINI_HINTS,
        _in_gemini,
        frozenset({"args", "response"}),
    ),
    "openai-embeddings": _Kind(("input", "messages"), (*_CHAT.hints, b'image"', b'video"', b'audio"'), _in_embeddings),
    "gemini-embeddings": _Kind(("content", "requests"), _GEMINI_HINTS, _in_gemini),
}


# ── what an address is ───────────────────────────────────────────────────────────────────────────────────────────────


def _check(address: str, path: str, upstream: Upstream) -> None:
    scheme = _SCHEME.match(address)
    word = scheme[1].lower() if scheme else ""
    if word == "data" or (not word and _BASE64.match(address)):
        return  # the bytes themselves; some servers take them bare
    if word == "gs" and upstream.google_storage:
        return
    if word not in {"https", "http"}:
        what = f"The URL scheme {word!r} is not supported" if word else "The value is not a URL"
        raise BadRequest(f"{what} ({path}): send https:, http: or data:.", param=path, code="invalid_value")
    host = None if _CONTROL.search(address) else _host(address)
    if host is None:
        raise BadRequest(f"The URL cannot be read ({path}): send a valid one.", param=path, code="invalid_value")
    if not upstream.private_media and is_private(host):
        raise refusals.refusal("URLs of private networks are not supported", path, "send the data itself")


def _host(address: str) -> str | None:
    """Return the host as servers read it; None: there is none, or servers would disagree about it."""
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return None
    if not host:
        return None
    host = unicodedata.normalize("NFKC", unquote(host)).rstrip(".").lower()
    if not host.isascii():  # resolvers leave out soft hyphens and the like
        host = "".join(letter for letter in host if not stringprep.in_table_b1(letter))
    return host if host and not re.search(r"[\s/?#@]", host) else None


def is_private(host: str) -> bool:
    """Whether a host is not of the public internet, by its name or by its number in any spelling."""
    number = _number(host)
    if number is not None:
        return not _is_public(number)
    if "." not in host or host == "localhost":
        return True
    return host.endswith(_PRIVATE_ENDINGS)


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host spells: IPv6, or IPv4 in one to four parts, decimal, octal or hexadecimal."""
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return ipaddress.IPv6Address(0)  # no name has a colon: what cannot be read is not public
    parts = host.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    values = [_value(part) for part in parts]
    total = values.pop()
    if any(value > 255 for value in values) or total >= 256 ** (4 - len(values)):
        return ipaddress.IPv4Address(0)
    for place, value in enumerate(values):
        total += value << (8 * (3 - place))
    return ipaddress.IPv4Address(total)


def _value(part: str) -> int:
    if part[:2].lower() == "0x":
        return int(part[2:] or "0", 16)
    octal = part.startswith("0") and len(part) > 1 and not set(part) & {"8", "9"}
    return int(part[:32], 8 if octal else 10)


def _is_public(number: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(number, ipaddress.IPv6Address):
        inner = number.ipv4_mapped or number.sixtofour or _translated(number)
        if inner is not None:
            number = inner
        elif number not in _GLOBAL_UNICAST:  # also what Python 3.11 takes for public: fec0::/10, 64:ff9b:1::/48
            return False
    return number not in _PROTOCOL_ASSIGNMENTS and number.is_global and not number.is_multicast


_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_PROTOCOL_ASSIGNMENTS = ipaddress.IPv4Network("192.0.0.0/24")
"""Some clouds serve their metadata there."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def _translated(number: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if number in _NAT64 or number in _COMPATIBLE:
        return ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    return None
