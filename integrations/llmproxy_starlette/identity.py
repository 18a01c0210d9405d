"""Which principal a signed-in user is. It reads user objects only, never a header, and it guesses nothing.

The first of `id`, `identity` and `username` that the object has is the principal's id. If that one holds nothing, the
next is not tried: another user could bear it as a name.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from uuid import UUID

from llmproxy_asgi import MisuseError, Principal

PrincipalOf: TypeAlias = Callable[[Any], Principal | str | int | None]
"""From a user object of the host's to a principal; None: nobody."""

_NAMES = ("id", "identity", "username")


def principal_of(user: object) -> Principal | None:
    """Whom a user stands for: itself if it is a `Principal`, by its id otherwise. None: nobody is signed in.

    Args:
        user: A `Principal`, a str or int or UUID, a mapping with an `id`, or a framework's user object.

    Raises:
        MisuseError: It does not say who it is, or with something that is no id.
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
    shown = None if isinstance(user, Mapping) else _read(user, "display_name")
    try:
        return Principal(str(name), display_name=shown if isinstance(shown, str) and shown else None)
    except ValueError as error:
        raise MisuseError(f"A user of type {type(user).__name__} has an id that cannot be used: {error}.") from error


def caller_of(user: object, principal: PrincipalOf | None) -> Principal | None:
    """Whom a user stands for, by the host's own reading of signed-in users if there is one.

    Raises:
        MisuseError: As `principal_of`, about the user or what the host made of it.
    """
    if principal is None or user is None or not _is_signed_in(user):
        return principal_of(user)
    return principal_of(principal(user))


def _is_signed_in(user: object) -> bool:
    said = getattr(user, "is_authenticated", True)
    return bool(said() if callable(said) else said)


def _name_of(user: object) -> object:
    if isinstance(user, (str, int, UUID)):
        return user
    return next((_read(user, name) for name in _NAMES if _has(user, name)), None)


def _has(user: object, name: str) -> bool:
    try:
        return hasattr(user, name)
    except NotImplementedError:  # how starlette's BaseUser says that a subclass left it out
        return False


def _read(user: object, name: str) -> object:
    return getattr(user, name) if _has(user, name) else None
