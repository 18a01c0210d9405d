"""Who is calling: an adapter's word, a machine key, or the host's own `identify`. Nobody is refused.

The order is fixed: a key that is ours to judge, then a principal that an adapter put into the scope, then the host's
hook. Nothing that a client sends can name a principal. A cookie alone counts only where no other site can have sent it.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from starlette.types import Scope

from llmproxy_asgi.access.keys import PREFIX, Grant, KeyTable, sent_key
from llmproxy_asgi.errors import CallerError, Forbidden, InternalError, Unauthenticated
from llmproxy_asgi.principal import ANYBODY, LOCAL, SCOPE_KEY, OwnerKind, Principal
from llmproxy_asgi.settings import CallLimits, KeyEntry

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from llmproxy_asgi.access.hooks import Hooks

Identity: TypeAlias = Principal | str | int | None
Identify: TypeAlias = Callable[["HTTPConnection"], Identity | Awaitable[Identity]]
"""The host's hook that says who is calling."""
Csrf: TypeAlias = Callable[["HTTPConnection"], bool]
"""The host's own check of a CSRF token."""
Mode = Literal["host", "keys", "open"]

NOT_CONFIGURED = (
    "This gateway refuses every call because nobody has said who may use it. Pass identify= to LLMProxy, "
    "list keys under access.keys, or write access.mode: open to serve anybody."
)
_NOBODY = "You are not signed in, and no valid key was sent."
_WRONG_KEY = "The key is not valid."
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


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
        csrf: Csrf | None = None,
        limits: CallLimits | None = None,
    ) -> None:
        self._mode = mode
        self._keys = KeyTable(keys)
        self._asks_host = identify is not None
        self._hooks = _hooks(identify, csrf)
        self._limits = limits

    @property
    def asks_host(self) -> bool:
        """Whether there is a hook of the host's; an adapter leaves the word to it then."""
        return self._asks_host

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
            if isinstance(vouched, CallerError):
                raise vouched
            if not isinstance(vouched, Principal):
                raise InternalError("An adapter handed over something that is not a Principal.")
            self._check_origin(scope)
            return self.grant(vouched, kind="local" if vouched is LOCAL else "user")
        if self._mode == "keys":
            raise self._nobody(key)
        # None under the adapter's key: it has asked the host, and nobody is signed in.
        return await self._ask_host(scope, key, asked=SCOPE_KEY in scope)

    async def _ask_host(self, scope: Scope, key: str | None, *, asked: bool) -> Grant:
        principal = None
        if self._hooks is not None:
            principal = as_principal(await self._hooks.who(scope))
        if principal is not None:
            self._check_origin(scope)
            return self.grant(principal)
        if self._mode == "open":
            return Grant(ANYBODY, limits=self._limits, kind="open")
        raise self._nobody(key, asked=asked)

    def grant(self, principal: Principal, *, kind: OwnerKind = "user") -> Grant:
        """What somebody may do who is known otherwise than by a key. The host's own calls, for nobody, may anything."""
        return Grant(principal, limits=None if kind == "local" else self._limits, kind=kind)

    def _nobody(self, key: str | None, *, asked: bool = False) -> Unauthenticated:
        if not asked and not self._keys and (not self._asks_host or self._mode == "keys"):
            return Unauthenticated(NOT_CONFIGURED)
        return Unauthenticated(_NOBODY if key is None else _WRONG_KEY, code=None if key is None else "invalid_api_key")

    def _check_origin(self, scope: Scope) -> None:
        """A cookie without a key header is the browser's doing: changing requests must come from the same site.

        A key in the query is no such header: any page can write one into an address.
        """
        if scope["method"] in _SAFE_METHODS:
            return
        headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        if b"cookie" not in headers or sent_key(scope["headers"]) is not None or same_origin(headers):
            return
        if self._hooks is not None and self._hooks.vouch(scope):
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


def _hooks(identify: Identify | None, csrf: Csrf | None) -> "Hooks | None":
    if identify is None and csrf is None:
        return None
    from llmproxy_asgi.access.hooks import Hooks  # brings Starlette's requests along, a tenth of a start's time

    return Hooks(identify=identify, csrf=csrf, nobody=_NOBODY)
