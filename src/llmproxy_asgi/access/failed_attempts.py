"""Limit the wrong keys of one address, and so the guessing of keys and the work for each guess.

A valid key is always accepted, because many callers may share one address (NAT, or a reverse proxy that does not
forward client addresses). Over the limit a wrong key is a 429, and the host's own code is not called for a credential
that it has not accepted before.

With IPv6 a subscriber's network is one source, and larger networks have their own limit, because many subscribers are
assigned 65 536 of the former. Attempts are counted in memory, separately in each process. Addresses are those of the
ASGI scope, never of a header that a client can set.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address

from starlette.types import Scope

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import CallerError, RateLimited, Unauthenticated

_MAX_SOURCES = 10_000
_MAX_ACCEPTED = 10_000

_SUBSCRIBER_BITS = 64
"""The prefix of the smallest network that is assigned to one subscriber (RFC 6177)."""
_SITE_BITS = 48
"""The prefix of the largest network that is assigned by default, and the smallest that is routed separately."""
_SOURCES_PER_SITE = 16
"""The limit of all sources of a site, as a multiple of the limit of one source: a site may have many subscribers."""


class _Counts(OrderedDict[str, tuple[float, float]]):
    """The failed attempts of the sources that failed most recently, with their time; bounded.

    Args:
        clock: Measures how long ago an attempt was.
        share: Multiplies the limit.
    """

    def __init__(self, clock: Clock, share: int = 1) -> None:
        super().__init__()
        self._clock = clock
        self._share = share

    def wait(self, source: str, per_minute: int) -> float:
        """Return the seconds until another attempt is allowed; 0 if it is allowed now."""
        limit = per_minute * self._share
        over = self._level(source, limit) - limit + 1
        return max(0.0, over * 60 / limit)

    def add(self, source: str, per_minute: int) -> None:
        """Count an attempt, and remove sources without recent attempts, and the oldest ones beyond the bound."""
        limit = per_minute * self._share
        self[source] = self._level(source, limit) + 1, self._clock.monotonic()
        self.move_to_end(source)
        while len(self) > _MAX_SOURCES or self._level(next(iter(self)), limit) == 0:
            self.popitem(last=False)

    def _level(self, source: str, limit: int) -> float:
        level, at = self.get(source, (0.0, 0.0))
        return max(0.0, level - (self._clock.monotonic() - at) * limit / 60)


class FailedAttempts:
    """Failed attempts by source, and the credentials that the host has accepted.

    Args:
        clock: Measures how long ago an attempt was.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._failures = _Counts(clock)
        self._sites = _Counts(clock, _SOURCES_PER_SITE)
        self._accepted: OrderedDict[bytes, None] = OrderedDict()

    @property
    def has_any(self) -> bool:
        """Whether an attempt of any source has failed recently."""
        return bool(self._failures)

    def wait(self, source: str, per_minute: int) -> float:
        """Return the seconds until this source may try another credential; 0 if it may now."""
        wait = self._failures.wait(source, per_minute)
        site = site_of(source)
        return wait if site is None else max(wait, self._sites.wait(site, per_minute))

    def count(self, source: str, per_minute: int) -> None:
        """Count a failed attempt of this source."""
        self._failures.add(source, per_minute)
        site = site_of(source)
        if site is not None:
            self._sites.add(site, per_minute)

    def accept(self, digest: bytes) -> None:
        """Record that the host has accepted a credential; only its digest is stored."""
        self._accepted[digest] = None
        self._accepted.move_to_end(digest)
        if len(self._accepted) > _MAX_ACCEPTED:
            self._accepted.popitem(last=False)

    def is_accepted(self, digest: bytes) -> bool:
        """Return whether the host has accepted a credential before, so that it may check it again."""
        return digest in self._accepted

    def refuse(self, digest: bytes) -> None:
        """Remove a credential that the host accepted before and refuses now."""
        self._accepted.pop(digest, None)


class AttemptLimit:
    """The limit on failed attempts of one configuration.

    Args:
        attempts: The attempts so far; outlives the configuration.
        per_minute: Attempts per minute and source; None: unlimited.
    """

    def __init__(self, attempts: FailedAttempts, per_minute: int | None) -> None:
        self._attempts = attempts
        self._per_minute = per_minute

    def check(self, scope: Scope, credential: Callable[[], bytes]) -> None:
        """Refuse another unknown credential if there were too many failed attempts.

        Args:
            scope: The request's scope.
            credential: Returns the digest of the request's credential.

        Raises:
            RateLimited: There were too many attempts, and the host has not accepted this credential before.
        """
        if not self._attempts.has_any or self._per_minute is None:
            return
        source = source_of(scope)
        wait = 0.0 if source is None else self._attempts.wait(source, self._per_minute)
        if wait > 0 and not self._attempts.is_accepted(credential()):
            raise _too_many(wait)

    def accepted(self, credential: Callable[[], bytes]) -> None:
        """Record that the host has accepted a credential. Does nothing while no attempt has failed."""
        if self._attempts.has_any and self._per_minute is not None:
            self._attempts.accept(credential())

    def failed(
        self, scope: Scope, refusal: Unauthenticated, credential: Callable[[], bytes] | None = None
    ) -> CallerError:
        """Count a failed attempt; return its refusal, or a `RateLimited` if there were too many.

        Args:
            scope: The request's scope.
            refusal: The error for the caller.
            credential: Returns the digest of the credential that the host refused; None: the host was not called.
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
        f"Too many wrong keys came from your address or network: send a right one, or try again in {seconds} s.",
        retry_after=seconds,
    )


def source_of(scope: Scope) -> str | None:
    """Return the address of a request, for IPv6 the network of one subscriber; None if it is unknown."""
    client = scope.get("client")
    if not client or not client[0]:
        return None
    address: str = client[0]
    parsed = _ipv6(address.partition("%")[0])
    if parsed is None:
        return address
    return str(parsed.ipv4_mapped or _network(parsed, _SUBSCRIBER_BITS))


def site_of(source: str) -> str | None:
    """Return the larger IPv6 network that a source belongs to; None if the source is not an IPv6 network."""
    parsed = _ipv6(source)
    return None if parsed is None else str(_network(parsed, _SITE_BITS))


def _ipv6(address: str) -> IPv6Address | None:
    if ":" not in address:
        return None
    try:
        return IPv6Address(address)
    except ValueError:
        return None


def _network(address: IPv6Address, bits: int) -> IPv6Address:
    rest = 128 - bits
    return IPv6Address(int(address) >> rest << rest)
