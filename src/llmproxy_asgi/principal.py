"""Who calls, and the one scope key under which an adapter hands that over.

A principal is made by the host (through `identify`, a framework's own user, or a machine key) and is only ever
passed as an object inside the process: no header and no query can name one. This module decides nothing.
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
    """Who is calling.

    Args:
        id: 1 to 255 printable characters, unique within the tenant.
        display_name: For pages and logs.
        groups: What access rules may name.
        claims: Whatever else the host wants to carry along; never sent anywhere.
        tenant: Whose customer, team or organisation; part of every storage key.

    Raises:
        ValueError: The id or the tenant is not of that form.
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
"""The caller of a `Gateway` that the host built itself and calls without naming anybody."""

ANYBODY = Principal("anonymous")
"""Every caller of an open gateway whom nothing else identifies."""

OwnerKind: TypeAlias = Literal["user", "key", "open", "local"]
"""What says who an owner is.

- `user`: the host (`identify`, a framework's user, `principal=` in Python).
- `key`: the table of machine keys.
- `open`: `access.mode: open`; every anonymous caller is this one owner.
- `local`: the host's own calls from Python, which name no principal.
"""


class Owner(msgspec.Struct, frozen=True):
    """Whose something is that is kept or counted by caller.

    The kind is part of it, and never a part of the principal: a host user with the name of a machine key, or with the
    name `anonymous` or `local`, is another owner, whatever the host returns.
    """

    kind: OwnerKind
    tenant: str
    id: str

    @classmethod
    def of(cls, principal: Principal, *, kind: OwnerKind = "user") -> "Owner":
        """Return the owner of what a principal's calls leave behind."""
        return cls(kind, principal.tenant, principal.id)

    @property
    def storage_prefix(self) -> str:
        """The text that begins every key of this owner where a store has one name space for all.

        No two owners share it, and none is the beginning of another.
        """
        return f"{self.kind}:{quote(self.tenant, safe='')}:{quote(self.id, safe='')}:"


NO_OWNER = Owner("local", "", "")
"""Stands where the owner is not known yet; no principal has an empty id."""
