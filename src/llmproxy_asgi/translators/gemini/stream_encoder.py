"""Streams for Google's clients.

Each chunk is an answer in which parts are pieces: texts and thoughts go on from chunk to chunk, a call comes whole. So
parts that overlap are written one after the other, and calls when they end. The ends of all candidates, what was cited
and the usage stand in the last chunk. Google's own client reads nothing but lines that begin with `data: ` and blank
ones, and an error only where it is the first key.

A text is written as it comes: a prefix that is made once per candidate, the text as JSON, a suffix.
"""

from collections.abc import Sequence

import msgspec
from typing_extensions import override

from llmproxy_asgi.conversation import (
    ArgumentsDelta,
    Citation,
    CitationDelta,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    InlineData,
    JSONObject,
    LogprobsDelta,
    Media,
    MediaDelta,
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    Passed,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Seal,
    SealDelta,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.base import Intake, StreamEncoder
from llmproxy_asgi.translators.gemini.errors import error_body
from llmproxy_asgi.translators.gemini.framing import ArrayIntake, end, frame
from llmproxy_asgi.translators.gemini.grounding import Grounding
from llmproxy_asgi.translators.gemini.mappings import encode_logprobs, encode_usage
from llmproxy_asgi.translators.gemini.reasoning import signature_of
from llmproxy_asgi.translators.gemini.response_encoder import (
    bare_signature,
    encode_part,
    ending,
    head,
    is_blocked,
    prompt_feedback,
    signed,
)
from llmproxy_asgi.translators.media import joined_base64
from llmproxy_asgi.translators.part_sequencer import PartEvent, PartSequencer

_json = msgspec.json.Encoder().encode
_Flowing = (Text, Reasoning, Refusal)


class AnswerStream(StreamEncoder):
    """Writes one stream."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._events = not isinstance(intake, ArrayIntake)
        self._head = head(intake.model, "")
        self._candidates: dict[int, _Candidate] = {}
        self._usage: Usage | None = None
        self._over = False

    @override
    def feed(self, events: Sequence[StreamEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is PartDelta:
                candidate = self._candidates.get(event.candidate)
                if candidate is None or self._over:
                    continue
                if event.index != candidate.sequencer.open:
                    candidate.sequencer.feed(event)
                    continue
                delta = event.delta
                if (type(delta) is TextDelta or type(delta) is ReasoningDelta) and not candidate.pending:
                    text = delta.text
                    if text:
                        candidate.pieces.append(text)
                        chunk = candidate.prefix + _json(text) + candidate.suffix
                        out.append(chunk if self._events else frame(chunk, self._intake))
                elif type(delta) is ArgumentsDelta:
                    candidate.pieces.append(delta.text)
                else:
                    self._write(candidate, candidate.delta(delta), out)
            elif not self._over:
                self._other(event, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def _other(self, event: StreamEvent, out: list[bytes]) -> None:
        match event:
            case PartStarted() | PartEnded():
                candidate = self._candidate(event.candidate)
                try:
                    for turn in candidate.sequencer.feed(event):
                        self._write(candidate, self._part(candidate, turn), out)
                except UpstreamProtocolError as error:
                    self._fail(error, out)
            case Finished(candidate=number, finish=finish):
                self._candidate(number).finish = finish
            case UsageReported(usage=usage):
                self._usage = usage
            case Started():
                self._head = head(self._intake.model or event.model, event.id)
                self._usage = event.usage
            case Ended():
                self._end(out)
            case Failed(error=error):
                self._fail(error, out)
            case Passed(protocol="gemini", data=data):
                out.append(frame(data, self._intake))
            case _:  # of another protocol, or dealt with before
                pass

    def _fail(self, error: GatewayError, out: list[bytes]) -> None:
        self._over = True
        out.append(frame(error_body(error), self._intake) + end(self._intake))

    def _candidate(self, number: int) -> "_Candidate":
        found = self._candidates.get(number)
        if found is None:
            found = self._candidates[number] = _Candidate(number, self._head, events=self._events)
        return found

    def _part(self, candidate: "_Candidate", event: PartEvent) -> list[JSONObject]:
        match event:
            case PartStarted(part=part):
                return candidate.start(part)
            case PartDelta(delta=delta):
                return candidate.delta(delta)
            case PartEnded(part=part):
                return candidate.end(part)

    def _write(self, candidate: "_Candidate", parts: list[JSONObject], out: list[bytes]) -> None:
        if parts:
            content = {"content": {"parts": parts, "role": "model"}, "index": candidate.number}
            out.append(frame(_json({"candidates": [content], **self._head}), self._intake))

    def _end(self, out: list[bytes]) -> None:
        self._over = True
        whole = [self._candidates[number] for number in sorted(self._candidates)]
        if is_blocked((candidate.finish, candidate.said) for candidate in whole):
            last: JSONObject = prompt_feedback(whole[0].finish)
        else:
            last = {"candidates": [candidate.last() for candidate in whole]}
        if self._usage is not None:
            last["usageMetadata"] = encode_usage(self._usage)
        out.append(frame(_json({**last, **self._head}), self._intake) + end(self._intake))


class _Candidate:
    """One candidate as far as it is written: what it returns are parts for the next chunk."""

    __slots__ = (
        "_bytes",
        "_citations",
        "_data",
        "_grounding",
        "_head",
        "_logprobs",
        "_part",
        "_seals",
        "_sse",
        "finish",
        "number",
        "pending",
        "pieces",
        "prefix",
        "said",
        "sequencer",
        "suffix",
    )

    def __init__(self, number: int, head_fields: JSONObject, *, events: bool) -> None:
        self.number = number
        self.sequencer = PartSequencer()
        self.finish = Finish(reason=FinishReason.UNKNOWN)
        self.said = False
        self.pieces: list[str] = []
        """What the open text or thought holds so far."""
        self.pending: list[str] = []
        """Signatures that wait for the next part that is no thought."""
        self.prefix = self.suffix = b""
        self._head = head_fields
        self._sse = events
        self._part: Part = Text(text="")
        self._seals: list[Seal] = []
        self._citations: list[Citation] = []
        self._data: list[str] = []
        self._grounding = Grounding()
        self._bytes = 0
        self._logprobs: list[TokenLogprob] = []

    def start(self, part: Part) -> list[JSONObject]:
        """A part begins."""
        self.said = True
        self._part = part
        self.pieces = []
        self._data = []
        self._seals = list(part.seals)
        self._citations = []
        wire: list[JSONObject] = []
        thought = isinstance(part, Reasoning)
        if thought and self.pending:
            wire = [bare_signature(signature) for signature in self.pending]
            self.pending = []
        if isinstance(part, _Flowing):
            self._frame(thought=thought)
            if isinstance(part, Text):
                self._citations = list(part.citations)
            wire += self._say(part.text)
        return wire

    def delta(self, delta: object) -> list[JSONObject]:
        """The part goes on."""
        match delta:
            case TextDelta(text=text) | ReasoningDelta(text=text) | RefusalDelta(text=text):
                return self._say(text)
            case SealDelta(seal=seal):
                self._seals.append(seal)
            case CitationDelta(citation=citation):
                self._citations.append(citation)
            case MediaDelta(data=data):
                self._data.append(data)
            case LogprobsDelta(tokens=tokens):
                self._logprobs += tokens
            case ArgumentsDelta(text=text):
                self.pieces.append(text)
            case _:
                pass
        return []

    def end(self, restated: Part | None) -> list[JSONObject]:
        """The part is complete.

        Raises:
            UpstreamProtocolError: Its pieces make no whole.
        """
        part = restated or self._part
        seals = part.seals if restated is not None and restated.seals else self._seals
        signatures = [signature_of(seal) for seal in seals]
        if isinstance(part, _Flowing):
            wire = self._say(part.text) if not self.pieces else []
            text = "".join(self.pieces)
            if isinstance(part, Reasoning):
                self.pending = signatures
                return wire
            self._grounding.add(self._citations or getattr(part, "citations", ()), text, base=self._bytes)
            self._bytes += len(text.encode("utf-8", "surrogatepass"))
            if signatures and not text:
                signatures, self.pending = [*self.pending, *signatures], []
            return [*wire, *map(bare_signature, signatures)]
        if restated is None:
            part = self._made(part)
        whole = encode_part(part)
        if whole is None:
            return []
        signatures, self.pending = [*self.pending, *signatures], []
        return signed(whole, signatures)

    def last(self) -> JSONObject:
        """The candidate in the last chunk. Its content is never left out: Google's client forgets such turns."""
        parts = [bare_signature(signature) for signature in self.pending] or [{"text": ""}]
        fields: JSONObject = {"content": {"parts": parts, "role": "model"}, **ending(self.finish)}
        if self._logprobs:
            fields["logprobsResult"] = encode_logprobs(tuple(self._logprobs))
        return {**fields, "index": self.number, **self._grounding.fields()}

    def _say(self, text: str) -> list[JSONObject]:
        if not text:
            return []
        self.pieces.append(text)
        if isinstance(self._part, Reasoning):
            return [{"text": text, "thought": True}]
        signatures, self.pending = self.pending, []
        return signed({"text": text}, signatures)

    def _made(self, part: Part) -> Part:
        """A part of its header and its deltas, where nobody restated it."""
        if isinstance(part, ToolCall):
            return msgspec.structs.replace(part, arguments=part.arguments + "".join(self.pieces))
        if isinstance(part, Media) and any(self._data):
            before = [part.source.data] if isinstance(part.source, InlineData) else []
            try:
                data = joined_base64([*before, *self._data])
            except ValueError:
                raise UpstreamProtocolError("The upstream sent audio that cannot be decoded.") from None
            return msgspec.structs.replace(part, source=InlineData(data=data))
        return part

    def _frame(self, *, thought: bool) -> None:
        """What stands before and behind a text."""
        rest = b"".join(b",%b:%b" % (_json(key), _json(value)) for key, value in self._head.items())
        mark = b',"thought":true' if thought else b""
        before, behind = (b"data: ", b"\n\n") if self._sse else (b"", b"")
        self.prefix = before + b'{"candidates":[{"content":{"parts":[{"text":'
        self.suffix = b'%b}],"role":"model"},"index":%d}]%b}%b' % (mark, self.number, rest, behind)
