"""Record one call as facts: that it started, and exactly once how it ended. Likewise requests that became no call.

What runs the call reports each step as it happens; the outcome, the exactness of its usage and its times are worked out
at the end. Deltas are never looked at.
"""

import asyncio
from collections.abc import Callable

import msgspec
from typing_extensions import override

from llmproxy_asgi.clock import Clock
from llmproxy_asgi.conversation import Batch, Ended, Failed, Response, Started, StreamEvent, Usage, UsageReported
from llmproxy_asgi.disconnect import ClientDisconnected
from llmproxy_asgi.errors import ErrorKind, GatewayError, UpstreamError
from llmproxy_asgi.facts import (
    CallContext,
    CallFinished,
    CallRefused,
    CallStarted,
    CountOutcome,
    Observers,
    Outcome,
    TokensCounted,
)
from llmproxy_asgi.principal import OwnerKind
from llmproxy_asgi.providers.target import Route, Target
from llmproxy_asgi.translators.embeddings.records import Embeddings

CLIENT_CLOSED_REQUEST = 499
"""The status recorded when the client disconnected before anything was answered; nginx's, no protocol has one."""

_NO_USAGE = Usage()
_DISCONNECTED = (asyncio.CancelledError, GeneratorExit, ClientDisconnected)
"""Errors of a caller that no longer reads: its task was cancelled, the iterator closed, or `send` failed."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a fact that say who asked for what."""

    principal: str
    principal_kind: OwnerKind
    tenant: str
    protocol: str
    model: str
    stream: bool


class _Recorder:
    """What the recorders of calls and of token counts share.

    Args:
        observers: Receive the facts.
        clock: Measures times.
        context: The call's own counts.
        caller: Who asked for what.
    """

    __slots__ = ("_caller", "_clock", "_context", "_observers", "_started_at")

    def __init__(self, observers: Observers, clock: Clock, context: CallContext, caller: Caller) -> None:
        self._observers = observers
        self._clock = clock
        self._context = context
        self._caller = caller
        self._started_at = clock.monotonic()


class CallRecorder(_Recorder):
    """Record one call.

    Attributes:
        usage: What the upstream has reported so far.
        failure: What broke the stream.
        ended: Whether the stream has ended, normally or with an error.
    """

    __slots__ = ("_first_at", "_reported", "ended", "failure", "usage")

    @override
    def __init__(self, observers: Observers, clock: Clock, context: CallContext, caller: Caller) -> None:
        super().__init__(observers, clock, context, caller)
        self._first_at: float | None = None
        self._reported = False
        self.usage: Usage | None = None
        self.failure: GatewayError | None = None
        self.ended = False

    def start(self) -> None:
        """Record that the call is about to ask its first upstream."""
        if self._observers.wants_starts:
            caller, context = self._caller, self._context
            self._observers.notice(
                CallStarted(
                    call=context.call,
                    request_id=context.request_id,
                    protocol=caller.protocol,
                    model=caller.model,
                    stream=caller.stream,
                    principal=caller.principal,
                    principal_kind=caller.principal_kind,
                    tenant=caller.tenant,
                )
            )

    def begin(self, whole: Batch | Response | Embeddings | None) -> None:
        """Record the first event of a stream, or a whole answer.

        Args:
            whole: The answer, where no stream was requested.
        """
        self._first_at = self._clock.monotonic()
        if isinstance(whole, Batch):
            for event in whole.events:
                self.see(event)
        elif whole is not None and whole.usage != _NO_USAGE:
            self.usage = whole.usage

    def see(self, event: StreamEvent) -> None:
        """Record an event of the stream that is not a delta."""
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
        route: Route | None,
        warnings: tuple[str, ...] = (),
        *,
        guess: Callable[[], Usage] | None = None,
    ) -> None:
        """Record the end of the call; only the first time has an effect.

        Args:
            error: What ended the call; None: it was read to its end.
            route: The route of the response; None: no target responded.
            warnings: What was lost or approximated in translation.
            guess: Estimates the least usage of a broken stream whose upstream had reported none yet.
        """
        if self._reported or not self._observers.listening:
            return
        self._reported = True
        outcome, status, kind = self._outcome(error)
        if error is None and outcome == "ok" and not self._observers.wants_successes():
            return
        now = self._clock.monotonic()
        caller, context, first_at = self._caller, self._context, self._first_at
        failure = self.failure or error
        usage = self.usage
        # What was reported before a stream broke off is no more than it had cost until then.
        broken = caller.stream and first_at is not None and outcome in ("interrupted", "cancelled")
        if usage is None and broken and guess is not None:
            usage = guess()
        if error is not None:
            error.reported = True  # type: ignore[attr-defined]  # a GatewayError declares it, others accept it
        self._observers.notice(
            CallFinished(
                call=context.call,
                request_id=context.request_id,
                principal=caller.principal,
                principal_kind=caller.principal_kind,
                tenant=caller.tenant,
                protocol=caller.protocol,
                model=caller.model,
                provider=route.upstream.provider if route is not None else _failed_provider(failure),
                upstream_model=route.upstream.model if route is not None else "",
                upstream_protocol=route.outbound.protocol if route is not None else "",
                outcome=outcome,
                status=status,
                kind=kind,
                error=type(failure).__name__ if kind else "",
                reason=_reason(failure) if kind else "",
                stream=caller.stream,
                attempts=context.attempts,
                usage=usage,
                exactness="none" if usage is None else "estimated" if broken or usage.estimated else "exact",
                first_seconds=None if first_at is None else first_at - self._started_at,
                seconds=now - self._started_at,
                queue_seconds=context.queue_seconds,
                warnings=warnings,
            )
        )

    def _outcome(self, error: BaseException | None) -> tuple[Outcome, int, str]:
        """Return the outcome, its HTTP status, and the kind of what broke it."""
        begun = self._first_at is not None
        if self.failure is not None:
            return "interrupted", 200, self.failure.kind
        if error is None or (self.ended and isinstance(error, _DISCONNECTED)):
            return "ok", 200, ""
        if isinstance(error, _DISCONNECTED):
            return "cancelled", 200 if begun else CLIENT_CLOSED_REQUEST, ""
        status, kind = _cause(error)
        return ("interrupted", 200, kind) if begun and self._caller.stream else ("error", status, kind)


class CountRecorder(_Recorder):
    """Record one count of tokens."""

    __slots__ = ()

    def finish(
        self,
        error: BaseException | None,
        target: Target | None = None,
        *,
        tokens: int | None = None,
        estimated: bool = False,
    ) -> None:
        """Record the end of the count.

        Args:
            error: What ended it; None: there is a number.
            target: The target whose model it was counted for.
            tokens: The number.
            estimated: Whether the gateway estimated it.
        """
        if not self._observers.listening:
            return
        outcome: CountOutcome = "estimated" if estimated else "exact"
        status, kind = 200, ""
        if isinstance(error, _DISCONNECTED):
            outcome, status = "cancelled", CLIENT_CLOSED_REQUEST
        elif error is not None:
            outcome = "error"
            status, kind = _cause(error)
        if error is not None:
            error.reported = True  # type: ignore[attr-defined]  # as above
        caller, context = self._caller, self._context
        self._observers.notice(
            TokensCounted(
                request_id=context.request_id,
                principal=caller.principal,
                principal_kind=caller.principal_kind,
                tenant=caller.tenant,
                protocol=caller.protocol,
                model=caller.model,
                provider=target.provider.name if target is not None else _failed_provider(error),
                upstream_model=target.model if target is not None else "",
                outcome=outcome,
                status=status,
                kind=kind,
                error=type(error).__name__ if kind else "",
                reason=_reason(error) if kind else "",
                tokens=tokens,
                requests=context.attempts,
                seconds=self._clock.monotonic() - self._started_at,
            )
        )


def record_refusal(
    observers: Observers, error: GatewayError, *, request_id: str, protocol: str, status: int | None = None
) -> None:
    """Record that a request became no call, unless its error is part of a fact already.

    Args:
        observers: Receive the fact.
        error: Why the request was refused.
        request_id: The request's id.
        protocol: The caller's protocol.
        status: The HTTP status that the caller reads; None: the error's own.
    """
    if observers.listening and not error.reported:
        refused = CallRefused(
            request_id=request_id,
            protocol=protocol,
            status=error.status if status is None else status,
            kind=error.kind,
            error=type(error).__name__,
        )
        observers.notice(refused)


def _cause(error: BaseException) -> tuple[int, str]:
    """Return an error's HTTP status and kind."""
    return (error.status, error.kind) if isinstance(error, GatewayError) else (500, ErrorKind.INTERNAL)


def _failed_provider(error: BaseException | None) -> str:
    return error.provider or "" if isinstance(error, UpstreamError) else ""


def _reason(error: BaseException | None) -> str:
    return error.reason if isinstance(error, UpstreamError) else ""
