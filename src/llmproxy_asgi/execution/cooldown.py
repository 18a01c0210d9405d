"""Cooldowns and circuit breakers: what is avoided after failures, until when, and which attempt tries it first again.

A `Subject` cools down: one model by one credential, a whole credential, or a whole upstream. `target_cooldowns` decides
which of them a failure is about, and which of them a call needs.

::

    closed ──FAILURE_THRESHOLD in a row──▶ open (cools down) ──time──▶ half open: one attempt ─┬─ succeeds ─▶ closed
       │                                                                                       └─ fails ─▶ open, longer
       └── its upstream asks for a wait ──▶ cools down exactly as long, then closed

Kept per process, beside the configuration, so that a reload keeps it. This module decides nothing about calls.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import (
    UpstreamAuthFailed,
    UpstreamError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
)

MAX_MODELS = 10_000
"""Pairs of a credential and a model that are remembered: callers may name any model, so there must be a bound."""
FAILURE_THRESHOLD = 5
"""Consecutive failures of one subject, other than refusals, that begin a cooldown."""
MAX_COOLDOWN = 3600.0
"""Seconds; a longer wait that an upstream asks for is shortened."""
MAX_OPEN = 300.0
"""Seconds that a circuit stays open however often its attempts fail, unless the configured cooldown is longer."""
QUOTA_COOLDOWN = 600.0
"""Seconds that an exceeded quota cools down at least: it doesn't return within minutes."""
HEALTH_CHECK = "health"
"""The reason of a cooldown that a health check began."""
_TIMER_SLACK = 0.001
"""Seconds that a timer may ring too early: a cooldown that ends within them has ended."""
_PROBE_TIMEOUT = 120.0
"""Seconds after which an attempt without a reported result no longer blocks other attempts."""


class Subject(NamedTuple):
    """What cools down: the whole upstream, one credential, or one model by one credential."""

    provider: str
    credential: str = ""
    """A fingerprint; empty: every credential."""
    model: str = ""
    """The upstream's name; empty: every model."""


class Cooldown(msgspec.Struct, frozen=True):
    """A pause of a subject after failures."""

    until: float
    asked: bool
    """Whether the upstream itself asked for the wait."""
    seconds: float = 0.0
    """Its whole duration."""
    reason: str = ""
    """The kind of error that began it (`ErrorKind`)."""
    cause: str = ""
    """The cause in one line for the operator, as `UpstreamError.reason`."""


class _Circuit(msgspec.Struct):
    """The state of one subject that has failed lately."""

    failures: int = 0
    opened: int = 0
    """How often it opened without a response between."""
    cooldown: Cooldown | None = None
    probing_until: float | None = None


OnChange = Callable[[Subject, Cooldown | None], None]
"""Receives a subject with the cooldown that begins, or with None when it has recovered."""


class Cooldowns:
    """The cooldowns of all subjects.

    Args:
        clock: Measures cooldowns.

    Attributes:
        known: What has failed lately. While this is empty, no cooldown needs to be looked up.
        on_change: Receives every change.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._circuits: dict[Subject, _Circuit] = {}
        self.known: Collection[Subject] = self._circuits.keys()
        self._models = 0
        self._lock = threading.RLock()  # several threads may make calls, each on its own event loop
        self.on_change: OnChange | None = None

    def active(self, subject: Subject) -> Cooldown | None:
        """Return the cooldown because of which a subject may not be tried now: it lasts, or another attempt probes."""
        circuit = self._circuits.get(subject)
        cooldown = circuit.cooldown if circuit is not None else None
        if circuit is None or cooldown is None:
            return None
        now = self._clock.monotonic()
        if cooldown.until > now + _TIMER_SLACK:
            return cooldown
        if cooldown.asked:
            return None  # the upstream named the end: after it there is nothing to probe
        return cooldown if circuit.probing_until is not None and circuit.probing_until > now else None

    def attempt_started(self, subject: Subject) -> None:
        """Block other attempts on a half-open circuit until this attempt's result is reported."""
        if self._circuits and (circuit := self._circuits.get(subject)) is not None and circuit.cooldown is not None:
            circuit.probing_until = self._clock.monotonic() + _PROBE_TIMEOUT

    def attempt_abandoned(self, subject: Subject) -> None:
        """Report an attempt that shows nothing about the upstream: it was cancelled, or never sent."""
        if self._circuits and (circuit := self._circuits.get(subject)) is not None:
            circuit.probing_until = None

    def seconds_left(self, cooldown: Cooldown) -> float:
        """Return the remaining seconds of a cooldown."""
        return max(0.0, cooldown.until - self._clock.monotonic())

    def response_started(self, subject: Subject) -> None:
        """Close the circuit when a response begins. Failures are forgotten only when a response is complete."""
        if self._circuits and (circuit := self._circuits.get(subject)) is not None and circuit.cooldown is not None:
            # A call that began before the cooldown shows nothing about now, and doesn't shorten a wait.
            is_probe = circuit.probing_until is not None and not circuit.cooldown.asked
            if is_probe or circuit.cooldown.until <= self._clock.monotonic() + _TIMER_SLACK:
                self._close(subject, circuit)

    def succeeded(self, subject: Subject) -> None:
        """Forget the failures of a subject when a response is complete."""
        if self._circuits and (circuit := self._circuits.get(subject)) is not None:
            self.response_started(subject)
            circuit.failures = 0
            if circuit.cooldown is None:
                self._forget(subject)

    def failed(self, subject: Subject, error: UpstreamError, cooldown: float) -> None:
        """Count a failed attempt, before its first event or after.

        Args:
            subject: What the failure is about.
            error: The failure.
            cooldown: Seconds to cool down where the upstream names none; 0: only where it names some.
        """
        if isinstance(error, UpstreamRateLimited | UpstreamQuotaExceeded | UpstreamAuthFailed):
            self._cool_down_at_once(subject, error, cooldown)
        elif error.failover and not isinstance(error, UpstreamRefused):
            self._count_failure(subject, error, cooldown)
        else:
            self.response_started(subject)  # a refusal of this request shows that the upstream is available

    def found_down(self, subject: Subject, seconds: float) -> None:
        """Begin a cooldown because a health check failed, unless another one lasts."""
        circuit = self._circuit(subject)
        now = self._clock.monotonic()
        before = circuit.cooldown
        if before is None or before.reason == HEALTH_CHECK or before.until <= now:
            circuit.cooldown = Cooldown(now + seconds, asked=False, seconds=seconds, reason=HEALTH_CHECK)
            if before is None and self.on_change is not None:
                self.on_change(subject, circuit.cooldown)

    def found_up(self, subject: Subject) -> None:
        """End a cooldown that a health check began, because a later check succeeded."""
        circuit = self._circuits.get(subject)
        if circuit is not None and circuit.cooldown is not None and circuit.cooldown.reason == HEALTH_CHECK:
            self._close(subject, circuit)

    def all_active(self) -> Iterator[tuple[Subject, Cooldown]]:
        """Yield every subject that cools down now, with its cooldown."""
        now = self._clock.monotonic()
        for subject, circuit in list(self._circuits.items()):
            if circuit.cooldown is not None and circuit.cooldown.until > now:
                yield subject, circuit.cooldown

    def _cool_down_at_once(self, subject: Subject, error: UpstreamError, cooldown: float) -> None:
        if error.retry_after is not None:
            self._cool_down(self._circuit(subject), subject, error, error.retry_after, asked=True)
        elif isinstance(error, UpstreamQuotaExceeded) and cooldown > 0:
            self._cool_down(self._circuit(subject), subject, error, max(cooldown, QUOTA_COOLDOWN), asked=False)
        else:
            self._cool_down(self._circuit(subject), subject, error, cooldown, asked=False)

    def _count_failure(self, subject: Subject, error: UpstreamError, cooldown: float) -> None:
        circuit = self._circuit(subject)
        circuit.failures += 1
        half_open = circuit.cooldown is not None and not circuit.cooldown.asked
        if half_open or circuit.failures >= FAILURE_THRESHOLD:
            longest = max(MAX_OPEN, cooldown)
            seconds = min(longest, cooldown * 2 ** min(circuit.opened, 16))
            # Attempts that began before it opened show nothing new.
            if circuit.cooldown is None or circuit.cooldown.until <= self._clock.monotonic():
                circuit.opened += 1
                self._cool_down(circuit, subject, error, seconds, asked=False)

    def _close(self, subject: Subject, circuit: _Circuit) -> None:
        circuit.cooldown = circuit.probing_until = None
        circuit.opened = 0
        if self.on_change is not None:
            self.on_change(subject, None)

    def _circuit(self, subject: Subject) -> _Circuit:
        with self._lock:
            circuit = self._circuits.get(subject)
            if circuit is None:
                if subject.model and self._models >= MAX_MODELS:
                    self._forget(next(each for each in self._circuits if each.model))
                self._models += bool(subject.model)
                circuit = self._circuits[subject] = _Circuit()
            return circuit

    def clear(self) -> None:
        """Forget everything."""
        self._circuits.clear()
        self._models = 0

    def _forget(self, subject: Subject) -> None:
        with self._lock:
            if self._circuits.pop(subject, None) is not None:
                self._models -= bool(subject.model)

    def _cool_down(
        self, circuit: _Circuit, subject: Subject, error: UpstreamError, seconds: float, *, asked: bool
    ) -> None:
        circuit.probing_until = None
        if seconds <= 0:
            return
        seconds = min(seconds, MAX_COOLDOWN)
        circuit.cooldown = Cooldown(self._clock.monotonic() + seconds, asked, seconds, error.kind.value, error.reason)
        if self.on_change is not None:
            self.on_change(subject, circuit.cooldown)
