"""Convert a signed-in user to a principal. This module reads user objects only, never headers.

The first of `id`, `identity` and `username` that the object has is the principal's id. If it is empty, the next one is
not tried: it could be another user's name.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from uuid import UUID

from llmproxy_asgi import MisuseError, Principal

PrincipalOf: TypeAlias = Callable[[Any], Principal | str | int | None]
"""A function that converts the host's user object to a principal; None: no user is signed in."""

_NAMES = ("id", "identity", "username")


def principal_of(user: object) -> Principal | None:
    """Return the principal of a user: itself if it is a `Principal`, otherwise by its id. None: no user is signed in.

    Args:
        user: A `Principal`, a str or int or UUID, a mapping with an `id`, or a framework's user object.

    Raises:
        MisuseError: The user has no id, or an invalid one.
    """
    if user is None or not _is_signed_in(user):
        return None
    if isinstance(user, Principal):
        return user
    name = user.get("id") if isinstance(user, Mapping) else _name_of(user)
    if isinstance(name, bool) or not isinstance(name, (str, int, UUID)):
        raise MisuseError(
            f"A user of type {type(user).__name__} has no id, identity or username that could be a principal's id; "
            "pass principal= to say how to make one."
        )
    display_name = None if isinstance(user, Mapping) else _read(user, "display_name")
    try:
        return Principal(
            str(name), display_name=display_name if isinstance(display_name, str) and display_name else None
        )
    except ValueError as error:
        raise MisuseError(f"A user of type {type(user).__name__} has an id that cannot be used: {error}.") from error


def caller_of(user: object, principal: PrincipalOf | None) -> Principal | None:
    """Return the principal of a user, with the host's own function for signed-in users if there is one.

    Raises:
        MisuseError: As `principal_of`, about the user or the result of the host's function.
    """
    if principal is None or user is None or not _is_signed_in(user):
        return principal_of(user)
    return principal_of(principal(user))


def _is_signed_in(user: object) -> bool:
    value = getattr(user, "is_authenticated", True)
    return bool(value() if callable(value) else value)


def _name_of(user: object) -> object:
    if isinstance(user, (str, int, UUID)):
        return user
    return next((_read(user, name) for name in _NAMES if _has(user, name)), None)


def _has(user: object, name: str) -> bool:
    try:
        return hasattr(user, name)
    except NotImplementedError:  # starlette's BaseUser raises it if a subclass does not implement the property
        return False


def _read(user: object, name: str) -> object:
    return getattr(user, name) if _has(user, name) else None
