"""Who is calling: an adapter's word, a machine key, or the host's own `identify`. Nobody is refused.

The order is fixed: a key that is ours to judge, then a principal that an adapter put into the scope, then the host's
hook. Nothing that a client sends can name a principal. A cookie alone counts only where no other site can have sent it.
"""

import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from anyio import to_thread
from asgiref.sync import sync_to_async
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from llmproxy_asgi.access.keys import PREFIX, Grant, KeyTable, sent_key
from llmproxy_asgi.errors import CallerError, Forbidden, GatewayError, InternalError, MisuseError, Unauthenticated
from llmproxy_asgi.principal import LOCAL, SCOPE_KEY, Principal
from llmproxy_asgi.settings import CallLimits, KeyEntry

Identity: TypeAlias = Principal | str | int | None
Identify: TypeAlias = Callable[[HTTPConnection], Identity | Awaitable[Identity]]
Mode = Literal["host", "keys", "open"]

ANYBODY = Principal("anonymous")

NOT_CONFIGURED = (
    "This gateway refuses every call because nobody has said who may use it. Pass identify= to LLMProxy, "
    "list keys under access.keys, or write access.mode: open to serve anybody."
)
_NOBODY = "You are not signed in, and no valid key was sent."
_WRONG_KEY = "The key is not valid."
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_log = logging.getLogger("llmproxy_asgi.access")


class Doorkeeper:
    """Decides who is calling.

    Args:
        mode: `host`, `keys` or `open`, as the configuration says.
        keys: The machine keys.
        identify: The host's hook.
        csrf: The host's own check of a CSRF token, for browsers that cannot show where a request comes from.
        limits: Of each caller who comes without one of the keys; None: any number of calls.

    Raises:
        MisuseError: `csrf` is asynchronous.
    """

    def __init__(
        self,
        *,
        mode: Mode,
        keys: Iterable[KeyEntry] = (),
        identify: Identify | None = None,
        csrf: Callable[[HTTPConnection], bool] | None = None,
        limits: CallLimits | None = None,
    ) -> None:
        self._mode = mode
        self._keys = KeyTable(keys)
        self._identify = identify
        self._is_async = identify is not None and _is_async(identify)
        if csrf is not None and _is_async(csrf):
            raise MisuseError(
                "csrf must be a plain function: what an asynchronous one returns would always count as true."
            )
        self._csrf = csrf
        self._limits = limits

    @property
    def asks_host(self) -> bool:
        """Whether there is a hook of the host's; an adapter leaves the word to it then."""
        return self._identify is not None

    async def admit(self, scope: Scope, *, key_in_query: bool = False) -> Grant:
        """Who sent this request.

        Args:
            scope: The ASGI scope.
            key_in_query: Whether `?key=` counts on this path (Gemini's alone).

        Raises:
            Unauthenticated: Nobody, or a wrong key.
            Forbidden: A cookie that another site may have sent, or the host said no.
            InternalError: The host's hook failed; the log says how.
        """
        key = sent_key(scope["headers"], scope.get("query_string", b"") if key_in_query else b"")
        if key is not None:
            grant = self._keys.find(key)
            if grant is not None:
                return grant
            if key.startswith(PREFIX):
                raise Unauthenticated(_WRONG_KEY, code="invalid_api_key")
        vouched = scope.get(SCOPE_KEY)
        if vouched is not None:
            if not isinstance(vouched, Principal):
                raise InternalError("An adapter handed over something that is not a Principal.")
            self._check_origin(scope)
            return self.grant(vouched)
        if self._mode == "keys":
            raise self._nobody(key)
        # None under the adapter's key: it has asked the host, and nobody is signed in.
        return await self._ask_host(scope, key, asked=SCOPE_KEY in scope)

    async def _ask_host(self, scope: Scope, key: str | None, *, asked: bool) -> Grant:
        principal = None
        if self._identify is not None:
            principal = await self._call(HTTPConnection(scope))
        if principal is not None:
            self._check_origin(scope)
            return self.grant(principal)
        if self._mode == "open":
            return self.grant(ANYBODY)
        raise self._nobody(key, asked=asked)

    def grant(self, principal: Principal) -> Grant:
        """What somebody may do who is known otherwise than by a key. The host's own calls, for nobody, may anything."""
        return Grant(principal, limits=None if principal is LOCAL else self._limits)

    def _nobody(self, key: str | None, *, asked: bool = False) -> Unauthenticated:
        if not asked and not self._keys and (self._identify is None or self._mode == "keys"):
            return Unauthenticated(NOT_CONFIGURED)
        return Unauthenticated(_NOBODY if key is None else _WRONG_KEY, code=None if key is None else "invalid_api_key")

    async def _call(self, connection: HTTPConnection) -> Principal | None:
        identify = self._identify
        assert identify is not None
        try:
            if self._is_async:
                found = await identify(connection)  # type: ignore[misc]
            else:
                found = await _in_thread(identify, connection)
                if inspect.isawaitable(found):
                    found = await found
            return as_principal(found)
        except GatewayError:
            raise
        except Exception as error:
            if isinstance(error, HTTPException) and error.status_code < 500:
                raise _refused(error) from error
            _log.exception("the host's identify hook failed")
            raise InternalError("The application could not tell who is calling.") from error

    def _check_origin(self, scope: Scope) -> None:
        """A cookie without a key header is the browser's doing: changing requests must come from the same site.

        A key in the query is no such header: any page can write one into an address.
        """
        if scope["method"] in _SAFE_METHODS:
            return
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        if b"cookie" not in headers or sent_key(scope["headers"]) is not None or same_origin(headers):
            return
        if self._csrf is not None and self._csrf(HTTPConnection(scope)):
            return
        raise Forbidden(
            "This request is signed in by a cookie alone and does not come from this site: send it with "
            "content-type application/json from a page of the same origin, or send a key.",
            code="cross_origin",
        )


def same_origin(headers: dict[bytes, str]) -> bool:
    """Whether a browser that sends these headers was on a page of this very site, and sent JSON.

    A browser says so in `Sec-Fetch-Site`, older ones in `Origin`; what says neither is no browser, and it had to set
    a JSON content type, which no page of another site can without being asked first.
    """
    media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and headers.get(b"content-length", "0") != "0":
        return False
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get(b"origin")
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() == headers.get(b"host", "").lower() != ""
        except ValueError:  # not an address
            return False
    return media_type == "application/json"


def as_principal(found: object) -> Principal | None:
    """What a host's hook or user object says, as a `Principal`.

    Raises:
        InternalError: It is nothing that names anybody.
    """
    if found is None or isinstance(found, Principal):
        return found
    if isinstance(found, bool):
        raise InternalError("identify must return a Principal, a str or None, not a bool.")
    if isinstance(found, (str, int)):
        try:
            return Principal(str(found))
        except ValueError as error:
            raise InternalError(f"identify returned an id that cannot be used: {error}.") from error
    raise InternalError(f"identify must return a Principal, a str or None, not {type(found).__name__}.")


async def _in_thread(identify: Identify, connection: HTTPConnection) -> object:
    """A plain hook may wait for a database, so it waits in a thread, beside those of other callers.

    Django's connections belong to one thread, which it cleans up after each request: there all hooks take turns in it.
    """
    if "django" in sys.modules:
        return await sync_to_async(identify, thread_sensitive=True)(connection)
    return await to_thread.run_sync(identify, connection)


def _refused(error: HTTPException) -> CallerError:
    """The host's own refusal, raised as its framework does it."""
    if error.status_code == 403:
        return Forbidden("The application refused this call.")
    return Unauthenticated(_NOBODY)


def _is_async(identify: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(identify) or inspect.iscoroutinefunction(
        getattr(identify, "__call__", None)  # noqa: B004  it is the method that tells, not whether there is one
    )
