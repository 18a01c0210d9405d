"""Principals, and the scope key under which an adapter passes one on.

A principal comes from the host (through `identify`, a framework's user, or a machine key) and is only passed as an
object inside the process: no header and no query can name one. This module makes no decisions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import msgspec

SCOPE_KEY = "llmproxy.principal"
"""The ASGI scope's key for the principal that an adapter sets.

None: the host has no signed-in user. A `CallerError`: the host refuses callers without a machine key.
"""

CSRF_KEY = "llmproxy.csrf"
"""The ASGI scope's key by which an adapter marks a request with a valid CSRF token: True."""

MAX_ID = 255


def _no_claims() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Args:
        id: 1 to 255 printable characters, unique within the tenant.
        display_name: For pages and logs.
        groups: The groups that access rules may name.
        claims: Further data of the host; never sent anywhere.
        tenant: The customer, team or organisation of the principal; part of every storage key.

    Raises:
        ValueError: The id or the tenant does not have that form.
    """

    id: str
    display_name: str | None = None
    groups: tuple[str, ...] = ()
    claims: Mapping[str, Any] = field(default_factory=_no_claims, hash=False)
    tenant: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise TypeError(f"a principal's id is a str, not {type(self.id).__name__}")
        if not 1 <= len(self.id) <= MAX_ID or not self.id.isprintable() or self.id.isspace():
            raise ValueError("a principal's id is 1 to 255 printable characters")
        if not isinstance(self.tenant, str) or len(self.tenant) > MAX_ID or not self.tenant.isprintable():
            raise ValueError("a principal's tenant is at most 255 printable characters")
        if isinstance(self.groups, str):
            raise TypeError("a principal's groups are a tuple of names, not one str")
        object.__setattr__(self, "groups", tuple(self.groups))


LOCAL = Principal("local")
"""The principal of calls that the host makes on its own `Gateway` without naming one."""

ANYBODY = Principal("anonymous")
"""The principal of anonymous callers of an open gateway."""

OwnerKind: TypeAlias = Literal["user", "key", "open", "local"]
"""How an owner was identified.

- `user`: the host (`identify`, a framework's user, `principal=` in Python).
- `key`: the table of machine keys.
- `open`: `access.mode: open`; every anonymous caller is this one owner.
- `local`: the host's own calls from Python, which name no principal.
"""


class Owner(msgspec.Struct, frozen=True):
    """The owner of stored data and counters.

    The kind is part of it, and not part of the principal: a host's user with the name of a machine key, or with the
    name `anonymous` or `local`, is a different owner, whatever the host returns.
    """

    kind: OwnerKind
    tenant: str
    id: str

    @classmethod
    def of(cls, principal: Principal, *, kind: OwnerKind = "user") -> "Owner":
        """Return the owner of the data of a principal's calls."""
        return cls(kind, principal.tenant, principal.id)

    @property
    def storage_prefix(self) -> str:
        """The prefix of all keys of this owner in a store with one key space for all owners.

        Prefixes are unique, and none is a prefix of another.
        """
        return f"{self.kind}:{quote(self.tenant, safe='')}:{quote(self.id, safe='')}:"


NO_OWNER = Owner("local", "", "")
"""A placeholder for an owner that is not known yet; no principal has an empty id."""
