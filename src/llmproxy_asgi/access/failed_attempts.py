"""How many wrong keys one address may try: a brake on guessing, and on the work that each guess makes.

A right key always passes, because many callers may share one address (NAT, or a reverse proxy that does not say whom
it speaks for). What is limited is the rest: over the limit a wrong key is a 429, and the host's own code is not asked
about a credential that it has not accepted before.

Counted in memory, in each process for itself. Addresses are those of the ASGI scope: no header that a client can write.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address

from starlette.types import Scope

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import CallerError, RateLimited, Unauthenticated

_MOST_SOURCES = 10_000
_MOST_ACCEPTED = 10_000


class FailedAttempts:
    """Failed attempts by source, and which credentials the host has accepted.

    Args:
        clock: Measures how long ago an attempt was.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how many count, and when they did
        self._accepted: OrderedDict[bytes, None] = OrderedDict()

    @property
    def has_any(self) -> bool:
        """Whether an attempt of any source has failed lately."""
        return bool(self._failures)

    def wait(self, source: str, per_minute: int) -> float:
        """Return the seconds until this source may try another credential; 0 if it may now."""
        over = self._level(source, per_minute) - per_minute + 1
        return max(0.0, over * 60 / per_minute)

    def count(self, source: str, per_minute: int) -> None:
        """Count a failed attempt of this source."""
        self._failures[source] = self._level(source, per_minute) + 1, self._clock.monotonic()
        self._failures.move_to_end(source)
        self._forget_some(per_minute)

    def accept(self, digest: bytes) -> None:
        """Remember that the host has accepted a credential; its digest is all that is kept."""
        self._accepted[digest] = None
        self._accepted.move_to_end(digest)
        if len(self._accepted) > _MOST_ACCEPTED:
            self._accepted.popitem(last=False)

    def is_accepted(self, digest: bytes) -> bool:
        """Return whether the host has accepted a credential before, so that it may be asked again."""
        return digest in self._accepted

    def refuse(self, digest: bytes) -> None:
        """Forget a credential that the host accepted before and refuses now."""
        self._accepted.pop(digest, None)

    def _level(self, source: str, per_minute: int) -> float:
        level, at = self._failures.get(source, (0.0, 0.0))
        return max(0.0, level - (self._clock.monotonic() - at) * per_minute / 60)

    def _forget_some(self, per_minute: int) -> None:
        """Forget the oldest sources: those whose failures are over, and whichever are too many."""
        while len(self._failures) > _MOST_SOURCES or self._level(next(iter(self._failures)), per_minute) == 0:
            self._failures.popitem(last=False)


class AttemptLimit:
    """The limit on failed attempts of one plan.

    Args:
        attempts: What has been counted so far; outlives the plan.
        per_minute: How many one source may make; None: any number.
    """

    def __init__(self, attempts: FailedAttempts, per_minute: int | None) -> None:
        self._attempts = attempts
        self._per_minute = per_minute

    def check(self, scope: Scope, credential: Callable[[], bytes]) -> None:
        """Refuse to have the host asked about one more unknown credential, where too many were wrong.

        Args:
            scope: The request's.
            credential: Makes the digest of what the request carries.

        Raises:
            RateLimited: There were too many, and the host has not accepted this one before.
        """
        if not self._attempts.has_any or self._per_minute is None:
            return
        source = source_of(scope)
        wait = 0.0 if source is None else self._attempts.wait(source, self._per_minute)
        if wait > 0 and not self._attempts.is_accepted(credential()):
            raise _too_many(wait)

    def accepted(self, credential: Callable[[], bytes]) -> None:
        """Note that the host has accepted a credential. Costs nothing while no attempt has failed."""
        if self._attempts.has_any and self._per_minute is not None:
            self._attempts.accept(credential())

    def failed(
        self, scope: Scope, refusal: Unauthenticated, credential: Callable[[], bytes] | None = None
    ) -> CallerError:
        """Count a failed attempt; its refusal, or what takes its place where there were too many.

        Args:
            scope: The request's.
            refusal: What the caller reads.
            credential: Makes the digest of what the host was asked about; None: it was not asked.
        """
        source = source_of(scope)
        if source is None or self._per_minute is None:
            return refusal
        wait = self._attempts.wait(source, self._per_minute)
        if wait > 0:
            return _too_many(wait)
        if credential is not None:
            self._attempts.refuse(credential())
        self._attempts.count(source, self._per_minute)
        return refusal


def _too_many(wait: float) -> RateLimited:
    seconds = math.ceil(wait)
    return RateLimited(
        f"Too many wrong keys came from your address: send a right one, or try again in {seconds} s.",
        retry_after=seconds,
    )


def source_of(scope: Scope) -> str | None:
    """Return the address that a request came from, of IPv6 the network of one subscriber; None if nothing tells it."""
    client = scope.get("client")
    if not client or not client[0]:
        return None
    address: str = client[0]
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
