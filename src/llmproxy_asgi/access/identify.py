"""Who is calling: an adapter's word, a machine key, or the host's own `identify`. Nobody is refused.

The order is fixed: a key that is ours to judge, then a principal that an adapter put into the scope, then the host's
hook. Nothing that a client sends can name a principal. What a browser adds by itself counts only where no page of
another site can have made it send the request.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from starlette.types import Scope

from llmproxy_asgi.access.cross_site import cross_site_refusal
from llmproxy_asgi.access.failed_attempts import AttemptLimit, FailedAttempts
from llmproxy_asgi.access.keys import WRONG_KEY, Grant, KeyTable, refuse_unusable, sent_keys
from llmproxy_asgi.errors import CallerError, InternalError, Unauthenticated
from llmproxy_asgi.principal import ANYBODY, CSRF_KEY, LOCAL, SCOPE_KEY, OwnerKind, Principal
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


class Doorkeeper:
    """Decides who is calling.

    Args:
        mode: `host`, `keys` or `open`, as the configuration says.
        keys: The machine keys.
        identify: The host's hook.
        csrf: The host's own check of a CSRF token, for browsers that cannot show where a request comes from.
        limits: Of each caller who comes without one of the keys; None: any number of calls.
        origins: Further origins whose pages may call with what a browser adds by itself.
        attempts: Failed attempts so far.
        failed_attempts_per_minute: How many of one address are answered as such; None: any number.

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
            RateLimited: Too many wrong keys came from this address.
            Forbidden: Another site may have made a browser send it, or the host said no.
            InternalError: The host's hook failed; the log says how.
        """
        sent = sent_keys(scope["headers"], scope.get("query_string", b"") if key_in_query else b"")
        if sent:
            try:
                grant = self._keys.judge(sent)
                if grant is not None:
                    return grant
                refuse_unusable(sent)
            except Unauthenticated as wrong:
                raise self._attempts.failed(scope, wrong) from None
        principal = await self._known(scope, sent)
        if principal is not None:
            found = self.grant(principal, kind="local" if scope.get(SCOPE_KEY) is LOCAL else "user")
        elif self._mode == "open":
            found = Grant(ANYBODY, limits=self._limits, kind="open")
        else:
            # None under the adapter's key: it has asked the host, and nobody is signed in.
            raise self._nobody(scope, sent)
        self._check_origin(scope)
        return found

    async def _known(self, scope: Scope, sent: Sequence[str]) -> Principal | None:
        """Whom an adapter or the host names.

        Raises:
            CallerError: The host refuses the caller.
        """
        vouched = scope.get(SCOPE_KEY)
        if isinstance(vouched, Unauthenticated):
            raise self._refused(scope, sent, vouched)
        if isinstance(vouched, CallerError):
            raise vouched
        if vouched is not None and not isinstance(vouched, Principal):
            raise InternalError("An adapter handed over something that is not a Principal.")
        if vouched is not None or self._mode == "keys" or self._hooks is None:
            return vouched
        has_credential = _has_credential(scope, sent)
        if has_credential:
            self._attempts.check(scope, lambda: self._digest(scope, sent))
        try:
            principal = as_principal(await self._hooks.who(scope))
        except Unauthenticated as refused:
            raise self._refused(scope, sent, refused) from None
        if principal is not None and has_credential:
            self._attempts.accepted(lambda: self._digest(scope, sent))
        return principal

    def grant(self, principal: Principal, *, kind: OwnerKind = "user") -> Grant:
        """What somebody may do who is known otherwise than by a key. The host's own calls, for nobody, may anything."""
        return Grant(principal, limits=None if kind == "local" else self._limits, kind=kind)

    def _nobody(self, scope: Scope, sent: Sequence[str]) -> CallerError:
        asked = SCOPE_KEY in scope and self._mode != "keys"
        if not asked and not self._keys and (not self._asks_host or self._mode == "keys"):
            return Unauthenticated(NOT_CONFIGURED)
        refusal = Unauthenticated(WRONG_KEY, code="invalid_api_key") if sent else Unauthenticated(_NOBODY)
        return self._refused(scope, sent, refusal)

    def _refused(self, scope: Scope, sent: Sequence[str], refusal: Unauthenticated) -> CallerError:
        """A refusal, counted where something was tried: a browser that is not signed in has tried nothing."""
        if not _has_credential(scope, sent):
            return refusal
        return self._attempts.failed(scope, refusal, lambda: self._digest(scope, sent))

    def _digest(self, scope: Scope, sent: Sequence[str]) -> bytes:
        return self._keys.digest("\n".join(sent) or _authorization(scope))

    def _check_origin(self, scope: Scope) -> None:
        """Refuse a request without a key header that a page of another site may have made a browser send.

        A key in the query is no such header: any page can write one into an address.

        Raises:
            Forbidden: It may be a foreign page's doing, and holds no CSRF token of the host's.
        """
        refusal = cross_site_refusal(scope["method"], scope["headers"], self._origins)
        if refusal is None or scope.get(CSRF_KEY) is True:
            return
        if self._hooks is None or not self._hooks.vouch(scope):
            raise refusal


def _has_credential(scope: Scope, sent: Sequence[str]) -> bool:
    return bool(sent) or bool(_authorization(scope))


def _authorization(scope: Scope) -> str:
    """The `Authorization` header, whatever its scheme."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), "")


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
