"""Determine the caller inside Flask's request context, and pass it on as an object.

The gateway runs on an event loop in another thread, where Flask's `session` and `current_user` are not available; so
they are read here, in the worker thread. The result, or the failure of the host's hook, is passed on to the gateway,
which uses it only for requests without a machine key.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from flask import Request, current_app, session
from starlette.requests import HTTPConnection
from werkzeug.exceptions import HTTPException

from llmproxy_asgi import MisuseError, Principal
from llmproxy_asgi.access.cross_site import cross_site_refusal
from llmproxy_asgi.errors import Forbidden, Unauthenticated

Identity: TypeAlias = Principal | str | int | None
Identify: TypeAlias = Callable[[HTTPConnection], Identity]
Csrf: TypeAlias = Callable[[HTTPConnection], bool]
PrincipalOf: TypeAlias = Callable[[Any], Identity]
"""A function that converts a signed-in user of Flask-Login to a principal; None: no user is signed in."""

FINDING_KEY = "llmproxy_flask.finding"
"""The scope's key for the finding of the worker thread."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The host's principal of the caller, or the error of its hook."""

    principal: Principal | None = None
    error: Exception | None = None


async def recall(connection: HTTPConnection) -> Principal | None:
    """Return the principal found in the worker thread, or raise its error; the `identify` of a gateway under Flask."""
    finding: Finding = connection.scope[FINDING_KEY]
    if finding.error is not None:
        raise finding.error
    return finding.principal


def find(request: Request, identify: Identify | None, principal: PrincipalOf | None) -> Finding:
    """Call the host's hook if there is one, otherwise use Flask-Login. Must run inside the request context."""
    try:
        if identify is None:
            return Finding(_signed_in(principal))
        return Finding(_named(identify(_connection(request))))
    except HTTPException as error:
        return Finding(error=_refusal(error))
    except Exception as error:  # noqa: BLE001  raised again by `recall`, where the gateway logs it
        return Finding(error=error)


def has_csrf_token(request: Request, csrf: Csrf | None, origins: Collection[str]) -> bool:
    """Check the host's CSRF token of a request that needs one. Must run inside the request context.

    Raises:
        Exception: The host's check failed.
    """
    if csrf is None:
        return False
    connection = _connection(request)
    if cross_site_refusal(request.method, connection.scope["headers"], origins) is None:
        return False
    try:
        return bool(csrf(connection))
    except HTTPException as error:
        if error.code is None or error.code >= 500:
            raise
        return False  # Flask-WTF's check refuses by an HTTPException


def principal_of(user: object) -> Principal | None:
    """Return the principal of a user: itself if it is a `Principal`, otherwise by its `id`, or by Flask-Login's id.

    Raises:
        MisuseError: The user has no id, or an invalid one.
    """
    if user is None or isinstance(user, Principal):
        return user
    name = user if isinstance(user, (str, int, UUID)) else getattr(user, "id", None)
    if name is None and hasattr(user, "get_id"):
        name = user.get_id()
    display_name = getattr(user, "display_name", None)
    if isinstance(name, bool) or not isinstance(name, (str, int, UUID)):
        raise MisuseError(
            f"A user of type {type(user).__name__} has no id that could be a principal's; "
            "pass principal= to say how to make one."
        )
    try:
        return Principal(
            str(name), display_name=display_name if isinstance(display_name, str) and display_name else None
        )
    except ValueError as error:
        raise MisuseError(f"A user of type {type(user).__name__} has an id that cannot be used: {error}.") from error


def refuse_async(hook: Callable[..., object] | None, *, name: str = "identify") -> None:
    """Refuse an asynchronous hook when it is passed, because Flask's worker thread cannot await it.

    Raises:
        MisuseError: It is asynchronous.
    """
    method = getattr(hook, "__call__", None)  # noqa: B004  the method itself is needed
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(method):
        raise MisuseError(
            f"Under Flask {name}= runs in the request's own thread, where session and current_user are at hand and "
            "nothing can be awaited: make it a plain function."
        )


def _named(found: object) -> Principal | None:
    if inspect.iscoroutine(found):
        found.close()
        raise MisuseError("Under Flask identify= must not return a coroutine: make it a plain function.")
    if found is None or isinstance(found, Principal):
        return found
    if isinstance(found, (str, int)):
        return principal_of(found)
    raise MisuseError(f"identify must return a Principal, a str or None, not {type(found).__name__}.")


def _signed_in(principal: PrincipalOf | None) -> Principal | None:
    """Return the principal of Flask-Login's user; None if this application does not use Flask-Login."""
    if not hasattr(current_app, "login_manager"):
        return None
    from flask_login import current_user  # type: ignore[import-untyped]  # it has no types

    if not current_user.is_authenticated:
        return None
    user = current_user._get_current_object()  # noqa: SLF001  werkzeug's documented way to the object of a proxy
    return principal_of(user if principal is None else principal(user))


def _refusal(error: HTTPException) -> Exception:
    """Convert `abort(...)` inside the hook to an error that the gateway has in each client's protocol."""
    if error.code is not None and error.code >= 500:
        return error
    if error.code == 403:
        return Forbidden("The application refused this call.")
    return Unauthenticated("You are not signed in, and no valid key was sent.")


def _connection(request: Request) -> HTTPConnection:
    """Return the request as Starlette's `HTTPConnection`: hooks use `.session`, `.cookies` and `.headers`."""
    environ: Mapping[str, Any] = request.environ
    address = environ.get("REMOTE_ADDR")
    return HTTPConnection(
        {
            "type": "http",
            "method": request.method,
            "scheme": request.scheme,
            "root_path": request.root_path.rstrip("/"),
            "path": request.root_path.rstrip("/") + request.path,
            "query_string": request.query_string,
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers],
            "client": (address, 0) if address else None,
            "server": request.server,
            "session": session,
        }
    )
