"""Machine keys: where a request carries one, and whose it is.

A key is judged by the table alone: it is somebody's, or it is refused. This module never asks the host.
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
"""What begins like this is one of our keys, and never anything else's business."""

MAX_KEY = 16 * 1024
"""Characters; a host's own signed tokens are a few thousand, and no server takes a much longer header."""
KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key"})
WRONG_KEY = "The key is not valid."
_MIN_KEY = 16
"""Characters of the shortest key that the configuration takes."""


class Grant(msgspec.Struct, frozen=True):
    """Somebody who may call us, the models they may use (None: all), and how much (None: any)."""

    principal: Principal
    models: tuple[str, ...] | None = None
    limits: CallLimits | None = None
    kind: OwnerKind = "user"
    """What said who it is. A key or the mode says so here; nothing that a host returns can."""

    owner: Owner = NO_OWNER
    """Whose everything is that calls of this grant leave behind: made of the principal and the kind."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "owner", Owner.of(self.principal, kind=self.kind))


class KeyTable:
    """The keys there are, held as keyed digests: neither a look-up's time nor a dump of it tells one."""

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

    def judge(self, sent: Iterable[str]) -> Grant | None:
        """Decide by the one key of a request that is ours: it is in the table, or begins with our prefix.

        Clients and clouds add tokens of their own, so any number of others may stand beside it.

        Args:
            sent: All keys of the request, as `sent_keys` returns them.

        Returns:
            What the key grants; None if no key is ours.

        Raises:
            Unauthenticated: The key is wrong, or two different ones are ours.
        """
        ours: str | None = None
        grant: Grant | None = None
        for key in sent:
            for text in _spelled(key):
                found = self._find(text)
                if found is None and not (text.startswith(PREFIX) and "," not in text):
                    continue
                if ours is not None and ours != text:
                    raise Unauthenticated("Two different keys of this gateway were sent: send one.")
                ours, grant = text, found
        if ours is not None and grant is None:
            raise Unauthenticated(WRONG_KEY, code="invalid_api_key")
        return grant

    def _find(self, key: str) -> Grant | None:
        """Return whose key this is, if anybody's. A wrong key and an unknown one take the same path."""
        return self._grants.get(self.digest(key)) if _problem(key) is None else None

    def digest(self, key: str) -> bytes:
        """Return what stands for a text in memory; nothing can be told from it without this table's pepper."""
        return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=self._pepper, digest_size=32).digest()


def sent_keys(headers: Iterable[tuple[bytes, bytes]], query: bytes = b"") -> list[str]:
    """Return the keys that a request carries, each once, readable as a key or not.

    Args:
        headers: The ASGI scope's, names in lower case.
        query: The raw query, for Gemini's paths alone (`?key=`); empty elsewhere.

    Raises:
        BadRequest: The query cannot be read.
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
    """Return the key that one of `KEY_HEADERS` holds; empty if there is none, as in `Authorization: Basic`."""
    text = value.decode("latin-1").strip()
    if name != b"authorization":
        return text
    scheme, _, rest = text.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    return ",".join(_tokens(text)) if "," in text else ""


def refuse_unusable(sent: Iterable[str]) -> None:
    """Refuse what no host's token is either.

    Raises:
        Unauthenticated: One of these is too long for a key, or holds characters that no key has.
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


def _spelled(key: str) -> list[str]:
    """A key, and those in it if it is a list: WSGI servers and proxies join repeated headers with a comma."""
    if "," not in key or len(key) > MAX_KEY:
        return [key]
    pieces = [piece.strip() for piece in key.split(",")]
    return [key, *(piece for piece in pieces if len(piece) >= _MIN_KEY or piece.startswith(PREFIX)), *_tokens(key)]


def _tokens(joined: str) -> list[str]:
    """The bearer tokens in a list of credentials."""
    pieces = (piece.strip().partition(" ") for piece in joined.split(","))
    return [token.strip() for scheme, _, token in pieces if scheme.lower() == "bearer" and token.strip()]
