"""Encode streams for Google's clients.

Each chunk is a response whose parts are pieces: texts and thoughts continue from chunk to chunk, a call is complete.
So overlapping parts are written in sequence, and calls when they end. The last chunk has the finish reasons of all
candidates, the citations and the usage. Google's own client reads only lines that start with `data: ` and blank lines,
and an error only if it is the first key.

Text is written at once: a prefix that is built once per part, the text as JSON, a suffix.
"""

from collections.abc import Sequence

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.codec.parts import CandidateState, PartEncoder, PartWriter
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
from llmproxy_asgi.translators.gemini.schema import PROTOCOL

_json = msgspec.json.Encoder().encode


class GeminiStreamEncoder(PartEncoder["_Candidate"]):
    """The encoder of one stream."""

    sequenced = (ir.PartBase,)

    def __init__(self, inbound_request: InboundRequest) -> None:
        super().__init__()
        self._inbound_request = inbound_request
        self._head = head(inbound_request.model, "")

    @override
    def start(self, event: ir.Started) -> None:
        self._head = head(self._inbound_request.model or event.model, event.id)

    @override
    def start_candidate(self, number: int) -> "_Candidate":
        return _Candidate(number)

    @override
    def writer(self, candidate: "_Candidate", part: ir.Part) -> PartWriter:
        candidate.has_parts = True
        kind = _TextWriter if isinstance(part, ir.Text | ir.Reasoning | ir.Refusal) else _CompletePartWriter
        return kind(self, candidate, part)

    @override
    def end(self) -> None:
        candidates = [self.candidates[number] for number in sorted(self.candidates)]
        if is_blocked((candidate.finish, candidate.has_parts) for candidate in candidates):
            final: JSONObject = prompt_feedback(candidates[0].finish)
        else:
            final = {"candidates": [candidate.final() for candidate in candidates]}
        if self.usage is not None:
            final["usageMetadata"] = encode_usage(self.usage)
        self._write_chunk(final)
        self.out.append(encode_end(self._inbound_request))

    @override
    def fail(self, error: GatewayError) -> None:
        self.out += (encode_frame(error_body(error), self._inbound_request), encode_end(self._inbound_request))

    @override
    def forward(self, event: ir.Passed) -> None:
        if event.protocol == PROTOCOL:
            self.out.append(encode_frame(event.data, self._inbound_request))

    def write_parts(self, candidate: "_Candidate", parts: list[JSONObject]) -> None:
        """Write parts of a candidate as one chunk."""
        if parts:
            content = {"content": {"parts": parts, "role": "model"}, "index": candidate.number}
            self._write_chunk({"candidates": [content]})

    def _write_chunk(self, fields: JSONObject) -> None:
        self.out.append(encode_frame(_json({**fields, **self._head}), self._inbound_request))

    def affixes(self, candidate: "_Candidate", *, thought: bool) -> tuple[bytes, bytes]:
        """Return the bytes before and after a text; empty if each chunk depends on the one before, as in an array."""
        if isinstance(self._inbound_request, ArrayInboundRequest):
            return b"", b""
        rest = _json(self._head)[1:]
        mark = b',"thought":true' if thought else b""
        return (
            b'data: {"candidates":[{"content":{"parts":[{"text":',
            b'%b}],"role":"model"},"index":%d}],%b\n\n' % (mark, candidate.number, rest),
        )


class _Candidate(CandidateState):
    """The state of one candidate."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.has_parts = False
        self.signatures: list[str] = []
        """Signatures for the next part that is not a thought."""
        self.grounding = GroundingEncoder()
        self.size = 0
        """Bytes of text so far: Google counts the spans of citations in bytes."""
        self.logprobs: list[ir.TokenLogprob] = []

    def take_signatures(self) -> list[str]:
        """Return the pending signatures; the next part doesn't have them."""
        signatures, self.signatures = self.signatures, []
        return signatures

    def final(self) -> JSONObject:
        """Encode the candidate for the last chunk, always with content: Google's client drops a message without it."""
        parts = [*map(bare_signature, self.signatures)] or [{"text": ""}]
        fields: JSONObject = {"content": {"parts": parts, "role": "model"}, **finish_fields(self.finish)}
        if self.logprobs:
            fields["logprobsResult"] = encode_logprobs(tuple(self.logprobs))
        return {**fields, "index": self.number, **self.grounding.fields()}


class _CompletePartWriter(PartWriter):
    """The writer of one part; this base class writes it complete."""

    def __init__(self, encoder: GeminiStreamEncoder, candidate: _Candidate, part: ir.Part) -> None:
        super().__init__(part, encoder.out)
        self.encoder = encoder
        self.state = candidate

    @override
    def write_logprobs(self, tokens: Sequence[ir.TokenLogprob]) -> None:
        self.state.logprobs += tokens

    @override
    def end(self, part: ir.Part) -> None:
        if isinstance(part, ir.ToolCall):
            part = msgspec.structs.replace(part, arguments=self.arguments(part))
        wire = encode_part(self.media(part) if isinstance(part, ir.Media) else part)
        if wire is not None:
            signatures = [*self.state.take_signatures(), *map(encode_signature, self.seals)]
            self.encoder.write_parts(self.state, signed(wire, signatures))


class _TextWriter(_CompletePartWriter):
    """The writer of text, refusals and reasoning."""

    part: ir.Text | ir.Refusal | ir.Reasoning

    @override
    def start(self) -> None:
        if isinstance(self.part, ir.Reasoning) and not self.part.text:
            self.encoder.write_parts(self.state, [*map(bare_signature, self.state.take_signatures())])
        if not self.state.signatures:
            self._set_affixes()
        super().start()

    def _set_affixes(self) -> None:
        self.prefix, self.suffix = self.encoder.affixes(self.state, thought=isinstance(self.part, ir.Reasoning))

    @override
    def write(self, text: str) -> None:
        self.encoder.write_parts(self.state, self._encode(text))
        self._set_affixes()

    def _encode(self, text: str) -> list[JSONObject]:
        signatures = self.state.take_signatures()
        if isinstance(self.part, ir.Reasoning):
            return [*map(bare_signature, signatures), {"text": text, "thought": True}]
        return signed({"text": text}, signatures)

    @override
    def restate(self, text: str) -> None:
        """Leave it to `end`, which writes it and the signatures in one chunk."""

    @override
    def end(self, part: ir.Part) -> None:
        assert isinstance(part, ir.Text | ir.Refusal | ir.Reasoning)
        candidate = self.state
        text = "".join(self.pieces) or part.text
        parts = self._encode(text) if text and not self.pieces else []
        signatures = [*map(encode_signature, self.seals)]
        if isinstance(part, ir.Reasoning):
            candidate.signatures, signatures = signatures, []
        else:
            candidate.grounding.add(self.citations or getattr(part, "citations", ()), text, base=candidate.size)
            candidate.size += len(text.encode("utf-8", "surrogatepass"))
            if signatures and not text:
                signatures = [*candidate.take_signatures(), *signatures]
        self.encoder.write_parts(candidate, [*parts, *map(bare_signature, signatures)])
