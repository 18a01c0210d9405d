"""Fold events into a `Response`, and unfold a `Response` into legal events.

Fields that no event carries are lost in a stream: `Candidate.phase`, `Candidate.extras`, and the log probabilities
of a candidate without any part. Folding relies on the order that `codec/grammar.py` describes; a stream that breaks
it so that no answer is left is an error of the upstream, never a crash.
"""

from collections.abc import Iterable, Iterator
from typing import assert_never

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.codec.grammar import FITS
from llmproxy_asgi.translators.media import joined_base64


def fold(events: Iterable[ir.StreamEvent]) -> ir.Response:
    """Fold the events of a complete stream into its answer.

    Raises:
        GatewayError: The error of the stream's `Failed`.
        UpstreamProtocolError: The stream has no ending, or breaks its rules so that it has no answer.
    """
    folder = Folder()
    folder.feed(events)
    return folder.result()


class Folder:
    """Folds a stream incrementally, in time linear in its size."""

    def __init__(self) -> None:
        self._started: ir.Started | None = None
        self._ended: ir.Ended | None = None
        self._error: GatewayError | None = None
        self._usage = ir.Usage()
        self._candidates: dict[int, _OpenCandidate] = {}

    def feed(self, events: Iterable[ir.StreamEvent]) -> None:
        """Add the next events. Events after the ending, or after a broken rule, are ignored."""
        try:
            for event in events:
                if self._error is not None or self._ended is not None:
                    return
                self._take(event)
        except _Broken as broken:
            self._error = UpstreamProtocolError(f"The upstream's stream is out of order: {broken}.")

    def result(self) -> ir.Response:
        """Return the complete answer.

        Raises:
            GatewayError: The error of the stream's `Failed`.
            UpstreamProtocolError: The stream is not over, or breaks its rules so that it has no answer.
        """
        if self._error is not None:
            raise self._error
        if self._started is None or self._ended is None:
            raise UpstreamProtocolError("The upstream's stream ended without its end sign.")
        return ir.Response(
            id=self._started.id,
            model=self._started.model,
            created_at=self._started.created_at,
            candidates=tuple([self._candidates[index].closed(index) for index in sorted(self._candidates)]),
            usage=self._usage,
            service_tier=self._ended.service_tier or self._started.service_tier,
            extras=self._started.extras,
            nonce=self._started.nonce,
        )

    def _take(self, event: ir.StreamEvent) -> None:
        # Not `match`: class patterns take twice the time, and every whole answer comes through here.
        if isinstance(event, ir.PartDelta):
            self._candidate(event.candidate).add(event.index, event.delta)
        elif isinstance(event, ir.PartStarted):
            self._candidate(event.candidate).start(event.index, event.part)
        elif isinstance(event, ir.PartEnded):
            self._candidate(event.candidate).end(event.index, event.part)
        elif isinstance(event, ir.UsageReported):
            self._usage = event.usage
        elif isinstance(event, ir.Finished):
            self._candidate(event.candidate).finish = event.finish
        elif isinstance(event, ir.Started):
            self._start(event)
        elif isinstance(event, ir.Ended):
            self._end(event)
        elif isinstance(event, ir.Failed):
            self._error = event.error
        elif not isinstance(event, ir.Passed):
            assert_never(event)

    def _candidate(self, number: int) -> "_OpenCandidate":
        if self._started is None:
            raise _Broken("it begins in the middle")
        candidate = self._candidates.get(number)
        if candidate is None:
            candidate = self._candidates[number] = _OpenCandidate()
        return candidate

    def _start(self, event: ir.Started) -> None:
        if self._started is not None:
            raise _Broken("it starts twice")
        self._started = event
        self._usage = event.usage or self._usage

    def _end(self, event: ir.Ended) -> None:
        if not self._candidates or not all(candidate.whole for candidate in self._candidates.values()):
            raise _Broken("it ends before its answer does")
        self._ended = event


def reasoning_first(response: ir.Response) -> ir.Response:
    """Move reasoning that arrived after the last tool calls in front of them, where every protocol places it."""
    candidates = tuple(_with_reasoning_first(candidate) for candidate in response.candidates)
    changed = any(new is not old for new, old in zip(candidates, response.candidates, strict=True))
    return msgspec.structs.replace(response, candidates=candidates) if changed else response


def _with_reasoning_first(candidate: ir.Candidate) -> ir.Candidate:
    parts = candidate.parts
    end = len(parts)
    while end and isinstance(parts[end - 1], ir.Reasoning):
        end -= 1
    begin = end
    while begin and isinstance(parts[begin - 1], ir.ToolCall):
        begin -= 1
    if begin == end or end == len(parts):
        return candidate
    return msgspec.structs.replace(candidate, parts=(*parts[:begin], *parts[end:], *parts[begin:end]))


def unfold(response: ir.Response) -> Iterator[ir.StreamEvent]:
    """Yield a legal stream of this answer; every `PartEnded` carries its complete part.

    Texts, reasoning, refusals and calls start empty and come in one delta; other parts start complete. Seals always
    come as deltas. An answer without any candidate is none: it unfolds into `Started` and `Failed`.
    """
    usage = None if response.usage == ir.Usage() else response.usage
    yield ir.Started(
        response.id,
        response.model,
        response.created_at,
        usage,
        response.service_tier,
        response.extras,
        response.nonce,
    )
    if not response.candidates:
        yield ir.Failed(UpstreamProtocolError("The upstream's answer holds no candidate."))
        return
    for candidate in response.candidates:
        for index, part in enumerate(candidate.parts):
            yield ir.PartStarted(candidate.index, index, _header(part))
            for delta in _deltas(part):
                yield ir.PartDelta(candidate.index, index, delta)
            if index == 0 and candidate.logprobs:
                yield ir.PartDelta(candidate.index, index, ir.LogprobsDelta(candidate.logprobs))
            yield ir.PartEnded(candidate.index, index, part)
    for candidate in response.candidates:
        yield ir.Finished(candidate.index, candidate.finish)
    if usage is not None:
        yield ir.UsageReported(usage)
    yield ir.Ended(response.service_tier)


def _header(part: ir.Part) -> ir.Part:
    """Return a part as it is when it starts."""
    match part:
        case ir.Text():
            return msgspec.structs.replace(part, text="", citations=(), seals=())
        case ir.Reasoning() | ir.Refusal():
            return msgspec.structs.replace(part, text="", seals=())
        case ir.ToolCall() | ir.ServerToolCall():
            return msgspec.structs.replace(part, arguments="", seals=())
        case _:
            return msgspec.structs.replace(part, seals=()) if part.seals else part


def _deltas(part: ir.Part) -> Iterator[ir.Delta]:
    """Yield the deltas that complete a part from its header."""
    match part:
        case ir.Text(text=text, citations=citations):
            if text:
                yield ir.TextDelta(text)
            yield from map(ir.CitationDelta, citations)
        case ir.Reasoning(text=text) if text:
            yield ir.ReasoningDelta(text)
        case ir.Refusal(text=text) if text:
            yield ir.RefusalDelta(text)
        case ir.ToolCall(arguments=arguments) | ir.ServerToolCall(arguments=arguments) if arguments:
            yield ir.ArgumentsDelta(arguments)
        case _:
            pass
    yield from map(ir.SealDelta, part.seals)


class _Broken(Exception):
    """A stream that does not fold into an answer."""


class _OpenPart:
    """An open part: its header and its deltas, joined once at the end."""

    __slots__ = ("_citations", "_data", "_header", "_seals", "_texts")

    def __init__(self, header: ir.Part) -> None:
        self._header = header
        self._texts: list[str] = []
        self._data: list[str] = []
        self._citations: list[ir.Citation] = []
        self._seals: list[ir.Seal] = []

    def add(self, delta: ir.Delta) -> None:
        if not isinstance(self._header, FITS[type(delta)]):
            raise _Broken("a piece does not fit its part")
        match delta:
            case (
                ir.TextDelta(text=text)
                | ir.ReasoningDelta(text=text)
                | ir.RefusalDelta(text=text)
                | ir.ArgumentsDelta(text=text)
            ):
                self._texts.append(text)
            case ir.MediaDelta(data=data, transcript=transcript):
                self._data.append(data)
                self._texts.append(transcript)
            case ir.CitationDelta(citation=citation):
                self._citations.append(citation)
            case ir.SealDelta(seal=seal):
                self._seals.append(seal)
            case ir.LogprobsDelta():
                pass  # they belong to the candidate
            case _:
                assert_never(delta)

    def whole(self) -> ir.Part:
        """Return the header with all deltas."""
        part = self._header
        added = "".join(self._texts)
        seals = (*part.seals, *self._seals)
        match part:
            case ir.Text():
                citations = (*part.citations, *self._citations)
                return msgspec.structs.replace(part, text=part.text + added, citations=citations, seals=seals)
            case ir.Reasoning() | ir.Refusal():
                return msgspec.structs.replace(part, text=part.text + added, seals=seals)
            case ir.ToolCall() | ir.ServerToolCall():
                return msgspec.structs.replace(part, arguments=part.arguments + added, seals=seals)
            case ir.Media():
                return self._media(part, added, seals)
            case _:
                return msgspec.structs.replace(part, seals=seals)

    def _media(self, part: ir.Media, added: str, seals: tuple[ir.Seal, ...]) -> ir.Media:
        source = part.source
        if any(self._data):
            before = [source.data] if isinstance(source, ir.InlineData) else []
            try:
                source = ir.InlineData(data=joined_base64([*before, *self._data]))
            except ValueError as error:
                raise _Broken("audio or an image cannot be decoded") from error
        transcript = (part.transcript or "") + added
        return msgspec.structs.replace(part, source=source, transcript=transcript or part.transcript, seals=seals)


class _OpenCandidate:
    """An open candidate."""

    __slots__ = ("_logprobs", "_open", "_parts", "finish")

    def __init__(self) -> None:
        self.finish: ir.Finish | None = None
        self._parts: list[ir.Part] = []
        self._open: dict[int, _OpenPart] = {}
        self._logprobs: list[ir.TokenLogprob] = []

    @property
    def whole(self) -> bool:
        return self.finish is not None and not self._open

    def start(self, index: int, header: ir.Part) -> None:
        if index != len(self._parts):
            raise _Broken("a part has the wrong number")
        self._parts.append(header)
        self._open[index] = _OpenPart(header)

    def add(self, index: int, delta: ir.Delta) -> None:
        part = self._open.get(index)
        if part is None:
            raise _Broken("a piece belongs to no open part")
        part.add(delta)
        if isinstance(delta, ir.LogprobsDelta):
            self._logprobs.extend(delta.tokens)

    def end(self, index: int, restated: ir.Part | None) -> None:
        part = self._open.pop(index, None)
        if part is None:
            raise _Broken("a part ends that is not open")
        self._parts[index] = part.whole() if restated is None else restated

    def closed(self, index: int) -> ir.Candidate:
        assert self.finish is not None  # checked before `Ended`
        return ir.Candidate(index=index, parts=tuple(self._parts), finish=self.finish, logprobs=tuple(self._logprobs))
