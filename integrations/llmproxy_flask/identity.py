"""Who is calling, found inside Flask's request context, and handed over as an object.

The gateway runs on an event loop in another thread, where Flask's `session` and `current_user` mean nothing; so they
are read here, in the worker. Nothing is decided here: what was found, or how the host's hook failed, is told to the
gateway, which asks for it only where no machine key has settled the matter.
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
"""From a signed-in user of Flask-Login to a principal; None: nobody."""

FINDING_KEY = "llmproxy_flask.finding"
"""Where in the scope the gateway's hook reads what was found in the worker."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the host says about the caller, or how it failed to say anything."""

    principal: Principal | None = None
    error: Exception | None = None


async def recall(connection: HTTPConnection) -> Principal | None:
    """The `identify` of a gateway under Flask: what was found before, raised if it was an error."""
    finding: Finding = connection.scope[FINDING_KEY]
    if finding.error is not None:
        raise finding.error
    return finding.principal


def find(request: Request, identify: Identify | None, principal: PrincipalOf | None) -> Finding:
    """Ask the host: its hook if it gave one, else Flask-Login. Must run inside the request context."""
    try:
        if identify is None:
            return Finding(_signed_in(principal))
        return Finding(_named(identify(_connection(request))))
    except HTTPException as error:
        return Finding(error=_refusal(error))
    except Exception as error:  # noqa: BLE001  raised again by `recall`, where the gateway logs it
        return Finding(error=error)


def has_csrf_token(request: Request, csrf: Csrf | None, origins: Collection[str]) -> bool:
    """Ask the host whether its CSRF token came with a request that needs one. Must run inside the request context.

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
        return False  # how Flask-WTF's check says no


def principal_of(user: object) -> Principal | None:
    """Whom a user stands for: itself if it is a `Principal`, else by its `id`, else as Flask-Login names it.

    Raises:
        MisuseError: It does not say who it is, or with something that is no id.
    """
    if user is None or isinstance(user, Principal):
        return user
    name = user if isinstance(user, (str, int, UUID)) else getattr(user, "id", None)
    if name is None and hasattr(user, "get_id"):
        name = user.get_id()
    shown = getattr(user, "display_name", None)
    if isinstance(name, bool) or not isinstance(name, (str, int, UUID)):
        raise MisuseError(
            f"A user of type {type(user).__name__} has no id that could be a principal's; "
            "pass principal= to say how to make one."
        )
    try:
        return Principal(str(name), display_name=shown if isinstance(shown, str) and shown else None)
    except ValueError as error:
        raise MisuseError(f"A user of type {type(user).__name__} has an id that cannot be used: {error}.") from error


def refuse_async(hook: Callable[..., object] | None, *, name: str = "identify") -> None:
    """A hook that Flask's worker thread cannot await is refused before it is needed.

    Raises:
        MisuseError: It is asynchronous.
    """
    method = getattr(hook, "__call__", None)  # noqa: B004  it is the method that tells
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
    """Flask-Login's user, where Flask-Login is installed on this application."""
    if not hasattr(current_app, "login_manager"):
        return None
    from flask_login import current_user  # type: ignore[import-untyped]  # it has no types

    if not current_user.is_authenticated:
        return None
    user = current_user._get_current_object()  # noqa: SLF001  werkzeug's documented way to what a proxy stands for
    return principal_of(user if principal is None else principal(user))


def _refusal(error: HTTPException) -> Exception:
    """`abort(...)` inside the hook, in words that the gateway has in each client's protocol."""
    if error.code is not None and error.code >= 500:
        return error
    if error.code == 403:
        return Forbidden("The application refused this call.")
    return Unauthenticated("You are not signed in, and no valid key was sent.")


def _connection(request: Request) -> HTTPConnection:
    """The request as hooks know it from other frameworks: `connection.session`, `.cookies`, `.headers`."""
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
