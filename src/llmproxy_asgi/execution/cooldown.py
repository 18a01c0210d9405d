"""Rests: which credential of which provider is left alone, until when, and whether its upstream asked for that.

Kept per process, beside the configuration, so that a reload does not forget it. Decides nothing about calls.
"""

from dataclasses import dataclass

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import (
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamQuotaSpent,
    UpstreamRateLimited,
    UpstreamRefused,
)

FAILURES_BEFORE_REST = 5
"""Consecutive failures of one credential, other than refusals, that make it rest."""
LONGEST_REST = 3600.0
"""Seconds; whatever an upstream asks for beyond is cut."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A credential is left alone until then."""

    until: float
    asked: bool
    """Whether the upstream itself asked for the wait."""


class Cooldowns:
    """What rests, by the credential's fingerprint."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._rests: dict[str, Rest] = {}
        self._failures: dict[str, int] = {}

    def resting(self, fingerprint: str) -> Rest | None:
        """The rest of a credential, if it has not ended."""
        if not self._rests:
            return None
        rest = self._rests.get(fingerprint)
        if rest is not None and rest.until <= self._clock.monotonic():
            del self._rests[fingerprint]
            return None
        return rest

    def seconds_left(self, rest: Rest) -> float:
        """How long a rest still lasts."""
        return max(0.0, rest.until - self._clock.monotonic())

    def succeeded(self, fingerprint: str) -> None:
        """An attempt went well: whatever was counted is forgotten."""
        if self._failures:
            self._failures.pop(fingerprint, None)
        if self._rests:
            self._rests.pop(fingerprint, None)

    def failed(self, fingerprint: str, error: UpstreamError, cooldown: float) -> None:
        """An attempt failed.

        Args:
            fingerprint: Of the credential it was made with.
            error: How.
            cooldown: Seconds to rest where the upstream names none; 0 switches rests off, but for what it asks.
        """
        if isinstance(error, UpstreamRateLimited | UpstreamQuotaSpent | UpstreamAuthFailed):
            asked = error.retry_after is not None
            self._rest(fingerprint, error.retry_after if error.retry_after is not None else cooldown, asked=asked)
        elif error.failover and not isinstance(error, UpstreamRefused):
            count = self._failures.get(fingerprint, 0) + 1
            self._failures[fingerprint] = count
            if count >= FAILURES_BEFORE_REST:
                self._rest(fingerprint, cooldown, asked=False)

    def _rest(self, fingerprint: str, seconds: float, *, asked: bool) -> None:
        if seconds > 0:
            self._rests[fingerprint] = Rest(self._clock.monotonic() + min(seconds, LONGEST_REST), asked)
