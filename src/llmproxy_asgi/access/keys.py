"""Machine keys: where a request carries one, and whose it is.

A key is judged by the table alone: it is somebody's, or it is refused. This module never asks the host.
"""

import hashlib
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qs

import msgspec

from llmproxy_asgi.errors import BadRequest, Unauthenticated
from llmproxy_asgi.principal import Owner, OwnerKind, Principal
from llmproxy_asgi.settings import CallLimits, KeyEntry

PREFIX = "llmp_"
"""What begins like this is one of our keys, and never anything else's business."""

MAX_KEY = 16 * 1024
"""Characters; a host's own signed tokens are a few thousand, and no server takes a much longer header."""
_HEADERS = (b"authorization", b"x-api-key", b"x-goog-api-key")

Scope = dict[str, object]


class Grant(msgspec.Struct, frozen=True):
    """Somebody who may call us, the models they may use (None: all), and how much (None: any)."""

    principal: Principal
    models: tuple[str, ...] | None = None
    limits: CallLimits | None = None
    kind: OwnerKind = "user"
    """What said who it is. A key or the mode says so here; nothing that a host returns can."""

    @property
    def owner(self) -> Owner:
        """Whose everything is that calls of this grant leave behind."""
        return Owner.of(self.principal, kind=self.kind)


class KeyTable:
    """The keys there are, held as keyed digests: neither a look-up's time nor a dump of it tells one."""

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        self._pepper = secrets.token_bytes(32)
        self._grants = {
            self._digest(entry.key.reveal()): Grant(
                Principal(entry.name, display_name=entry.name, groups=entry.groups, tenant=entry.tenant),
                entry.models,
                entry.call_limits,
                kind="key",
            )
            for entry in entries
        }

    def __bool__(self) -> bool:
        return bool(self._grants)

    def find(self, key: str) -> Grant | None:
        """Whose key this is, if anybody's. A wrong key and an unknown one take the same path."""
        return self._grants.get(self._digest(key))

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=self._pepper, digest_size=32).digest()


def sent_key(headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> str | None:
    """The one key that a request carries; the same key in several headers counts once.

    Args:
        headers: The ASGI scope's, names in lower case.
        query: The raw query, for Gemini's paths alone (`?key=`); empty elsewhere.

    Raises:
        Unauthenticated: Two different keys, or something that cannot be a key.
        BadRequest: The query cannot be read.
    """
    found: str | None = None
    for name, value in headers:
        if name in _HEADERS:
            text = _text(name, value)
            if text is not None:
                found = _same(found, text)
    if query and b"key=" in query:
        try:
            sent = parse_qs(query.decode("latin-1"), max_num_fields=64).get("key", ())
        except ValueError:
            raise BadRequest("The query has too many fields.") from None
        for text in sent:
            found = _same(found, text)
    return found


def _text(name: bytes, value: bytes) -> str | None:
    text = value.decode("latin-1").strip()
    if name == b"authorization":
        scheme, _, text = text.partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer":
            return None  # Basic and the like are the host's own business
    if not text:
        return None
    if len(text) > MAX_KEY:
        raise Unauthenticated("The key is too long.")
    if not text.isascii() or not text.isprintable():
        raise Unauthenticated("The key holds characters that no key has.")
    return text


def _same(found: str | None, text: str) -> str:
    if found is not None and found != text:
        raise Unauthenticated("Two different keys were sent; send one.")
    return text
