"""Frozen records of what happens to calls, and their observers: metrics, traces, logs, a host's own code.

Each fact is reported once, where it happens::

    CallStarted ─ (QueueLeft) ─ AttemptBegan ─ AttemptFailed ─ AttemptBegan ─ ... ─ CallFinished     one call
    CallRefused                                                                       a request that became no call
    TokensCounted                                                                     a count of tokens, not a call
    CredentialCooled, CredentialRecovered, TargetStateChanged                         not part of a call

Facts hold no prompt, no response and no secret. Text that clients choose freely (model names, ids) is unchanged: labels
made of it must be bounded. This module decides nothing, and an observer cannot break a call.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypeAlias

import msgspec

from llmproxy_asgi.conversation import Usage
from llmproxy_asgi.principal import OwnerKind

Outcome = Literal["ok", "error", "cancelled", "interrupted"]
"""How a call ended.

- `ok`: the client received the whole response.
- `error`: it failed before any of the response was sent; `status` and `kind` describe the failure.
- `interrupted`: the stream failed after some of it was sent; `kind` describes the failure.
- `cancelled`: the client disconnected or stopped reading before the end, or the host shut down before it.
"""

Exactness = Literal["exact", "estimated", "none"]
"""Where a token count comes from: the upstream, the gateway's estimate (at least in part), or there is none."""

CountOutcome = Literal["exact", "estimated", "error", "cancelled"]
"""How a count of tokens ended: counted upstream, estimated here, failed, or with its client disconnected."""

NextAction = Literal["retry", "failover", "give_up"]
"""What follows a failed attempt: another on the same target, one on the next target, or none."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A record of something that happened."""


class CallStarted(Fact, frozen=True, kw_only=True):
    """A call was admitted and is about to try its first target. Reported in the task and context of its request."""

    call: int
    """The number of the call in this gateway and process; all facts of one call carry it."""
    request_id: str
    protocol: str
    """The client's protocol. Calls from Python name the protocol whose request shape they use."""
    model: str
    """The model as the client named it: unbounded text."""
    stream: bool
    principal: str
    principal_kind: OwnerKind
    """A host user and a machine key may have the same name: owners are (kind, tenant, id)."""
    tenant: str


class CallRefused(Fact, frozen=True, kw_only=True):
    """A request became neither call nor count: unauthenticated, unreadable, an unknown model, over a limit."""

    request_id: str
    protocol: str
    status: int
    kind: str
    """An `ErrorKind`."""
    error: str
    """The class of the error."""


class QueueLeft(Fact, frozen=True, kw_only=True):
    """A call left the admission queue."""

    call: int
    provider: str
    """The provider whose limit it waited for; empty: the caller's own limit."""
    seconds: float
    admitted: bool
    """False: it was refused, or its client disconnected."""


class AttemptBegan(Fact, frozen=True, kw_only=True):
    """A request is about to be sent to an upstream."""

    call: int
    request_id: str = ""
    attempt: int
    """The number of the attempt in its call, from 1. Attempts of one call may overlap."""
    provider: str
    model: str
    """The upstream's name of the model."""
    protocol: str
    """The protocol that the upstream receives."""
    credential: str
    """The credential's fingerprint; it reveals nothing of the secret."""


class AttemptFailed(Fact, frozen=True, kw_only=True):
    """An attempt failed before any of its response was passed on."""

    call: int
    request_id: str = ""
    attempt: int
    provider: str
    model: str
    credential: str
    kind: str
    """An `ErrorKind`."""
    status: int | None
    """The upstream's HTTP status; None: it sent no response."""
    reason: str = ""
    """The cause in one short line: `ECONNREFUSED host:port`, `gaierror ...`, a status with the vendor's code and
    message. It contains no secret and no text of the client's."""
    upstream_request_id: str = ""
    """The upstream's id of the request, if it sent one."""
    seconds: float
    """How long the attempt took."""
    next_action: NextAction
    wait: float = 0.0
    """Seconds until the next attempt on the same target, if there is one."""


class CallFinished(Fact, frozen=True, kw_only=True):
    """A call ended: reported exactly once for each `CallStarted`, however it ended."""

    call: int
    request_id: str
    principal: str
    principal_kind: OwnerKind
    tenant: str
    protocol: str
    """The client's protocol."""
    model: str
    """The model as the client named it: unbounded text."""
    provider: str
    """The provider that responded; empty: none did. After a failure the last one that failed, if known."""
    upstream_model: str
    upstream_protocol: str
    outcome: Outcome
    status: int
    """The HTTP status of the outcome: 200 if a response began, 499 if the client disconnected before that."""
    kind: str
    """An `ErrorKind`; empty if nothing failed."""
    error: str
    """The class of the error, which is finer than its kind; empty if nothing failed."""
    reason: str = ""
    """The `AttemptFailed.reason` of the attempt that decided the outcome; empty if no upstream failed."""
    stream: bool
    attempts: int
    usage: Usage | None
    exactness: Exactness
    first_seconds: float | None
    """Seconds from the start to the first event (or, unstreamed, to the whole response); None: there was none."""
    seconds: float
    """Seconds from the start to the end, including the time that a slow client takes."""
    queue_seconds: float
    """Seconds of these in admission queues."""
    warnings: tuple[str, ...]
    """What was lost or approximated in translation, as the client receives it."""


class TokensCounted(Fact, frozen=True, kw_only=True):
    """A count of a request's tokens ended: reported exactly once for each that was admitted, however it ended.

    A count is no call. Its attempts are not reported, because a counter's failure says nothing about the model; if it
    was queued, there is a `QueueLeft` without other facts.
    """

    request_id: str
    principal: str
    principal_kind: OwnerKind
    tenant: str
    protocol: str
    """The client's protocol."""
    model: str
    """The model as the client named it: unbounded text."""
    provider: str
    """The provider of the model; after a failure the last one that failed, if known."""
    upstream_model: str
    outcome: CountOutcome
    status: int
    """The HTTP status of the outcome."""
    kind: str
    """An `ErrorKind`; empty if nothing failed."""
    error: str
    """The class of the error; empty if nothing failed."""
    reason: str = ""
    """See `AttemptFailed.reason`; empty if no upstream failed."""
    tokens: int | None
    """The number of tokens; None: it is unknown."""
    requests: int
    """The number of requests to upstreams' counters."""
    seconds: float
    """Seconds from the start to the end."""


class CredentialCooled(Fact, frozen=True, kw_only=True):
    """A cooldown began: calls avoid its subject while another target can serve."""

    provider: str
    credential: str
    """A fingerprint; empty: the whole upstream, because it can't be reached or fails its health check."""
    model: str = ""
    """The upstream's name of the model that the cooldown is limited to; empty: every model."""
    seconds: float
    """The duration in seconds."""
    asked: bool
    """Whether the upstream asked for the wait (`retry-after`)."""
    kind: str
    """The `ErrorKind` of the failure that began it."""
    reason: str = ""
    """See `AttemptFailed.reason`; empty if a health check began it."""


class CredentialRecovered(Fact, frozen=True, kw_only=True):
    """The subject of a cooldown, or of a failure before one, has served a call."""

    provider: str
    credential: str
    model: str = ""
    """Both as in `CredentialCooled`."""


class TargetStateChanged(Fact, frozen=True, kw_only=True):
    """A health check of an upstream had another result than the one before."""

    provider: str
    healthy: bool
    reason: str
    """The status or the failed connection, in one line without secrets; empty if it is healthy."""


AnyFact: TypeAlias = (
    CallStarted
    | CallRefused
    | QueueLeft
    | AttemptBegan
    | AttemptFailed
    | CallFinished
    | TokensCounted
    | CredentialCooled
    | CredentialRecovered
    | TargetStateChanged
)


class Observer(Protocol):
    """Receives facts. It is called on the event loop where they happen, so it must return at once and do no I/O."""

    def notice(self, fact: AnyFact, /) -> None:
        """Receive a fact. An exception raised here is logged once and has no other effect."""


class EndObserver(ABC):
    """An observer that needs no facts of starts and, at times, none of successes; they are not made for it alone."""

    @abstractmethod
    def wants_successes(self) -> bool:
        """Whether it currently needs `CallFinished` of successful calls."""

    @abstractmethod
    def notice(self, fact: AnyFact, /) -> None:
        """See `Observer`."""


class Observers:
    """All observers of one gateway, notified in order.

    Making a fact is expensive, so check first: `if observers.listening: observers.notice(...)`.

    Args:
        observers: The first observers.

    Attributes:
        listening: Whether there are observers.
        wants_starts: Whether an observer needs facts of starts (`CallStarted`, `AttemptBegan`).
    """

    __slots__ = ("_broken", "_observers", "_wants_successes", "listening", "wants_starts")

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers: tuple[Observer, ...] = ()
        self._broken: set[int] = set()
        self._wants_successes: list[Callable[[], bool]] = []
        self.listening = self.wants_starts = False
        for observer in observers:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """Add an observer; it receives facts from now on."""
        self._observers = (*self._observers, observer)
        self.listening = True
        if isinstance(observer, EndObserver):
            self._wants_successes.append(observer.wants_successes)
        else:
            self.wants_starts = True

    def wants_successes(self) -> bool:
        """Whether an observer currently needs `CallFinished` of successful calls."""
        if self.wants_starts:
            return True
        for wants in self._wants_successes:  # noqa: SIM110  once per call: a generator would cost as much as all of it
            if wants():
                return True
        return False

    def notice(self, fact: AnyFact) -> None:
        """Pass a fact to every observer."""
        for observer in self._observers:
            try:
                observer.notice(fact)
            except Exception:  # noqa: BLE001  foreign code: it must not end a call
                self._log_failure(observer, fact)

    def _log_failure(self, observer: Observer, fact: AnyFact) -> None:
        """Log an observer's failure, once for each observer: one that always fails would fill the log."""
        if id(observer) in self._broken:
            return
        self._broken.add(id(observer))
        _log.exception("an observer failed on %s; its further failures are not logged", type(fact).__name__)


NO_OBSERVERS = Observers()
"""No observers."""

_log = logging.getLogger("llmproxy_asgi.observers")


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call did with one target, for its client (`x-llmproxy-explain`); `reason` is for administrators only."""

    target: str
    """`provider/model`, as configured."""
    outcome: Literal["served", "failed", "skipped"]
    why: str = ""
    """The cause in one word: an `ErrorKind`, `resting`, `full`, `unfit`."""
    status: int | None = None
    """The upstream's HTTP status, if it responded."""
    seconds: float | None = None
    """Seconds that the attempt took; for a target skipped during its cooldown, seconds until that ends."""
    param: str | None = None
    """The request's field that the target does not support."""
    reason: str = ""
    """See `AttemptFailed.reason`: it may name an address and quote the upstream."""

    def without_reason(self) -> "Step":
        """Return this step without its reason, for clients who are no administrators."""
        return msgspec.structs.replace(self, reason="") if self.reason else self


class CallContext(msgspec.Struct, kw_only=True):
    """The running counts of one call; the only mutable record here. It belongs to the call's job.

    Every attempt takes its number from `next_attempt()`, and every wait in a queue is added to `queue_seconds`.
    """

    call: int = 0
    request_id: str = ""
    attempts: int = 0
    queue_seconds: float = 0.0
    steps: list[Step] = msgspec.field(default_factory=list)
    """Targets that were tried or skipped, in order."""
    pending_failures: list[AttemptFailed] = msgspec.field(default_factory=list)
    """Failures whose `next_action` is not decided yet."""

    def next_attempt(self) -> int:
        """Count one more attempt, and return its number."""
        self.attempts += 1
        return self.attempts
