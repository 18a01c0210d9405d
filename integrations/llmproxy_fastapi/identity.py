"""The dependency that returns the caller, and the conversion of its value to a principal.

Values are converted like Starlette's users. FastAPI runs the dependency, not this module.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from fastapi import Depends
from fastapi.params import Depends as Dependency

from llmproxy_asgi import MisuseError
from llmproxy_starlette.identity import PrincipalOf, caller_of, principal_of

__all__ = ["PrincipalOf", "UserDependency", "caller_of", "dependency_of", "principal_of"]

UserDependency: TypeAlias = Dependency | Callable[..., Any]
"""`Depends(current_user)`, the bare `current_user`, or an alias `Annotated[User, Depends(current_user)]`."""


def dependency_of(user: object) -> Dependency:
    """Return the dependency that the host passed as `user=`.

    Raises:
        MisuseError: It is not a dependency.
    """
    if isinstance(user, Dependency):
        return user
    if get_origin(user) is Annotated:
        kind, *notes = get_args(user)
        for note in notes:
            if isinstance(note, Dependency):
                return note if note.dependency is not None else Dependency(kind, use_cache=note.use_cache)
    elif callable(user):
        return _depends(user)
    raise MisuseError("user= must be a dependency, like Depends(current_user).")


def _depends(call: Callable[..., Any]) -> Dependency:
    dependency = Depends(call)
    assert isinstance(dependency, Dependency), "Depends() makes the class of its name"
    return dependency
