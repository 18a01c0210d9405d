"""Answers that their upstream pauses, gone on with for callers whose protocol has no word for that.

An upstream may stop in the middle of a long turn: one that runs tools itself expects the turn back, one that keeps it
wants the same request with a token. Each time it is a *round*: the request goes out again, with the turn so far behind
the conversation or with the token, to the same target with the same credential, and the caller reads one answer::

    round 1   Started  parts 0..m   usage a     (Finished pause, Ended: not told)
    round 2   (Started)  parts m+1..n   usage a+b   Finished  Ended

Whoever reads is told nothing of rounds. Nothing is retried here: a round that fails fails the answer.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec

from llmproxy_asgi.conversation import (
    ArgumentsDelta,
    Batch,
    Candidate,
    Ended,
    Failed,
    Finished,
    FinishReason,
    JSONObject,
    Message,
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    ReasoningDelta,
    Request,
    Response,
    Started,
    StreamEvent,
    TextDelta,
    ToolCall,
    Usage,
    UsageReported,
    sum_usage,
)
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.execution.admission_queue import UNLIMITED
from llmproxy_asgi.execution.attempt import Attempt
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest

MOST_ROUNDS = 5
"""How often a paused answer is gone on with."""

NextRound: TypeAlias = Callable[[UpstreamRequest], Awaitable[Attempt]]
"""Begins another attempt like the first, with this request."""

_WARNING = "downgraded:pause"
_CONTINUED = "emulated:continuation"
"""The upstream stopped a turn that it may stop again, and was asked to go on once."""
_RECENT = 128
"""Events of a round that are remembered one by one; more are made fewer."""

_log = logging.getLogger("llmproxy_asgi.execution")


def may_need(attempt: Attempt) -> bool:
    """Whether an answer may pause in a way that is not its caller's protocol's. Who reads events is told as it is."""
    job = attempt.job
    if attempt.passthrough is not None or job.inbound_request is None:
        return False
    outbound = attempt.target.route(job.protocol).outbound
    return outbound.pauses and outbound.protocol != job.protocol


class Continuation:
    """An answer in one or several rounds; read, and closed, like the attempt that it begins with.

    Args:
        first: Has begun. Belongs to the continuation from now on.
        next_round: Begins the attempts that follow.
    """

    __slots__ = (
        "_attempt",
        "_job",
        "_kept",
        "_next_round",
        "_over",
        "_pausing",
        "_recent",
        "_resume",
        "_rounds",
        "_said",
        "_spent",
        "_waiting",
        "credential",
        "passthrough",
        "permit",
        "target",
        "upstream_request",
        "whole",
    )

    def __init__(self, first: Attempt, next_round: NextRound) -> None:
        self.target = first.target
        self.credential = first.credential
        self.permit = UNLIMITED
        self.upstream_request = first.upstream_request
        self.passthrough = first.passthrough
        self.whole = first.whole
        self._attempt = first
        self._job = first.job
        self._next_round = next_round
        self._rounds = 0
        self._resume: JSONObject | None = None  # what the last round said must be sent beside the request
        self._said: tuple[Part, ...] = ()  # by the rounds that are over
        self._spent = Usage()  # likewise
        self._kept: list[StreamEvent] = []  # what this round told, texts in longer pieces
        self._recent: list[StreamEvent] = []  # and after it, as it came
        self._pausing = False  # this round has finished with a pause, and may not have ended
        self._waiting = False  # it has, and another one is due
        self._over = False

    async def complete(self) -> None:
        """Go on with a whole answer until all of it is there. A stream is gone on with while it is read.

        Raises:
            UpstreamError: A later round failed; nothing has been shown to anybody.
        """
        first = self.whole
        if not isinstance(first, Response):
            return
        last = first
        while self._take(last):
            await self._go_on()
            whole = self._attempt.whole
            assert isinstance(whole, Response), "a later round is read like the first"
            last = whole
        candidates = last.candidates
        if self._rounds:
            candidates = (msgspec.structs.replace(candidates[0], parts=self._said),)
        self.whole = msgspec.structs.replace(
            last,
            id=first.id,
            created_at=first.created_at,
            candidates=tuple(map(self._ended, candidates)),
            usage=self._spent,
        )

    async def next(self) -> Batch | None:
        """The next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        while not self._over:
            if self._waiting:
                try:
                    await self._go_on()
                except GatewayError as error:
                    self._over = True
                    return Batch((Failed(error),))
            batch = await self._attempt.next()
            if batch is None:
                break
            if self._keep(batch.events) or self._rounds or self._pausing:
                batch = Batch(self._told(batch.events))
            if batch.events:
                return batch
        return None

    async def close(self) -> None:
        """Let go of the upstream, whichever round it is in. May be called more than once."""
        self._over = True
        try:
            await self._attempt.close()
        finally:
            self.permit.release()

    # ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _go_on(self) -> None:
        """Begin the next round."""
        self._rounds += 1
        self._pausing = self._waiting = False
        self._kept, self._recent = [], []
        await self._attempt.close()
        self._attempt = await self._next_round(self._resumed())
        self._warn(*self._attempt.upstream_request.warnings)

    def _resumed(self) -> UpstreamRequest:
        route = self.target.route(self._job.protocol)
        request = self._job.request.for_upstream(route.upstream)
        assert isinstance(request, Request), "only conversations are paused"
        if self._resume is not None:  # the upstream has kept its turn itself
            protocol = route.outbound.protocol
            extras = {**request.extras, protocol: {**request.extras.get(protocol, {}), **self._resume}}
            return route.outbound.encode(msgspec.structs.replace(request, extras=extras), route.upstream)
        turn = Message(role="assistant", parts=self._said)
        longer = msgspec.structs.replace(request, messages=(*request.messages, turn))
        return route.outbound.encode(longer, _resuming(route.upstream))

    def _take(self, round_: Response) -> bool:
        """Take note of a round that is over; whether another one follows."""
        candidate = round_.candidates[0]
        self._said += candidate.parts
        self._resume = candidate.finish.resume
        self._spent = self._total(round_.usage)
        # Calls are for the caller to answer, and several answers at once cannot be sent back.
        goes_on = (
            candidate.finish.reason is FinishReason.PAUSE
            and self._rounds < (1 if candidate.finish.continue_once else MOST_ROUNDS)
            and len(round_.candidates) == 1
            and not _calls(candidate)
        )
        if goes_on and candidate.finish.continue_once:
            self._warn(_CONTINUED)
        return goes_on

    def _total(self, usage: Usage) -> Usage:
        return sum_usage((self._spent, usage)) if self._rounds else usage

    def _ended(self, candidate: Candidate) -> Candidate:
        """A candidate that will not be gone on with, as the caller's protocol can say it."""
        finish = candidate.finish
        if finish.reason is not FinishReason.PAUSE:
            return candidate
        if _calls(candidate):
            reason = FinishReason.TOOL_CALLS
        else:
            reason = FinishReason.STOP
            self._warn(_WARNING)
        return msgspec.structs.replace(candidate, finish=msgspec.structs.replace(finish, reason=reason))

    def _warn(self, *warnings: str) -> None:
        every = tuple(dict.fromkeys((*self.upstream_request.warnings, *warnings)))
        self.upstream_request = msgspec.structs.replace(self.upstream_request, warnings=every)

    # ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _keep(self, events: Sequence[StreamEvent]) -> bool:
        """Remember what a round told, in little room; whether it tells a finish. Runs per read."""
        recent = self._recent
        recent.extend(events)
        if len(recent) > _RECENT:
            self._kept += _shortened(recent)
            recent.clear()
        for event in events:  # noqa: SIM110 - `any` would make a generator for each read
            if type(event) is Finished:
                return True
        return False

    def _told(self, events: Sequence[StreamEvent]) -> list[StreamEvent]:
        """The events of a round as events of the one answer."""
        told: list[StreamEvent] = []
        before = len(self._said)
        for event in events:
            match event:
                case PartDelta(candidate=candidate, index=index, delta=delta):
                    told.append(PartDelta(candidate, before + index, delta))
                case PartStarted(candidate=candidate, index=index, part=part):
                    told.append(PartStarted(candidate, before + index, part))
                case PartEnded(candidate=candidate, index=index, part=restated):
                    told.append(PartEnded(candidate, before + index, restated))
                case Started(usage=usage) if self._rounds:
                    told += [UsageReported(self._total(usage))] if usage else []
                case UsageReported(usage=usage):
                    told.append(UsageReported(self._total(usage)))
                case Finished(finish=finish) if finish.reason is FinishReason.PAUSE:
                    self._pausing = True
                case Ended() if self._pausing:
                    told += self._end(event)
                case _:
                    told.append(event)
        return told

    def _end(self, event: Ended) -> list[StreamEvent]:
        """What is told at the end of a paused round: nothing, if another one follows."""
        try:
            over = fold((*self._kept, *self._recent))
        except GatewayError as error:
            return [Failed(error)]
        self._waiting = self._take(over)
        if self._waiting:
            return []
        paused = [candidate for candidate in over.candidates if candidate.finish.reason is FinishReason.PAUSE]
        finished = [Finished(candidate.index, self._ended(candidate).finish) for candidate in paused]
        if _WARNING in self.upstream_request.warnings:
            facts = {"provider": self.target.provider.name, "model": self.target.model, "rounds": self._rounds}
            _log.warning("a response that the upstream paused too often was ended", extra=facts)
        return [*finished, event]


def _resuming(upstream: Upstream) -> Upstream:
    """The upstream as it takes its own turn back, also where it would not continue a turn that a caller wrote."""
    able = msgspec.structs.replace(upstream.capabilities, prefill=True)
    return msgspec.structs.replace(upstream, capabilities=able, resuming=True)


def _calls(candidate: Candidate) -> bool:
    return any(isinstance(part, ToolCall) for part in candidate.parts)


_WORDS = (TextDelta, ReasoningDelta, ArgumentsDelta)


def _shortened(events: Sequence[StreamEvent]) -> list[StreamEvent]:
    """The same with neighbouring pieces of one text joined: a long answer is few events, and long ones."""
    short: list[StreamEvent] = []
    runs: list[tuple[int, list[str]]] = []  # where one stands in `short`, and its pieces
    first: PartDelta | None = None
    for event in events:
        if type(event) is PartDelta and isinstance(event.delta, _WORDS):
            delta = event.delta
            if (
                first is not None
                and event.index == first.index
                and type(delta) is type(first.delta)
                and event.candidate == first.candidate
            ):
                runs[-1][1].append(delta.text)
                continue
            first = event
            runs.append((len(short), [delta.text]))
        else:
            first = None
        short.append(event)
    for at, texts in runs:
        head = short[at]
        if len(texts) > 1 and isinstance(head, PartDelta):
            joined = msgspec.structs.replace(head.delta, text="".join(texts))
            short[at] = PartDelta(head.candidate, head.index, joined)
    return short
