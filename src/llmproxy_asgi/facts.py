"""What happened, as frozen records, and those who want to know: metrics, traces, logs, a host's own code.

A fact is told once, where it happens, and by nobody else::

    CallStarted ─ (QueueLeft) ─ AttemptBegan ─ AttemptFailed ─ AttemptBegan ─ ... ─ CallFinished     one call
    CallRefused                                                                       it never became one
    TokensCounted                                                                     a count of tokens is no call
    CredentialCooled, CredentialRecovered, TargetStateChanged                         of no call in particular

Facts hold no prompt, no answer and no secret. What callers chose freely (the model's name, ids) stands in them as it
came: whoever makes labels of it must bound it. Nothing here decides anything, and an observer cannot break a call.
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

- `ok`: its caller had all of it.
- `error`: it failed before anything of the answer was shown; `status` and `kind` say how.
- `interrupted`: the stream broke after some of it was shown; `kind` says why.
- `cancelled`: its caller left, or stopped reading, before the end; or the host shut down and could not wait.
"""

Exactness = Literal["exact", "estimated", "none"]
"""Whose count of tokens it is: the upstream's, ours (or the upstream's up to a point), or there is none."""

CountOutcome = Literal["exact", "estimated", "error", "cancelled"]
"""How a count of tokens ended: by an upstream's word or by ours, not at all, or when its caller had left."""

NextAction = Literal["retry", "failover", "give_up"]
"""What follows a failed attempt: another on the same target, one on the next target, or none."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened."""


class CallStarted(Fact, frozen=True, kw_only=True):
    """A call was let in and is about to ask its first upstream. Told in the task, and the context, of its caller."""

    call: int
    """Numbers the calls of one gateway in one process; every later fact of the call carries it."""
    request_id: str
    protocol: str
    """The caller's. Calls from Python say the protocol whose shape they took."""
    model: str
    """As the caller named it: unbounded text."""
    stream: bool
    principal: str
    principal_kind: OwnerKind
    """A host user and a machine key may have the same name: owners are (kind, tenant, id)."""
    tenant: str


class CallRefused(Fact, frozen=True, kw_only=True):
    """A request became neither call nor count: nobody known, not readable, no such model, over a limit."""

    request_id: str
    protocol: str
    status: int
    kind: str
    """An `ErrorKind`."""
    error: str
    """The class of the error."""


class QueueLeft(Fact, frozen=True, kw_only=True):
    """A call waited for its turn, and does not any more."""

    call: int
    provider: str
    """Whose limit it waited for; empty: the caller's own limit."""
    seconds: float
    admitted: bool
    """False: it was turned away, or its caller left."""


class AttemptBegan(Fact, frozen=True, kw_only=True):
    """A request is about to go to an upstream."""

    call: int
    request_id: str = ""
    attempt: int
    """Counts the attempts of one call, from 1. Some may be under way at once."""
    provider: str
    model: str
    """The upstream's own name of it."""
    protocol: str
    """The one that is spoken to the upstream."""
    credential: str
    """The fingerprint; it tells nothing of the secret."""


class AttemptFailed(Fact, frozen=True, kw_only=True):
    """An attempt failed before anything of its answer was shown to anybody."""

    call: int
    request_id: str = ""
    attempt: int
    provider: str
    model: str
    credential: str
    kind: str
    """An `ErrorKind`."""
    status: int | None
    """What the upstream answered; None: it answered nothing."""
    reason: str = ""
    """Why, in one short line: `ECONNREFUSED host:port`, `gaierror ...`, a status with the vendor's code and words. No
    secret and no text of the caller's stands in it."""
    upstream_request_id: str = ""
    """The upstream's own id of the request, where it told one."""
    seconds: float
    """How long the attempt took."""
    next_action: NextAction
    wait: float = 0.0
    """Seconds until the next attempt, where one follows on the same target."""


class CallFinished(Fact, frozen=True, kw_only=True):
    """A call is over: told exactly once for each `CallStarted`, however it ended."""

    call: int
    request_id: str
    principal: str
    principal_kind: OwnerKind
    tenant: str
    protocol: str
    """The caller's."""
    model: str
    """As the caller named it: unbounded text."""
    provider: str
    """Who answered; empty: nobody did. After a failure the one that failed last, where it is known."""
    upstream_model: str
    upstream_protocol: str
    outcome: Outcome
    status: int
    """The HTTP status that stands for the end: 200 where an answer began, 499 where its caller left before that."""
    kind: str
    """An `ErrorKind`; empty where nothing failed."""
    error: str
    """The class of the error, which is finer than its kind; empty where nothing failed."""
    reason: str = ""
    """Why the attempt that decided it failed, as `AttemptFailed.reason`; empty where no upstream did."""
    stream: bool
    attempts: int
    usage: Usage | None
    exactness: Exactness
    first_seconds: float | None
    """From the start to the answer's first event (or, unstreamed, to the whole of it); None: there was none."""
    seconds: float
    """From the start to the end, in which the caller's own slowness counts."""
    queue_seconds: float
    """Of these, waited for a turn."""
    warnings: tuple[str, ...]
    """What was lost or approximated on the way, as the caller is told."""


class TokensCounted(Fact, frozen=True, kw_only=True):
    """A count of a request's tokens is over: told exactly once for each that was let in, however it ended.

    A count is no call. No attempt is told of it, because a counter that fails says nothing of its model; if it waited
    for its turn, a `QueueLeft` stands alone.
    """

    request_id: str
    principal: str
    principal_kind: OwnerKind
    tenant: str
    protocol: str
    """The caller's."""
    model: str
    """As the caller named it: unbounded text."""
    provider: str
    """Whose model it was counted for; after a failure the one that failed last, where it is known."""
    upstream_model: str
    outcome: CountOutcome
    status: int
    """The HTTP status that stands for the end."""
    kind: str
    """An `ErrorKind`; empty where nothing failed."""
    error: str
    """The class of the error; empty where nothing failed."""
    reason: str = ""
    """Why, as `AttemptFailed.reason`; empty where no upstream failed."""
    tokens: int | None
    """How many they are; None: nobody knows."""
    requests: int
    """How many were sent to counters of upstreams."""
    seconds: float
    """From the start to the end."""


class CredentialCooled(Fact, frozen=True, kw_only=True):
    """Something begins to cool down: it is left alone while another can serve."""

    provider: str
    credential: str
    """A fingerprint; empty: the whole upstream, because it can't be reached or fails its health check."""
    model: str = ""
    """The upstream's name of the model that the credential is left alone for; empty: every model."""
    seconds: float
    """How long."""
    asked: bool
    """Whether the upstream itself asked for the wait."""
    kind: str
    """The `ErrorKind` of the failure that began it."""
    reason: str = ""
    """Why, as `AttemptFailed.reason`; empty where a health check began it."""


class CredentialRecovered(Fact, frozen=True, kw_only=True):
    """What cooled down, or was failing, has served a call."""

    provider: str
    credential: str
    model: str = ""
    """Both as in `CredentialCooled`."""


class TargetStateChanged(Fact, frozen=True, kw_only=True):
    """A probe of an upstream's health came to another verdict than the one before."""

    provider: str
    healthy: bool
    reason: str
    """The status or the failed connection, in one line without secrets; empty where it is healthy."""


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
    """Whoever wants to know. It is called where things happen, so it returns at once and does no I/O."""

    def notice(self, fact: AnyFact, /) -> None:
        """Something happened. What is raised here is logged once and changes nothing."""


class EndObserver(ABC):
    """One that wants to know neither what begins nor, at times, what ended well; no fact is made for it alone then."""

    @abstractmethod
    def hears_good_ends(self) -> bool:
        """Whether it wants to know now of calls that ended well."""

    @abstractmethod
    def notice(self, fact: AnyFact, /) -> None:
        """As `Observer`."""


class Observers:
    """All observers of one gateway, told in order.

    Making a fact costs more than telling it to nobody, so ask first: `if observers.listening: observers.notice(...)`.

    Args:
        observers: Whoever wants to know.

    Attributes:
        listening: Whether there is anybody.
        hears_beginnings: Whether anybody wants to know what begins (`CallStarted`, `AttemptBegan`).
    """

    __slots__ = ("_broken", "_hear_good_ends", "_observers", "hears_beginnings", "listening")

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers: tuple[Observer, ...] = ()
        self._broken: set[int] = set()
        self._hear_good_ends: list[Callable[[], bool]] = []
        self.listening = self.hears_beginnings = False
        for observer in observers:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """One more, told of what happens from now on."""
        self._observers = (*self._observers, observer)
        self.listening = True
        if isinstance(observer, EndObserver):
            self._hear_good_ends.append(observer.hears_good_ends)
        else:
            self.hears_beginnings = True

    def hears_good_ends(self) -> bool:
        """Whether anybody wants to know of calls that ended well."""
        if self.hears_beginnings:
            return True
        for hears in self._hear_good_ends:  # noqa: SIM110  once per call: a generator would cost as much as all of it
            if hears():
                return True
        return False

    def notice(self, fact: AnyFact) -> None:
        """Tell everybody."""
        for observer in self._observers:
            try:
                observer.notice(fact)
            except Exception:  # noqa: BLE001  somebody else's code: it must not end a call
                self._complain(observer, fact)

    def _complain(self, observer: Observer, fact: AnyFact) -> None:
        """Once for each observer: one that always fails would fill the log."""
        if id(observer) in self._broken:
            return
        self._broken.add(id(observer))
        _log.exception("an observer failed on %s; its further failures are not logged", type(fact).__name__)


NOBODY = Observers()
"""No observer at all."""

_log = logging.getLogger("llmproxy_asgi.observers")


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One target's turn in a call, as its caller may be told; but for `reason`, which only administrators are."""

    target: str
    """`provider/model`, as configured."""
    outcome: Literal["served", "failed", "skipped"]
    why: str = ""
    """A word for what went wrong: an `ErrorKind`, `resting`, `full`, `unfit`."""
    status: int | None = None
    """What the upstream answered, where it answered."""
    seconds: float | None = None
    """How long the try took; of one that is skipped because it rests: how long it still will."""
    param: str | None = None
    """The request's field that makes a target unfit."""
    reason: str = ""
    """Why a try failed, as `AttemptFailed.reason`: it may name an address and quote the upstream."""

    def without_reason(self) -> "Step":
        """The same, for callers who are no administrators."""
        return msgspec.structs.replace(self, reason="") if self.reason else self


class Course(msgspec.Struct, kw_only=True):
    """What is noted while one call goes on; the one record here that changes. It travels with the call's job.

    Whoever begins an attempt takes its number from `next_attempt()`; whoever waits for a turn adds to `queue_seconds`.
    """

    call: int = 0
    request_id: str = ""
    attempts: int = 0
    queue_seconds: float = 0.0
    steps: list[Step] = msgspec.field(default_factory=list)
    """What was tried and passed over, in order."""
    untold: list[AttemptFailed] = msgspec.field(default_factory=list)
    """Failures of which it is not decided yet what follows."""

    def next_attempt(self) -> int:
        """One more attempt; its number."""
        self.attempts += 1
        return self.attempts
