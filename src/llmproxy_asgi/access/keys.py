"""Machine keys: find them in requests, and look up their principals.

Only the table of keys decides: a key is in it, or it is refused. This module never calls the host's hooks.
"""

import hashlib
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qs

import msgspec

from llmproxy_asgi.errors import BadRequest, Unauthenticated
from llmproxy_asgi.principal import NO_OWNER, Owner, OwnerKind, Principal
from llmproxy_asgi.settings import CallLimits, KeyEntry

PREFIX = "llmp_"
"""The prefix of this gateway's keys; a key with it is never passed on to the host."""

MAX_KEY = 16 * 1024
"""Characters; a host's signed tokens have a few thousand, and servers accept no much longer header."""
KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key"})
WRONG_KEY = "The key is not valid."
_MIN_KEY = 16
"""Characters of the shortest key that the configuration accepts."""


class Grant(msgspec.Struct, frozen=True):
    """A principal who may call the gateway, its models (None: all), and its limits (None: unlimited)."""

    principal: Principal
    models: tuple[str, ...] | None = None
    limits: CallLimits | None = None
    kind: OwnerKind = "user"
    """How the principal was identified. Keys and the access mode set it; a host's principal cannot."""

    owner: Owner = NO_OWNER
    """The owner of all data of this grant's calls: derived from the principal and the kind."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "owner", Owner.of(self.principal, kind=self.kind))


class KeyTable:
    """The table of keys, stored as keyed digests: neither the time of a look-up nor a memory dump reveals one."""

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        self._pepper = secrets.token_bytes(32)
        self._grants = {
            self.digest(entry.key.reveal()): Grant(
                Principal(entry.name, display_name=entry.name, groups=entry.groups, tenant=entry.tenant),
                entry.models,
                entry.call_limits,
                kind="key",
            )
            for entry in entries
        }

    def __bool__(self) -> bool:
        return bool(self._grants)

    def find_grant(self, sent: Iterable[str]) -> Grant | None:
        """Look up the one key of a request that belongs to this gateway: it is in the table, or has the prefix.

        Clients and cloud platforms add their own tokens, so there may be any number of other keys.

        Args:
            sent: All keys of the request, as `sent_keys` returns them.

        Returns:
            The key's grant; None if no key belongs to this gateway.

        Raises:
            Unauthenticated: The key is wrong, or two different keys belong to this gateway.
        """
        own_key: str | None = None
        grant: Grant | None = None
        for key in sent:
            for text in _split_list(key):
                found = self._find(text)
                if found is None and not (text.startswith(PREFIX) and "," not in text):
                    continue
                if own_key is not None and own_key != text:
                    raise Unauthenticated("Two different keys of this gateway were sent: send one.")
                own_key, grant = text, found
        if own_key is not None and grant is None:
            raise Unauthenticated(WRONG_KEY, code="invalid_api_key")
        return grant

    def _find(self, key: str) -> Grant | None:
        """Return the grant of a key; None if it is unknown. Wrong and unknown keys take the same time."""
        return self._grants.get(self.digest(key)) if _problem(key) is None else None

    def digest(self, key: str) -> bytes:
        """Return the keyed digest of a text; it reveals nothing without this table's pepper."""
        return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=self._pepper, digest_size=32).digest()


def sent_keys(headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> list[str]:
    """Return the keys of a request without duplicates, valid or not.

    Args:
        headers: The ASGI scope's headers, names in lower case.
        query: The raw query, on Gemini's paths only (`?key=`); empty elsewhere.

    Raises:
        BadRequest: The query is malformed.
    """
    found: list[str] = []
    for name, value in headers:
        if name in KEY_HEADERS:
            text = key_in_header(name, value)
            if text and text not in found:
                found.append(text)
    if query and b"key=" in query:
        try:
            sent = parse_qs(query.decode("latin-1"), max_num_fields=64).get("key", ())
        except ValueError:
            raise BadRequest("The query has too many parameters: send at most 64.") from None
        found += [text for text in dict.fromkeys(sent) if text not in found]
    return found


def key_in_header(name: bytes, value: bytes) -> str:
    """Return the key in one of `KEY_HEADERS`; empty if there is none, as in `Authorization: Basic`."""
    text = value.decode("latin-1").strip()
    if name != b"authorization":
        return text
    scheme, _, rest = text.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    return ",".join(_tokens(text)) if "," in text else ""


def refuse_unusable(sent: Iterable[str]) -> None:
    """Refuse texts that can be neither a key nor a host's token.

    Raises:
        Unauthenticated: One is too long, or contains characters that no key has.
    """
    for key in sent:
        problem = _problem(key)
        if problem is not None:
            raise Unauthenticated(problem)


def _problem(key: str) -> str | None:
    if len(key) > MAX_KEY:
        return "The key is too long."
    if not key.isascii() or not key.isprintable():
        return "The key holds characters that are not allowed in keys."
    return None


def _split_list(key: str) -> list[str]:
    """Return a key, and its items if it is a list: WSGI servers and proxies join repeated headers with a comma."""
    if "," not in key or len(key) > MAX_KEY:
        return [key]
    pieces = [piece.strip() for piece in key.split(",")]
    return [key, *(piece for piece in pieces if len(piece) >= _MIN_KEY or piece.startswith(PREFIX)), *_tokens(key)]


def _tokens(joined: str) -> list[str]:
    """Return the bearer tokens in a list of credentials."""
    pieces = (piece.strip().partition(" ") for piece in joined.split(","))
    return [token.strip() for scheme, _, token in pieces if scheme.lower() == "bearer" and token.strip()]
