"""Encode streams for Google's clients.

Each chunk is a response whose parts are pieces: texts and thoughts continue from chunk to chunk, a call is complete.
So overlapping parts are written one after the other, and calls when they end. The last chunk has the finish reasons of
all candidates, the citations and the usage. Google's own client reads only lines that start with `data: ` and blank
lines, and an error only if it is the first key.

Text is written at once: a prefix that is built once per part, the text as JSON, a suffix.
"""

from collections.abc import Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError, UpstreamProtocolError
from llmproxy_asgi.translators.base import InboundRequest, StreamEncoder
from llmproxy_asgi.translators.gemini.errors import error_body
from llmproxy_asgi.translators.gemini.framing import ArrayInboundRequest, encode_end, encode_frame
from llmproxy_asgi.translators.gemini.grounding import GroundingEncoder
from llmproxy_asgi.translators.gemini.mappings import encode_logprobs, encode_usage
from llmproxy_asgi.translators.gemini.reasoning import encode_signature
from llmproxy_asgi.translators.gemini.response_encoder import (
    bare_signature,
    encode_part,
    finish_fields,
    head,
    is_blocked,
    prompt_feedback,
    signed,
)
from llmproxy_asgi.translators.media import joined_base64
from llmproxy_asgi.translators.part_sequencer import PartEvent, PartSequencer

_json = msgspec.json.Encoder().encode
_TEXT_PARTS = (ir.Text, ir.Reasoning, ir.Refusal)


class GeminiStreamEncoder(StreamEncoder):
    """The encoder of one stream."""

    def __init__(self, inbound_request: InboundRequest) -> None:
        self._inbound_request = inbound_request
        self._events = not isinstance(inbound_request, ArrayInboundRequest)
        self._head = head(inbound_request.model, "")
        self._candidates: dict[int, _CandidateEncoder] = {}
        self._usage: ir.Usage | None = None
        self._finished = False

    @override
    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is ir.PartDelta:
                candidate = self._candidates.get(event.candidate)
                if candidate is None or self._finished:
                    continue
                if event.index != candidate.sequencer.open:
                    candidate.sequencer.feed(event)
                    continue
                delta = event.delta
                if (
                    type(delta) is ir.TextDelta or type(delta) is ir.ReasoningDelta
                ) and not candidate.pending_signatures:
                    text = delta.text
                    if text:
                        candidate.pieces.append(text)
                        chunk = candidate.prefix + _json(text) + candidate.suffix
                        out.append(chunk if self._events else encode_frame(chunk, self._inbound_request))
                elif type(delta) is ir.ArgumentsDelta:
                    candidate.pieces.append(delta.text)
                else:
                    self._write(candidate, candidate.delta(delta), out)
            elif not self._finished:
                self._other(event, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def _other(self, event: ir.StreamEvent, out: list[bytes]) -> None:
        match event:
            case ir.PartStarted() | ir.PartEnded():
                candidate = self._candidate(event.candidate)
                try:
                    for part_event in candidate.sequencer.feed(event):
                        self._write(candidate, self._part(candidate, part_event), out)
                except UpstreamProtocolError as error:
                    self._fail(error, out)
            case ir.Finished(candidate=number, finish=finish):
                self._candidate(number).finish = finish
            case ir.UsageReported(usage=usage):
                self._usage = usage
            case ir.Started():
                self._head = head(self._inbound_request.model or event.model, event.id)
                self._usage = event.usage
            case ir.Ended():
                self._end(out)
            case ir.Failed(error=error):
                self._fail(error, out)
            case ir.Passed(protocol="gemini", data=data):
                out.append(encode_frame(data, self._inbound_request))
            case _:  # of another protocol, or already handled
                pass

    def _fail(self, error: GatewayError, out: list[bytes]) -> None:
        self._finished = True
        out.append(encode_frame(error_body(error), self._inbound_request) + encode_end(self._inbound_request))

    def _candidate(self, number: int) -> "_CandidateEncoder":
        found = self._candidates.get(number)
        if found is None:
            found = self._candidates[number] = _CandidateEncoder(number, self._head, events=self._events)
        return found

    def _part(self, candidate: "_CandidateEncoder", event: PartEvent) -> list[JSONObject]:
        match event:
            case ir.PartStarted(part=part):
                return candidate.start(part)
            case ir.PartDelta(delta=delta):
                return candidate.delta(delta)
            case ir.PartEnded(part=part):
                return candidate.end(part)

    def _write(self, candidate: "_CandidateEncoder", parts: list[JSONObject], out: list[bytes]) -> None:
        if parts:
            content = {"content": {"parts": parts, "role": "model"}, "index": candidate.number}
            out.append(encode_frame(_json({"candidates": [content], **self._head}), self._inbound_request))

    def _end(self, out: list[bytes]) -> None:
        self._finished = True
        candidates = [self._candidates[number] for number in sorted(self._candidates)]
        if is_blocked((candidate.finish, candidate.has_parts) for candidate in candidates):
            final: JSONObject = prompt_feedback(candidates[0].finish)
        else:
            final = {"candidates": [candidate.final() for candidate in candidates]}
        if self._usage is not None:
            final["usageMetadata"] = encode_usage(self._usage)
        out.append(
            encode_frame(_json({**final, **self._head}), self._inbound_request) + encode_end(self._inbound_request)
        )


class _CandidateEncoder:
    """The encoder of one candidate; its methods return parts for the next chunk."""

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
        "has_parts",
        "number",
        "pending_signatures",
        "pieces",
        "prefix",
        "sequencer",
        "suffix",
    )

    def __init__(self, number: int, head_fields: JSONObject, *, events: bool) -> None:
        self.number = number
        self.sequencer = PartSequencer()
        self.finish = ir.Finish(reason=ir.FinishReason.UNKNOWN)
        self.has_parts = False
        self.pieces: list[str] = []
        """The pieces of the open part's text, reasoning or arguments."""
        self.pending_signatures: list[str] = []
        """Signatures for the next part that is not a thought."""
        self.prefix = self.suffix = b""
        self._head = head_fields
        self._sse = events
        self._part: ir.Part = ir.Text(text="")
        self._seals: list[ir.Seal] = []
        self._citations: list[ir.Citation] = []
        self._data: list[str] = []
        self._grounding = GroundingEncoder()
        self._bytes = 0
        self._logprobs: list[ir.TokenLogprob] = []

    def start(self, part: ir.Part) -> list[JSONObject]:
        """Start a part."""
        self.has_parts = True
        self._part = part
        self.pieces = []
        self._data = []
        self._seals = list(part.seals)
        self._citations = []
        wire: list[JSONObject] = []
        thought = isinstance(part, ir.Reasoning)
        if thought and self.pending_signatures:
            wire = [bare_signature(signature) for signature in self.pending_signatures]
            self.pending_signatures = []
        if isinstance(part, _TEXT_PARTS):
            self._set_affixes(thought=thought)
            if isinstance(part, ir.Text):
                self._citations = list(part.citations)
            wire += self._write_text(part.text)
        return wire

    def delta(self, delta: object) -> list[JSONObject]:
        """Encode a delta of the open part."""
        match delta:
            case ir.TextDelta(text=text) | ir.ReasoningDelta(text=text) | ir.RefusalDelta(text=text):
                return self._write_text(text)
            case ir.SealDelta(seal=seal):
                self._seals.append(seal)
            case ir.CitationDelta(citation=citation):
                self._citations.append(citation)
            case ir.MediaDelta(data=data):
                self._data.append(data)
            case ir.LogprobsDelta(tokens=tokens):
                self._logprobs += tokens
            case ir.ArgumentsDelta(text=text):
                self.pieces.append(text)
            case _:
                pass
        return []

    def end(self, restated: ir.Part | None) -> list[JSONObject]:
        """End the open part.

        Raises:
            UpstreamProtocolError: The pieces of its data can't be joined.
        """
        part = restated or self._part
        seals = part.seals if restated is not None and restated.seals else self._seals
        signatures = [encode_signature(seal) for seal in seals]
        if isinstance(part, _TEXT_PARTS):
            wire = self._write_text(part.text) if not self.pieces else []
            text = "".join(self.pieces)
            if isinstance(part, ir.Reasoning):
                self.pending_signatures = signatures
                return wire
            self._grounding.add(self._citations or getattr(part, "citations", ()), text, base=self._bytes)
            self._bytes += len(text.encode("utf-8", "surrogatepass"))
            if signatures and not text:
                signatures, self.pending_signatures = [*self.pending_signatures, *signatures], []
            return [*wire, *map(bare_signature, signatures)]
        if restated is None:
            part = self._assembled(part)
        wire_part = encode_part(part)
        if wire_part is None:
            return []
        signatures, self.pending_signatures = [*self.pending_signatures, *signatures], []
        return signed(wire_part, signatures)

    def final(self) -> JSONObject:
        """Encode the candidate for the last chunk, always with content: Google's client drops a message without it."""
        parts = [bare_signature(signature) for signature in self.pending_signatures] or [{"text": ""}]
        fields: JSONObject = {"content": {"parts": parts, "role": "model"}, **finish_fields(self.finish)}
        if self._logprobs:
            fields["logprobsResult"] = encode_logprobs(tuple(self._logprobs))
        return {**fields, "index": self.number, **self._grounding.fields()}

    def _write_text(self, text: str) -> list[JSONObject]:
        if not text:
            return []
        self.pieces.append(text)
        if isinstance(self._part, ir.Reasoning):
            return [{"text": text, "thought": True}]
        signatures, self.pending_signatures = self.pending_signatures, []
        return signed({"text": text}, signatures)

    def _assembled(self, part: ir.Part) -> ir.Part:
        """Build a part from its header and deltas, if the upstream didn't restate it."""
        if isinstance(part, ir.ToolCall):
            return msgspec.structs.replace(part, arguments=part.arguments + "".join(self.pieces))
        if isinstance(part, ir.Media) and any(self._data):
            earlier = [part.source.data] if isinstance(part.source, ir.InlineData) else []
            try:
                data = joined_base64([*earlier, *self._data])
            except ValueError:
                raise UpstreamProtocolError("The upstream sent audio that cannot be decoded.") from None
            return msgspec.structs.replace(part, source=ir.InlineData(data=data))
        return part

    def _set_affixes(self, *, thought: bool) -> None:
        """Set the bytes before and after a text."""
        rest = b"".join(b",%b:%b" % (_json(key), _json(value)) for key, value in self._head.items())
        mark = b',"thought":true' if thought else b""
        head_bytes, tail_bytes = (b"data: ", b"\n\n") if self._sse else (b"", b"")
        self.prefix = head_bytes + b'{"candidates":[{"content":{"parts":[{"text":'
        self.suffix = b'%b}],"role":"model"},"index":%d}]%b}%b' % (mark, self.number, rest, tail_bytes)
