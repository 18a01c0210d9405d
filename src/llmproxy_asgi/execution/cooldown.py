"""Cooldowns and circuits: what is left alone after failures, until when, and who may try it first again.

What cools down is a `Subject`: one model by one credential, a whole credential, or a whole upstream. Which of them a
failure is about, and which of them a call needs, is decided in
`target_cooldowns`.

::

    closed ──FAILURES_BEFORE_REST in a row──▶ open (rests) ──time──▶ half open: one try ─┬─ it answers ─▶ closed
       │                                                                                 └─ it fails ─▶ open, longer
       └── its upstream asks for a wait ──▶ rests just so long, then closed

Kept per process, beside the configuration, so that a reload does not forget it. Decides nothing about calls.
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

MOST_MODELS = 10_000
"""Pairs of a credential and a model that are remembered: models may be callers' text, so there must be a bound."""
FAILURES_BEFORE_REST = 5
"""Consecutive failures of one subject, other than refusals, that begin a cooldown."""
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


class Subject(NamedTuple):
    """What cools down: the whole upstream, one credential, or one model by one credential."""

    provider: str
    credential: str = ""
    """A fingerprint; empty: every credential."""
    model: str = ""
    """The upstream's name; empty: every model."""


class Rest(msgspec.Struct, frozen=True):
    """A subject is left alone until then."""

    until: float
    asked: bool
    """Whether the upstream itself asked for the wait."""
    seconds: float = 0.0
    """How long it was to be."""
    reason: str = ""
    """The kind of error that began it (`ErrorKind`)."""
    cause: str = ""
    """Why, in one line for the operator, as `UpstreamError.reason`."""


class _Circuit(msgspec.Struct):
    """What is known of one subject that has failed lately."""

    failures: int = 0
    opened: int = 0
    """How often it opened without an answer between."""
    rest: Rest | None = None
    probing_until: float | None = None


Noticed = Callable[[Subject, Rest | None], None]
"""Told what begins to cool down, or None in place of the rest: it is well again."""


class Cooldowns:
    """What cools down.

    Args:
        clock: What rests are measured with.

    Attributes:
        noticed: Who is told of every change; one at most.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._circuits: dict[Subject, _Circuit] = {}
        self.known: Collection[Subject] = self._circuits.keys()
        """What has failed lately. While this is empty, nothing need be asked."""
        self._models = 0
        self._lock = threading.RLock()  # several threads may make calls, each on an event loop of its own
        self.noticed: Noticed | None = None

    def resting(self, subject: Subject) -> Rest | None:
        """The rest of a subject, if it may not be tried now: it has not ended, or somebody else tries just now."""
        circuit = self._circuits.get(subject)
        rest = circuit.rest if circuit is not None else None
        if circuit is None or rest is None:
            return None
        now = self._clock.monotonic()
        if rest.until > now + _TICK:
            return rest
        if rest.asked:
            return None  # it said until when: from then on it is as any other
        return rest if circuit.probing_until is not None and circuit.probing_until > now else None

    def trying(self, subject: Subject) -> None:
        """A try begins: while a circuit is half open, nobody else makes one until this is reported on."""
        if self._circuits and (circuit := self._circuits.get(subject)) is not None and circuit.rest is not None:
            circuit.probing_until = self._clock.monotonic() + _PROBE_TIME

    def gave_up(self, subject: Subject) -> None:
        """A try ended without telling anything about the upstream: its caller left, or it was never sent."""
        if self._circuits and (circuit := self._circuits.get(subject)) is not None:
            circuit.probing_until = None

    def seconds_left(self, rest: Rest) -> float:
        """How long a rest still lasts."""
        return max(0.0, rest.until - self._clock.monotonic())

    def answered(self, subject: Subject) -> None:
        """An answer began: the circuit closes. What failed before is forgotten only when an answer ends well."""
        if self._circuits and (circuit := self._circuits.get(subject)) is not None and circuit.rest is not None:
            # Who was under way when it began to rest says nothing of how it is now, and does not shorten a wait.
            is_tried = circuit.probing_until is not None and not circuit.rest.asked
            if is_tried or circuit.rest.until <= self._clock.monotonic() + _TICK:
                self._close(subject, circuit)

    def succeeded(self, subject: Subject) -> None:
        """An answer ended well: whatever was counted is forgotten."""
        if self._circuits and (circuit := self._circuits.get(subject)) is not None:
            self.answered(subject)
            circuit.failures = 0
            if circuit.rest is None:
                self._forget(subject)

    def failed(self, subject: Subject, error: UpstreamError, cooldown: float) -> None:
        """An attempt failed, before its first event or after.

        Args:
            subject: What it was about.
            error: How.
            cooldown: Seconds to rest where the upstream names none; 0 switches rests off, but for what it asks.
        """
        if isinstance(error, UpstreamRateLimited | UpstreamQuotaExceeded | UpstreamAuthFailed):
            self._told_off(subject, error, cooldown)
        elif error.failover and not isinstance(error, UpstreamRefused):
            self._broken(subject, error, cooldown)
        else:
            self.answered(subject)  # a refusal of this request is an answer: somebody is there

    def found_down(self, subject: Subject, seconds: float) -> None:
        """A check found that the upstream does not answer: it rests, if it does not already."""
        circuit = self._circuit(subject)
        now = self._clock.monotonic()
        rest = circuit.rest
        if rest is None or rest.reason == CHECKED or rest.until <= now:
            circuit.rest = Rest(now + seconds, asked=False, seconds=seconds, reason=CHECKED)
            if rest is None and self.noticed is not None:
                self.noticed(subject, circuit.rest)

    def found_up(self, subject: Subject) -> None:
        """A check found that the upstream answers: a rest that a check began is over."""
        circuit = self._circuits.get(subject)
        if circuit is not None and circuit.rest is not None and circuit.rest.reason == CHECKED:
            self._close(subject, circuit)

    def all_resting(self) -> Iterator[tuple[Subject, Rest]]:
        """Everything that cools down now, with its rest."""
        now = self._clock.monotonic()
        for subject, circuit in list(self._circuits.items()):
            if circuit.rest is not None and circuit.rest.until > now:
                yield subject, circuit.rest

    def _told_off(self, subject: Subject, error: UpstreamError, cooldown: float) -> None:
        if error.retry_after is not None:
            self._rest(self._circuit(subject), subject, error, error.retry_after, asked=True)
        elif isinstance(error, UpstreamQuotaExceeded) and cooldown > 0:
            self._rest(self._circuit(subject), subject, error, max(cooldown, QUOTA_REST), asked=False)
        else:
            self._rest(self._circuit(subject), subject, error, cooldown, asked=False)

    def _broken(self, subject: Subject, error: UpstreamError, cooldown: float) -> None:
        circuit = self._circuit(subject)
        circuit.failures += 1
        half_open = circuit.rest is not None and not circuit.rest.asked
        if half_open or circuit.failures >= FAILURES_BEFORE_REST:
            longest = max(LONGEST_CIRCUIT, cooldown)
            seconds = min(longest, cooldown * 2 ** min(circuit.opened, 16))
            # Those that were under way when it opened tell nothing new.
            if circuit.rest is None or circuit.rest.until <= self._clock.monotonic():
                circuit.opened += 1
                self._rest(circuit, subject, error, seconds, asked=False)

    def _close(self, subject: Subject, circuit: _Circuit) -> None:
        circuit.rest = circuit.probing_until = None
        circuit.opened = 0
        if self.noticed is not None:
            self.noticed(subject, None)

    def _circuit(self, subject: Subject) -> _Circuit:
        with self._lock:
            circuit = self._circuits.get(subject)
            if circuit is None:
                if subject.model and self._models >= MOST_MODELS:
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

    def _rest(self, circuit: _Circuit, subject: Subject, error: UpstreamError, seconds: float, *, asked: bool) -> None:
        circuit.probing_until = None
        if seconds <= 0:
            return
        seconds = min(seconds, LONGEST_REST)
        circuit.rest = Rest(self._clock.monotonic() + seconds, asked, seconds, error.kind.value, error.reason)
        if self.noticed is not None:
            self.noticed(subject, circuit.rest)
