"""Encode a stream for callers of Chat Completions: unnamed chunks, usage last, `[DONE]`.

The rules follow the behaviour of the official client's accumulator, which was tested: it appends strings, so role, call
ids and names are sent once; calls are numbered from 0 without gaps; objects in lists have an integer index or come in
one chunk only; a later chunk without usage erases it. Deltas are written from prefixes that are built once, because a
stream consists almost only of deltas.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.codec.parts import CandidateState, PartEncoder, PartWriter
from llmproxy_asgi.translators.openai.errors import encode_error_object
from llmproxy_asgi.translators.openai.mappings import TIER_OUT
from llmproxy_asgi.translators.openai_chat.mappings import (
    answer_id,
    encode_annotation,
    encode_finish,
    encode_image,
    encode_logprobs,
    encode_usage,
)
from llmproxy_asgi.translators.openai_chat.reasoning import call_extras, seal_entry

_json = msgspec.json.encode
_DONE = b"data: [DONE]\n\n"


class _Choice(CandidateState):
    """The state of one candidate."""

    def __init__(self, number: int, opened: bytes) -> None:
        super().__init__(number)
        self.opened = opened
        """A chunk up to the fields of its delta."""
        self.refused = False
        self.length = 0
        """Code points of the ended texts: annotations count from the message's start."""
        self.annotations: list[dict[str, Any]] = []
        self.calls = self.entries = self.images = 0

    def entry(self) -> int:
        """Return the index of a new entry of `reasoning_details`."""
        self.entries += 1
        return self.entries - 1


class ChatStreamEncoder(PartEncoder[_Choice]):
    """The encoder of one stream. Texts can't overlap, because clients see one text."""

    sequenced = (ir.Text,)

    def __init__(self, inbound_request: InboundRequest) -> None:
        super().__init__()
        raw = inbound_request.raw
        self._model = inbound_request.model
        self.legacy = "functions" in raw and "tools" not in raw
        self._include_usage = inbound_request.include_usage
        self.tail = b',"usage":null}\n\n' if inbound_request.include_usage else b"}\n\n"
        self.delta_end = b'},"logprobs":null,"finish_reason":null}]' + self.tail
        self._head = b""

    @override
    def start(self, event: ir.Started) -> None:
        self._head = self._encode_head(event.id, event.created_at, event)
        self.candidate(0)

    def _encode_head(self, answer: str, created_at: datetime, event: ir.Started | None = None) -> bytes:
        head: dict[str, Any] = {
            "id": answer_id(answer, event.nonce if event else ""),
            "object": "chat.completion.chunk",
            "created": int(created_at.timestamp()),
            "model": self._model or (event.model if event else ""),
        }
        if self.tier is not None and self.tier in TIER_OUT:
            head["service_tier"] = TIER_OUT[self.tier]
        return b"data: " + _json(head)[:-1] + b',"choices":['

    @override
    def start_candidate(self, number: int) -> _Choice:
        """Write the role first, and index 0 first, as the official client needs."""
        if not self._head:
            self._head = self._encode_head("", datetime.fromtimestamp(0, UTC))
        if number:
            self.candidate(0)
        choice = _Choice(number, self._head + b'{"index":%d,"delta":{' % number)
        self.write(choice, b'"role":"assistant","content":""')
        return choice

    @override
    def writer(self, candidate: _Choice, part: ir.Part) -> PartWriter:
        return _WRITERS.get(type(part), _UnsupportedWriter)(self, candidate, part)

    @override
    def finish(self, candidate: _Choice) -> None:
        finish = candidate.finish
        if finish.reason is ir.FinishReason.REFUSAL and finish.message and not (candidate.length or candidate.refused):
            self.write(candidate, b'"refusal":' + _json(finish.message))
            candidate.refused = True
        if candidate.annotations:
            self.write(candidate, b'"annotations":' + _json(candidate.annotations))
        word = encode_finish(finish.reason, refused=candidate.refused, legacy=self.legacy)
        self.out.append(candidate.opened + b'},"logprobs":null,"finish_reason":"' + word.encode() + b'"}]' + self.tail)

    @override
    def end(self) -> None:
        if self._include_usage and self.usage is not None:
            tier = b""
            if self.tier is not None and self.tier in TIER_OUT and b'"service_tier":' not in self._head:
                tier = b',"service_tier":' + _json(TIER_OUT[self.tier])
            self.out.append(self._head + b'],"usage":' + _json(encode_usage(self.usage)) + tier + b"}\n\n")
        self.out.append(_DONE)

    @override
    def fail(self, error: GatewayError) -> None:
        self.out.append(b"data: " + encode_error_object(error) + b"\n\n")

    def write(self, choice: _Choice, fields: bytes) -> None:
        """Write a chunk with fields of a candidate's delta."""
        self.out.append(choice.opened + fields + self.delta_end)


class _ChatPartWriter(PartWriter):
    """The writer of one part; this base class writes its seals."""

    call_id: str | None = None

    def __init__(self, encoder: ChatStreamEncoder, choice: _Choice, part: ir.Part) -> None:
        super().__init__(part, encoder.out)
        self.keeps = False
        self.encoder = encoder
        self.choice = choice
        self.sealed = False
        self.entry = -1
        """The index of the unsealed entry of `reasoning_details`."""
        self.field = "summary" if isinstance(part, ir.Reasoning) and part.style == "summary" else "text"

    def write_fields(self, fields: bytes) -> None:
        """Write fields of the candidate's delta."""
        self.encoder.write(self.choice, fields)

    @override
    def start(self) -> None:
        super().start()
        seals, self.seals = self.seals, []
        for seal in seals:
            self.seal(seal)

    @override
    def seal(self, seal: ir.Seal) -> None:
        self.sealed = True
        continues, number = None, self.entry
        if seal.kind == "signature" and self.entry >= 0:
            continues, self.entry = self.field, -1
        else:
            number = self.choice.entry()
        entry = seal_entry(seal, number, continues=continues, call_id=self.call_id)
        self.write_fields(b'"reasoning_details":[' + _json(entry) + b"]")

    @override
    def write_logprobs(self, tokens: Sequence[ir.TokenLogprob]) -> None:
        fields = b'},"logprobs":' + _json(encode_logprobs(tokens)) + b',"finish_reason":null}]'
        self.out.append(self.choice.opened + fields + self.encoder.tail)

    @override
    def end(self, part: ir.Part) -> None:
        for seal in () if self.sealed else self.seals:
            self.seal(seal)


class _UnsupportedWriter(_ChatPartWriter):
    """The writer of a part that this protocol can't express."""

    @override
    def start(self) -> None:
        pass


class _TextWriter(_ChatPartWriter):
    @override
    def start(self) -> None:
        self.prefix, self.suffix = self.choice.opened + b'"content":', self.encoder.delta_end
        super().start()

    @override
    def cite(self, citation: ir.Citation) -> None:
        begin = self.choice.length
        entry = encode_annotation(citation, begin, begin + self.length)
        if entry is not None:
            self.choice.annotations.append(entry)

    @override
    def end(self, part: ir.Part) -> None:
        self.choice.length += self.length
        super().end(part)


class _RefusalWriter(_ChatPartWriter):
    @override
    def start(self) -> None:
        self.choice.refused = True
        self.prefix, self.suffix = self.choice.opened + b'"refusal":', self.encoder.delta_end
        super().start()


class _ReasoningWriter(_ChatPartWriter):
    """The writer of reasoning, under both names that clients read, and by part for those that send it back."""

    @override
    def start(self) -> None:
        self._first = self.choice.opened + b'"reasoning_content":'
        super().start()

    @override
    def write(self, text: str) -> None:
        if self.entry < 0:
            self.entry, field = self.choice.entry(), self.field.encode()
            self._between = b',"reasoning_details":[{"index":%d,"type":"reasoning.%b","%b":' % (
                self.entry,
                field,
                field,
            )
        encoded = _json(text)
        end = self.encoder.delta_end
        self.out += (self._first, encoded, b',"reasoning":', encoded, self._between, encoded, b"}]", end)


class _CallWriter(_ChatPartWriter):
    part: ir.ToolCall

    @override
    def start(self) -> None:
        part, choice = self.part, self.choice
        self.call_id = part.call_id
        self._number, choice.calls = choice.calls, choice.calls + 1
        if self.encoder.legacy:
            self.write_fields(b'"function_call":' + _json({"name": part.name, "arguments": ""}))
            self.prefix = choice.opened + b'"function_call":{"arguments":'
            self.suffix = b"}" + self.encoder.delta_end
        else:
            field = "input" if part.kind == "custom" else "arguments"
            head: dict[str, Any] = {"index": self._number, "id": part.call_id, "type": part.kind}
            head[part.kind] = {"name": part.name, field: ""}
            extra = call_extras(part.seals)
            if extra is not None:
                head["extra_content"] = extra
            self.write_fields(b'"tool_calls":[' + _json(head) + b"]")
            place = (self._number, part.kind.encode(), field.encode())
            self.prefix = choice.opened + b'"tool_calls":[{"index":%d,"%b":{"%b":' % place
            self.suffix = b"}}]" + self.encoder.delta_end
        for seal in part.seals:
            super().seal(seal)
        self.add(part.arguments)

    @override
    def seal(self, seal: ir.Seal) -> None:
        extra = call_extras((seal,)) if self.part.kind == "function" and not self.encoder.legacy else None
        if extra is not None:
            # The official client needs a function in each delta of a function call.
            entry = {"index": self._number, "function": {"arguments": ""}, "extra_content": extra}
            self.write_fields(b'"tool_calls":[' + _json(entry) + b"]")
        super().seal(seal)


class _MediaWriter(_ChatPartWriter):
    """The writer of audio, piece by piece, and of images, which clients need complete."""

    part: ir.Media

    @override
    def write_media(self, delta: ir.MediaDelta) -> None:
        super().write_media(delta)
        if self.part.kind == "audio":
            # The id is sent once: the client appends strings.
            self._write_audio(self.part.id if len(self.data) == 1 else None, delta.data, delta.transcript)

    def _write_audio(self, audio_id: str | None, data: str, transcript: str | None) -> None:
        audio = {"id": audio_id, "data": data, "transcript": transcript}
        self.write_fields(b'"audio":' + _json({key: value for key, value in audio.items() if value}))

    @override
    def end(self, part: ir.Part) -> None:
        assert isinstance(part, ir.Media)
        if part.kind == "image":
            media = self.media(part)
            entry = encode_image(media, media.source, self.choice.images)
            self.choice.images += 1
            self.write_fields(b'"images":[' + _json(entry) + b"]")
        elif part.kind == "audio" and not self.data and isinstance(part.source, ir.InlineData):
            self._write_audio(part.id, part.source.data, part.transcript)
        super().end(part)


_WRITERS: Mapping[type[ir.PartBase], type[_ChatPartWriter]] = {
    ir.Text: _TextWriter,
    ir.Reasoning: _ReasoningWriter,
    ir.Refusal: _RefusalWriter,
    ir.ToolCall: _CallWriter,
    ir.Media: _MediaWriter,
}
