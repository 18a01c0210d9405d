"""Rests and circuits: which credential of which provider is left alone, until when, and who may try it first again.

::

    closed ──FAILURES_BEFORE_REST in a row──▶ open (rests) ──time──▶ half open: one try ─┬─ it answers ─▶ closed
       │                                                                                 └─ it fails ─▶ open, longer
       └── its upstream asks for a wait ──▶ rests just so long, then closed

Kept per process, beside the configuration, so that a reload does not forget it. Decides nothing about calls.
"""

from collections.abc import Callable, Iterator

import msgspec

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
LONGEST_CIRCUIT = 300.0
"""Seconds that a circuit stays open however often its tries fail, unless the configured cooldown is longer."""
QUOTA_REST = 600.0
"""Seconds that a spent quota rests at least: no minute brings it back."""
CHECKED = "health"
"""The reason of a rest that a health check began."""
_TICK = 0.001
"""Seconds that a timer may ring too early: a rest that is over by then is over."""
_PROBE_TIME = 120.0
"""Seconds after which a try that nobody reported on no longer keeps others from trying."""


class Rest(msgspec.Struct, frozen=True):
    """A credential is left alone until then."""

    until: float
    asked: bool
    """Whether the upstream itself asked for the wait."""
    seconds: float = 0.0
    """How long it was to be."""
    reason: str = ""
    """The kind of error that made it rest (`ErrorKind`)."""


class _Circuit(msgspec.Struct):
    """What is known of one credential that has failed lately."""

    failures: int = 0
    opened: int = 0
    """How often it opened without an answer between."""
    rest: Rest | None = None
    probing_until: float | None = None


Noticed = Callable[[str, Rest | None], None]
"""Told the fingerprint of a credential that begins to rest, or None in place of the rest: it is well again."""


class Cooldowns:
    """What rests, by the credential's fingerprint.

    Args:
        clock: What rests are measured with.

    Attributes:
        noticed: Who is told of every change; one at most.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}
        self.noticed: Noticed | None = None

    def resting(self, fingerprint: str) -> Rest | None:
        """The rest of a credential, if it may not be tried now: it has not ended, or somebody else tries just now."""
        if not self._circuits:
            return None
        circuit = self._circuits.get(fingerprint)
        rest = circuit.rest if circuit is not None else None
        if circuit is None or rest is None:
            return None
        now = self._clock.monotonic()
        if rest.until > now + _TICK:
            return rest
        if rest.asked:
            circuit.rest = None  # it said until when: from then on it is as any other
            return None
        return rest if circuit.probing_until is not None and circuit.probing_until > now else None

    def trying(self, fingerprint: str) -> None:
        """A try begins: while a circuit is half open, nobody else makes one until this is reported on."""
        if self._circuits and (circuit := self._circuits.get(fingerprint)) is not None and circuit.rest is not None:
            circuit.probing_until = self._clock.monotonic() + _PROBE_TIME

    def gave_up(self, fingerprint: str) -> None:
        """A try ended without telling anything about the upstream: its caller left, or it was never sent."""
        if self._circuits and (circuit := self._circuits.get(fingerprint)) is not None:
            circuit.probing_until = None

    def seconds_left(self, rest: Rest) -> float:
        """How long a rest still lasts."""
        return max(0.0, rest.until - self._clock.monotonic())

    def answered(self, fingerprint: str) -> None:
        """An answer began: the circuit closes. What failed before is forgotten only when an answer ends well."""
        if self._circuits and (circuit := self._circuits.get(fingerprint)) is not None and circuit.rest is not None:
            # Who was under way when it began to rest says nothing of how it is now, and does not shorten a wait.
            is_tried = circuit.probing_until is not None and not circuit.rest.asked
            if is_tried or circuit.rest.until <= self._clock.monotonic() + _TICK:
                self._close(fingerprint, circuit)

    def succeeded(self, fingerprint: str) -> None:
        """An answer ended well: whatever was counted is forgotten."""
        if self._circuits and (circuit := self._circuits.get(fingerprint)) is not None:
            self.answered(fingerprint)
            circuit.failures = 0
            if circuit.rest is None:
                del self._circuits[fingerprint]

    def failed(self, fingerprint: str, error: UpstreamError, cooldown: float) -> None:
        """An attempt failed, before its first event or after.

        Args:
            fingerprint: Of the credential it was made with.
            error: How.
            cooldown: Seconds to rest where the upstream names none; 0 switches rests off, but for what it asks.
        """
        if isinstance(error, UpstreamRateLimited | UpstreamQuotaSpent | UpstreamAuthFailed):
            self._told_off(fingerprint, error, cooldown)
        elif error.failover and not isinstance(error, UpstreamRefused):
            self._broken(fingerprint, error, cooldown)
        else:
            self.answered(fingerprint)  # a refusal of this request is an answer: somebody is there

    def found_down(self, fingerprint: str, seconds: float) -> None:
        """A check found that the upstream does not answer: it rests, if it does not already."""
        circuit = self._circuit(fingerprint)
        now = self._clock.monotonic()
        rest = circuit.rest
        if rest is None or rest.reason == CHECKED or rest.until <= now:
            circuit.rest = Rest(now + seconds, asked=False, seconds=seconds, reason=CHECKED)
            if rest is None and self.noticed is not None:
                self.noticed(fingerprint, circuit.rest)

    def found_up(self, fingerprint: str) -> None:
        """A check found that the upstream answers: a rest that a check began is over."""
        circuit = self._circuits.get(fingerprint)
        if circuit is not None and circuit.rest is not None and circuit.rest.reason == CHECKED:
            self._close(fingerprint, circuit)

    def all_resting(self) -> Iterator[tuple[str, Rest]]:
        """Every credential that rests now, with its rest."""
        now = self._clock.monotonic()
        for fingerprint, circuit in list(self._circuits.items()):
            if circuit.rest is not None and circuit.rest.until > now:
                yield fingerprint, circuit.rest

    def _told_off(self, fingerprint: str, error: UpstreamError, cooldown: float) -> None:
        if error.retry_after is not None:
            self._rest(self._circuit(fingerprint), fingerprint, error, error.retry_after, asked=True)
        elif isinstance(error, UpstreamQuotaSpent) and cooldown > 0:
            self._rest(self._circuit(fingerprint), fingerprint, error, max(cooldown, QUOTA_REST), asked=False)
        else:
            self._rest(self._circuit(fingerprint), fingerprint, error, cooldown, asked=False)

    def _broken(self, fingerprint: str, error: UpstreamError, cooldown: float) -> None:
        circuit = self._circuit(fingerprint)
        circuit.failures += 1
        half_open = circuit.rest is not None
        if half_open or circuit.failures >= FAILURES_BEFORE_REST:
            longest = max(LONGEST_CIRCUIT, cooldown)
            seconds = min(longest, cooldown * 2 ** min(circuit.opened, 16))
            # Those that were under way when it opened tell nothing new.
            if circuit.rest is None or circuit.rest.until <= self._clock.monotonic():
                circuit.opened += 1
                self._rest(circuit, fingerprint, error, seconds, asked=False)

    def _close(self, fingerprint: str, circuit: _Circuit) -> None:
        circuit.rest = circuit.probing_until = None
        circuit.opened = 0
        if self.noticed is not None:
            self.noticed(fingerprint, None)

    def _circuit(self, fingerprint: str) -> _Circuit:
        circuit = self._circuits.get(fingerprint)
        if circuit is None:
            circuit = self._circuits[fingerprint] = _Circuit()
        return circuit

    def _rest(self, circuit: _Circuit, fingerprint: str, error: UpstreamError, seconds: float, *, asked: bool) -> None:
        circuit.probing_until = None
        if seconds <= 0:
            return
        seconds = min(seconds, LONGEST_REST)
        circuit.rest = Rest(self._clock.monotonic() + seconds, asked, seconds, error.kind.value)
        if self.noticed is not None:
            self.noticed(fingerprint, circuit.rest)
