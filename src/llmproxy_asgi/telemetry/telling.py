"""One call, told as facts: that it started, and exactly once how it ended. Likewise what never became a call.

Whoever runs the call says what happens to it, as it happens; what that amounts to (an outcome, an exactness, times) is
worked out here, at the end. Deltas are never looked at.
"""

import asyncio
from collections.abc import Callable

import msgspec
from typing_extensions import override

from llmproxy_asgi.clock import Clock
from llmproxy_asgi.conversation import Batch, Ended, Failed, Response, Started, StreamEvent, Usage, UsageReported
from llmproxy_asgi.errors import CallerGone, ErrorKind, GatewayError, UpstreamError
from llmproxy_asgi.facts import (
    CallFinished,
    CallRefused,
    CallStarted,
    CountOutcome,
    Course,
    Observers,
    Outcome,
    TokensCounted,
)
from llmproxy_asgi.principal import OwnerKind
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.embeddings.records import Embeddings

CALLER_LEFT = 499
"""The status that stands for a caller who left before anything was answered; no protocol has one."""

_NOTHING = Usage()
_LEFT = (asyncio.CancelledError, GeneratorExit, CallerGone)
"""What ends a call whose caller is not there any more: cancelled, closed by its reader, or not to be written to."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked for what, as it is told."""

    principal: str
    principal_kind: OwnerKind
    tenant: str
    protocol: str
    model: str
    stream: bool


class _Teller:
    """Who is told of what.

    Args:
        observers: Who wants to know.
        clock: What times are measured with.
        course: The call's own counts.
        caller: Who asked for what.
    """

    __slots__ = ("_caller", "_clock", "_course", "_observers", "_since")

    def __init__(self, observers: Observers, clock: Clock, course: Course, caller: Caller) -> None:
        self._observers = observers
        self._clock = clock
        self._course = course
        self._caller = caller
        self._since = clock.monotonic()


class Telling(_Teller):
    """Tells one call.

    Attributes:
        usage: What the upstream has reported so far.
        failure: What broke the stream.
        ended: Whether the stream has told its end, be it good or bad.
    """

    __slots__ = ("_began", "_told", "ended", "failure", "usage")

    @override
    def __init__(self, observers: Observers, clock: Clock, course: Course, caller: Caller) -> None:
        super().__init__(observers, clock, course, caller)
        self._began: float | None = None
        self._told = False
        self.usage: Usage | None = None
        self.failure: GatewayError | None = None
        self.ended = False

    def start(self) -> None:
        """It is about to ask its first upstream."""
        if self._observers.listening:
            caller, course = self._caller, self._course
            self._observers.notice(
                CallStarted(
                    call=course.call,
                    request_id=course.request_id,
                    protocol=caller.protocol,
                    model=caller.model,
                    stream=caller.stream,
                    principal=caller.principal,
                    principal_kind=caller.principal_kind,
                    tenant=caller.tenant,
                )
            )

    def begin(self, whole: Batch | Response | Embeddings | None) -> None:
        """Its answer has something to say, or is whole.

        Args:
            whole: The answer, where no stream was wanted.
        """
        self._began = self._clock.monotonic()
        if isinstance(whole, Batch):
            for event in whole.events:
                self.see(event)
        elif whole is not None and whole.usage != _NOTHING:
            self.usage = whole.usage

    def see(self, event: StreamEvent) -> None:
        """An event of its stream that is no delta."""
        if isinstance(event, UsageReported) or (isinstance(event, Started) and event.usage is not None):
            self.usage = event.usage
        elif isinstance(event, Ended):
            self.ended = True
        elif isinstance(event, Failed):
            self.ended = True
            self.failure = event.error

    def finish(
        self,
        error: BaseException | None,
        target: Target | None,
        warnings: tuple[str, ...] = (),
        *,
        guess: Callable[[], Usage] | None = None,
    ) -> None:
        """It is over.

        Args:
            error: What it ended with; None: it was read to its end.
            target: Who answered; None: nobody did.
            warnings: What was lost or approximated on its way.
            guess: What a stream that broke off has cost at least, where its upstream had reported nothing yet.
        """
        if self._told or not self._observers.listening:
            return
        self._told = True
        now = self._clock.monotonic()
        caller, course, began = self._caller, self._course, self._began
        outcome, status, kind = self._verdict(error)
        failure = self.failure or error
        usage = self.usage
        # What was reported before a stream broke off is no more than it had cost until then.
        broken = caller.stream and began is not None and outcome in ("cut", "cancelled")
        if usage is None and broken and guess is not None:
            usage = guess()
        if error is not None:
            error.told = True  # type: ignore[attr-defined]  # a GatewayError has a place for it, others make one
        self._observers.notice(
            CallFinished(
                call=course.call,
                request_id=course.request_id,
                principal=caller.principal,
                principal_kind=caller.principal_kind,
                tenant=caller.tenant,
                protocol=caller.protocol,
                model=caller.model,
                provider=target.provider.name if target is not None else _blamed(failure),
                upstream_model=target.model if target is not None else "",
                upstream_protocol=target.line(caller.protocol).outbound.protocol if target is not None else "",
                outcome=outcome,
                status=status,
                kind=kind,
                error=type(failure).__name__ if kind else "",
                reason=_reason(failure) if kind else "",
                stream=caller.stream,
                attempts=course.attempts,
                usage=usage,
                exactness="none" if usage is None else "estimated" if broken or usage.estimated else "exact",
                first_seconds=None if began is None else began - self._since,
                seconds=now - self._since,
                queue_seconds=course.queue_seconds,
                warnings=warnings,
            )
        )

    def _verdict(self, error: BaseException | None) -> tuple[Outcome, int, str]:
        """How it ended, the status that stands for it, and what broke it."""
        begun = self._began is not None
        if self.failure is not None:
            return "cut", 200, self.failure.kind
        if error is None or (self.ended and isinstance(error, _LEFT)):
            return "ok", 200, ""
        if isinstance(error, _LEFT):
            return "cancelled", 200 if begun else CALLER_LEFT, ""
        status, kind = _cause(error)
        return ("cut", 200, kind) if begun and self._caller.stream else ("error", status, kind)


class CountTelling(_Teller):
    """Tells one count of tokens."""

    __slots__ = ()

    def finish(
        self,
        error: BaseException | None,
        target: Target | None = None,
        *,
        tokens: int | None = None,
        estimated: bool = False,
    ) -> None:
        """It is over.

        Args:
            error: What it ended with; None: there is a number.
            target: Whose model it was counted for.
            tokens: The number.
            estimated: Whether it is ours.
        """
        if not self._observers.listening:
            return
        outcome: CountOutcome = "estimated" if estimated else "exact"
        status, kind = 200, ""
        if isinstance(error, _LEFT):
            outcome, status = "cancelled", CALLER_LEFT
        elif error is not None:
            outcome = "error"
            status, kind = _cause(error)
        if error is not None:
            error.told = True  # type: ignore[attr-defined]  # as above
        caller, course = self._caller, self._course
        self._observers.notice(
            TokensCounted(
                request_id=course.request_id,
                principal=caller.principal,
                principal_kind=caller.principal_kind,
                tenant=caller.tenant,
                protocol=caller.protocol,
                model=caller.model,
                provider=target.provider.name if target is not None else _blamed(error),
                upstream_model=target.model if target is not None else "",
                outcome=outcome,
                status=status,
                kind=kind,
                error=type(error).__name__ if kind else "",
                reason=_reason(error) if kind else "",
                tokens=tokens,
                requests=course.attempts,
                seconds=self._clock.monotonic() - self._since,
            )
        )


def tell_refusal(
    observers: Observers, error: GatewayError, *, request_id: str, protocol: str, status: int | None = None
) -> None:
    """Tell that a request became no call, unless what it ended with has been told already.

    Args:
        observers: Who wants to know.
        error: Why.
        request_id: Of the request.
        protocol: The caller's.
        status: The status that the caller reads; None: the error's own.
    """
    if observers.listening and not error.told:
        refused = CallRefused(
            request_id=request_id,
            protocol=protocol,
            status=error.status if status is None else status,
            kind=error.kind,
            error=type(error).__name__,
        )
        observers.notice(refused)


def _cause(error: BaseException) -> tuple[int, str]:
    """The status that stands for an error, and its kind."""
    return (error.status, error.kind) if isinstance(error, GatewayError) else (500, ErrorKind.INTERNAL)


def _blamed(error: BaseException | None) -> str:
    return error.provider or "" if isinstance(error, UpstreamError) else ""


def _reason(error: BaseException | None) -> str:
    return error.reason if isinstance(error, UpstreamError) else ""
