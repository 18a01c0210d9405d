"""Authenticate requests: by machine key, an adapter's principal, or the host's `identify` hook.

The order is fixed: a key of this gateway, then a principal that an adapter put into the scope, then the host's hook. A
request without any of these is refused, and nothing that a client sends can name a principal. Credentials that a
browser adds automatically count only where no page of another site can have sent the request.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from starlette.types import Scope

from llmproxy_asgi.access.cross_site import BROWSER_HEADERS, cross_site_refusal
from llmproxy_asgi.access.failed_attempts import AttemptLimit, FailedAttempts
from llmproxy_asgi.access.keys import KEY_HEADERS, WRONG_KEY, Grant, KeyTable, refuse_unusable, sent_keys
from llmproxy_asgi.errors import CallerError, InternalError, Unauthenticated
from llmproxy_asgi.principal import ANYBODY, CSRF_KEY, LOCAL, SCOPE_KEY, OwnerKind, Principal
from llmproxy_asgi.settings import CallLimits, KeyEntry

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from llmproxy_asgi.access.hooks import Hooks

Identity: TypeAlias = Principal | str | int | None
Identify: TypeAlias = Callable[["HTTPConnection"], Identity | Awaitable[Identity]]
"""The host's hook that returns the principal of a request."""
Csrf: TypeAlias = Callable[["HTTPConnection"], bool]
"""The host's own check of a CSRF token."""
Mode = Literal["host", "keys", "open"]

NOT_CONFIGURED = (
    "This gateway refuses every call because its access is not configured. Pass identify= to LLMProxy, "
    "list keys under access.keys, or set access.mode: open to serve everyone."
)
_NOT_SIGNED_IN = "You are not signed in, and no valid key was sent."


class Authenticator:
    """Authenticate requests and return what each may do.

    Args:
        mode: The setting `access.mode`: `host`, `keys` or `open`.
        keys: The machine keys.
        identify: The host's hook.
        csrf: The host's own check of a CSRF token, for browsers that do not send the origin of a request.
        limits: The limits of each caller without a machine key; None: unlimited.
        origins: Further origins whose pages may call with credentials that a browser adds automatically.
        attempts: Failed attempts so far.
        failed_attempts_per_minute: Failed attempts of one address before it is rate limited; None: unlimited.

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
        origins: Iterable[str] = (),
        attempts: FailedAttempts | None = None,
        failed_attempts_per_minute: int | None = None,
    ) -> None:
        self._origins = frozenset(origins)
        self._attempts = AttemptLimit(FailedAttempts() if attempts is None else attempts, failed_attempts_per_minute)
        self._mode = mode
        self._keys = KeyTable(keys)
        self._has_identify = identify is not None
        self._hooks = _hooks(identify, csrf)
        self._limits = limits
        self._open_grant = Grant(ANYBODY, limits=limits, kind="open")

    @property
    def has_identify(self) -> bool:
        """Whether the host passed `identify`; adapters do not set a principal then."""
        return self._has_identify

    async def authenticate(self, scope: Scope, *, key_in_query: bool = False) -> Grant:
        """Authenticate a request.

        Args:
            scope: The ASGI scope.
            key_in_query: Whether `?key=` counts on this path (only on Gemini's).

        Raises:
            Unauthenticated: There is no principal, or the key is wrong.
            RateLimited: Too many wrong keys came from this address.
            Forbidden: Another site may have made a browser send it, or the host refused it.
            InternalError: The host's hook failed; the log says how.
        """
        headers = scope["headers"]
        # Most requests to an open gateway hold neither a key nor what only browsers send.
        names = dict(headers)
        sent: list[str] = []
        if key_in_query or not KEY_HEADERS.isdisjoint(names):
            sent = sent_keys(headers, scope.get("query_string", b"") if key_in_query else b"")
        if sent:
            try:
                grant = self._keys.find_grant(sent)
                if grant is not None:
                    return grant
                refuse_unusable(sent)
            except Unauthenticated as wrong:
                raise self._attempts.failed(scope, wrong) from None
        principal = await self._identify(scope, sent)
        if principal is not None:
            grant = self.grant(principal, kind="local" if scope.get(SCOPE_KEY) is LOCAL else "user")
        elif self._mode == "open":
            grant = self._open_grant
        else:
            # None under the adapter's key: the host has no signed-in user.
            raise self._unauthenticated(scope, sent)
        if not BROWSER_HEADERS.isdisjoint(names):
            self._check_origin(scope)
        return grant

    async def _identify(self, scope: Scope, sent: Sequence[str]) -> Principal | None:
        """Return the principal of an adapter or the host.

        Raises:
            CallerError: The host refuses the caller.
        """
        adapter_principal = scope.get(SCOPE_KEY)
        if adapter_principal is not None:
            if isinstance(adapter_principal, Unauthenticated):
                raise self._refused(scope, sent, adapter_principal)
            if isinstance(adapter_principal, CallerError):
                raise adapter_principal
            if not isinstance(adapter_principal, Principal):
                raise InternalError("The principal that an adapter set is not a Principal.")
            return adapter_principal
        if self._mode == "keys" or self._hooks is None:
            return None
        has_credential = _has_credential(scope, sent)
        if has_credential:
            self._attempts.check(scope, lambda: self._digest(scope, sent))
        try:
            principal = as_principal(await self._hooks.identify(scope))
        except Unauthenticated as refused:
            raise self._refused(scope, sent, refused) from None
        if principal is not None and has_credential:
            self._attempts.accepted(lambda: self._digest(scope, sent))
        return principal

    def grant(self, principal: Principal, *, kind: OwnerKind = "user") -> Grant:
        """Return the grant of a principal without a key. The host's own calls are unlimited."""
        return Grant(principal, limits=None if kind == "local" else self._limits, kind=kind)

    def _unauthenticated(self, scope: Scope, sent: Sequence[str]) -> CallerError:
        adapter_set = SCOPE_KEY in scope and self._mode != "keys"
        if not adapter_set and not self._keys and (not self._has_identify or self._mode == "keys"):
            return Unauthenticated(NOT_CONFIGURED)
        refusal = Unauthenticated(WRONG_KEY, code="invalid_api_key") if sent else Unauthenticated(_NOT_SIGNED_IN)
        return self._refused(scope, sent, refusal)

    def _refused(self, scope: Scope, sent: Sequence[str], refusal: Unauthenticated) -> CallerError:
        """Return a refusal, counted as a failed attempt if the request had a credential."""
        if not _has_credential(scope, sent):
            return refusal
        return self._attempts.failed(scope, refusal, lambda: self._digest(scope, sent))

    def _digest(self, scope: Scope, sent: Sequence[str]) -> bytes:
        return self._keys.digest("\n".join(sent) or _authorization(scope))

    def _check_origin(self, scope: Scope) -> None:
        """Refuse a request without a key header that a page of another site may have made a browser send.

        A key in the query does not count: any page can write one into an address.

        Raises:
            Forbidden: Another site may have sent it, and it has no valid CSRF token.
        """
        refusal = cross_site_refusal(scope["method"], scope["headers"], self._origins)
        if refusal is None or scope.get(CSRF_KEY) is True:
            return
        if self._hooks is None or not self._hooks.check_csrf(scope):
            raise refusal


def _has_credential(scope: Scope, sent: Sequence[str]) -> bool:
    return bool(sent) or bool(_authorization(scope))


def _authorization(scope: Scope) -> str:
    """Return the `Authorization` header, with any scheme."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), "")


def as_principal(found: object) -> Principal | None:
    """Convert the result of a host's hook to a `Principal`.

    Raises:
        InternalError: It has another type, or an invalid id.
    """
    if found is None or isinstance(found, Principal):
        return found
    if isinstance(found, bool):
        raise InternalError("identify must return a Principal, a str or None, not a bool.")
    if isinstance(found, (str, int)):
        try:
            return Principal(str(found))
        except ValueError as error:
            raise InternalError(f"identify returned an invalid id: {error}.") from error
    raise InternalError(f"identify must return a Principal, a str or None, not {type(found).__name__}.")


def _hooks(identify: Identify | None, csrf: Csrf | None) -> "Hooks | None":
    if identify is None and csrf is None:
        return None
    from llmproxy_asgi.access.hooks import Hooks  # it imports starlette.requests, a tenth of the start time

    return Hooks(identify=identify, csrf=csrf, refusal=_NOT_SIGNED_IN)
