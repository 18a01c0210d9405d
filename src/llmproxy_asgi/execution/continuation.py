"""Continues responses that their upstream pauses, for callers whose protocol has no pauses.

An upstream may pause in the middle of a long turn: one that runs tools itself expects the turn back, one that stores it
expects the same request with a token. Each continuation is a *round*: the request is sent again, with the turn so far
appended or with the token, to the same target with the same credential, and the caller reads one response::

    round 1   Started  parts 0..m   usage a     (Finished pause, Ended: not passed on)
    round 2   (Started)  parts m+1..n   usage a+b   Finished  Ended

The caller sees no rounds. Nothing is retried here: a failed round fails the response.
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
from llmproxy_asgi.translators.base import ErrorT, Upstream, UpstreamRequest

MAX_ROUNDS = 5
"""How often a paused response is continued."""

NextRound: TypeAlias = Callable[[UpstreamRequest], Awaitable[Attempt]]
"""Begins another attempt like the first, with this request."""

_WARNING = "downgraded:pause"
_CONTINUED = "emulated:continuation"
"""The warning where the upstream may pause endlessly, and was continued once."""
_RECENT = 128
"""Events of a round that are kept one by one; more are merged."""

_log = logging.getLogger("llmproxy_asgi.execution")


def may_pause(attempt: Attempt) -> bool:
    """Return whether a response may pause where its caller's protocol has no pauses. Readers of events see pauses."""
    job = attempt.job
    if attempt.passthrough is not None or job.inbound_request is None:
        return False
    return attempt.route.outbound.pauses and not attempt.route.passthrough


class Continuation:
    """A response in one or several rounds; read and closed like an attempt.

    Args:
        first: An attempt that has begun; the continuation closes it.
        next_round: Begins the following attempts.
    """

    __slots__ = (
        "_attempt",
        "_job",
        "_merged",
        "_next_round",
        "_over",
        "_parts",
        "_pausing",
        "_recent",
        "_resume",
        "_resuming",
        "_rounds",
        "_usage",
        "credential",
        "passthrough",
        "permit",
        "route",
        "target",
        "upstream_request",
        "whole",
    )

    heavy = False

    def __init__(self, first: Attempt, next_round: NextRound) -> None:
        self.target = first.target
        self.credential = first.credential
        self.route = first.route
        self.permit = UNLIMITED
        self.upstream_request = first.upstream_request
        self.passthrough = first.passthrough
        self.whole = first.whole
        self._attempt = first
        self._job = first.job
        self._next_round = next_round
        self._rounds = 0
        self._resume: JSONObject | None = None  # what the last round requires in the next request
        self._parts: tuple[Part, ...] = ()  # of complete rounds
        self._usage = Usage()  # of complete rounds
        self._merged: list[StreamEvent] = []  # events of this round, with merged texts
        self._recent: list[StreamEvent] = []  # its later events, unmerged
        self._pausing = False  # this round has finished with a pause, but maybe not ended
        self._resuming = False  # it has ended, and the next round is due
        self._over = False

    async def complete(self) -> None:
        """Continue a whole response until it is complete. A stream is continued while it is read.

        Raises:
            UpstreamError: A later round failed; nothing has reached the caller.
        """
        first = self.whole
        if not isinstance(first, Response):
            return
        last = first
        while self._end_round(last):
            await self._begin_round()
            whole = self._attempt.whole
            assert isinstance(whole, Response), "a later round is read like the first"
            last = whole
        candidates = last.candidates
        if self._rounds:
            candidates = (msgspec.structs.replace(candidates[0], parts=self._parts),)
        self.whole = msgspec.structs.replace(
            last,
            id=first.id,
            created_at=first.created_at,
            candidates=tuple(map(self._without_pause, candidates)),
            usage=self._usage,
        )

    async def next(self) -> Batch | None:
        """Return the next batch of a stream; None after the last. A failure is a batch that ends with `Failed`."""
        while not self._over:
            if self._resuming:
                try:
                    await self._begin_round()
                except GatewayError as error:
                    self._over = True
                    return Batch((Failed(error),))
            batch = await self._attempt.next()
            if batch is None:
                break
            if self._keep(batch.events) or self._rounds or self._pausing:
                batch = Batch(self._renumbered(batch.events))
            if batch.events:
                return batch
        return None

    async def close(self) -> None:
        """Close the upstream response of the current round. May be called more than once."""
        self._over = True
        try:
            await self._attempt.close()
        finally:
            self.permit.release()

    def broke(self, error: ErrorT) -> ErrorT:
        """Return the error unchanged, because a continuation never passes through."""
        return error

    def adopt_current_task(self) -> None:
        """Let the running task read the current round from now on."""
        self._attempt.adopt_current_task()

    # ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin_round(self) -> None:
        """Begin the next round."""
        self._rounds += 1
        self._pausing = self._resuming = False
        self._merged, self._recent = [], []
        await self._attempt.close()
        self._attempt = await self._next_round(self._resumed())
        self._warn(*self._attempt.upstream_request.warnings)

    def _resumed(self) -> UpstreamRequest:
        route = self.route
        request = self._job.request.for_upstream(route.upstream)
        assert isinstance(request, Request), "only conversations are paused"
        if self._resume is not None:  # the upstream has kept its turn itself
            protocol = route.outbound.protocol
            extras = {**request.extras, protocol: {**request.extras.get(protocol, {}), **self._resume}}
            return route.outbound.encode(msgspec.structs.replace(request, extras=extras), route.upstream)
        turn = Message(role="assistant", parts=self._parts)
        longer = msgspec.structs.replace(request, messages=(*request.messages, turn))
        return route.outbound.encode(longer, _resuming(route.upstream))

    def _end_round(self, round_: Response) -> bool:
        """Record a complete round, and return whether another one follows."""
        candidate = round_.candidates[0]
        self._parts += candidate.parts
        self._resume = candidate.finish.resume
        self._usage = self._total(round_.usage)
        # Tool calls need the caller, and several candidates can't be sent back.
        is_continued = (
            candidate.finish.reason is FinishReason.PAUSE
            and self._rounds < (1 if candidate.finish.continue_once else MAX_ROUNDS)
            and len(round_.candidates) == 1
            and not _has_calls(candidate)
        )
        if is_continued and candidate.finish.continue_once:
            self._warn(_CONTINUED)
        return is_continued

    def _total(self, usage: Usage) -> Usage:
        return sum_usage((self._usage, usage)) if self._rounds else usage

    def _without_pause(self, candidate: Candidate) -> Candidate:
        """Return a candidate that is not continued with a finish reason that the caller's protocol has."""
        finish = candidate.finish
        if finish.reason is not FinishReason.PAUSE:
            return candidate
        if _has_calls(candidate):
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
        """Keep the events of a round compactly, and return whether they contain a finish. Runs per read."""
        recent = self._recent
        recent.extend(events)
        if len(recent) > _RECENT:
            self._merged += _merged(recent)
            recent.clear()
        for event in events:  # noqa: SIM110 - `any` would make a generator for each read
            if type(event) is Finished:
                return True
        return False

    def _renumbered(self, events: Sequence[StreamEvent]) -> list[StreamEvent]:
        """Return the events of a round as events of the whole response."""
        renumbered: list[StreamEvent] = []
        before = len(self._parts)
        for event in events:
            match event:
                case PartDelta(candidate=candidate, index=index, delta=delta):
                    renumbered.append(PartDelta(candidate, before + index, delta))
                case PartStarted(candidate=candidate, index=index, part=part):
                    renumbered.append(PartStarted(candidate, before + index, part))
                case PartEnded(candidate=candidate, index=index, part=restated):
                    renumbered.append(PartEnded(candidate, before + index, restated))
                case Started(usage=usage) if self._rounds:
                    renumbered += [UsageReported(self._total(usage))] if usage else []
                case UsageReported(usage=usage):
                    renumbered.append(UsageReported(self._total(usage)))
                case Finished(finish=finish) if finish.reason is FinishReason.PAUSE:
                    self._pausing = True
                case Ended() if self._pausing:
                    renumbered += self._end_stream_round(event)
                case _:
                    renumbered.append(event)
        return renumbered

    def _end_stream_round(self, event: Ended) -> list[StreamEvent]:
        """Return the events at the end of a paused round: none, if another one follows."""
        try:
            complete = fold((*self._merged, *self._recent))
        except GatewayError as error:
            return [Failed(error)]
        self._resuming = self._end_round(complete)
        if self._resuming:
            return []
        paused = [candidate for candidate in complete.candidates if candidate.finish.reason is FinishReason.PAUSE]
        finished = [Finished(candidate.index, self._without_pause(candidate).finish) for candidate in paused]
        if _WARNING in self.upstream_request.warnings:
            facts = {"provider": self.target.provider.name, "model": self.target.model, "rounds": self._rounds}
            _log.warning("a response that the upstream paused too often was ended", extra=facts)
        return [*finished, event]


def _resuming(upstream: Upstream) -> Upstream:
    """Return the upstream as it accepts its own turn, even if it doesn't continue a caller's turn."""
    able = msgspec.structs.replace(upstream.capabilities, prefill=True)
    return msgspec.structs.replace(upstream, capabilities=able, resuming=True)


def _has_calls(candidate: Candidate) -> bool:
    return any(isinstance(part, ToolCall) for part in candidate.parts)


_TEXT_DELTAS = (TextDelta, ReasoningDelta, ArgumentsDelta)


def _merged(events: Sequence[StreamEvent]) -> list[StreamEvent]:
    """Return the events with adjacent deltas of one text merged, so that a long response takes few events."""
    merged: list[StreamEvent] = []
    runs: list[tuple[int, list[str]]] = []  # the position of a delta in `merged`, and its pieces
    first: PartDelta | None = None
    for event in events:
        if type(event) is PartDelta and isinstance(event.delta, _TEXT_DELTAS):
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
            runs.append((len(merged), [delta.text]))
        else:
            first = None
        merged.append(event)
    for at, texts in runs:
        head = merged[at]
        if len(texts) > 1 and isinstance(head, PartDelta):
            joined = msgspec.structs.replace(head.delta, text="".join(texts))
            merged[at] = PartDelta(head.candidate, head.index, joined)
    return merged
