"""Encode responses for callers of Completions: complete, and as a stream of chunks that ends with `[DONE]`.

Only text is encoded. A refusal is text like any other here, and its finish is `content_filter`.
"""

from datetime import datetime
from typing import Any

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.codec.parts import CandidateState, NullWriter, PartEncoder, PartWriter
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.errors import encode_error_object
from llmproxy_asgi.translators.openai_chat.mappings import encode_usage

_json = msgspec.json.encode
_PREFIX = "cmpl-"
_WORDS = {
    ir.FinishReason.LENGTH: "length",
    ir.FinishReason.CONTEXT_LENGTH: "length",
    ir.FinishReason.CONTENT_FILTER: "content_filter",
    ir.FinishReason.REFUSAL: "content_filter",
}
"""Finish reasons that are not `stop`."""


def encode_answer(response: ir.Response, inbound_request: InboundRequest) -> bytes:
    """Encode a whole answer, with the model's name as the caller sent it."""
    choices = [_choice(candidate) for candidate in response.candidates]
    head = _head(response.id, response.nonce, response.created_at, inbound_request.model or response.model)
    return _json({**head, "choices": choices, "usage": encode_usage(response.usage)})


def _choice(candidate: ir.Candidate) -> dict[str, Any]:
    text = "".join(part.text for part in candidate.parts if isinstance(part, ir.Text | ir.Refusal))
    return {
        "text": text or _declined(candidate.finish),
        "index": candidate.index,
        "logprobs": None,
        "finish_reason": _word(candidate.finish),
    }


def _head(answer: str, nonce: str, created_at: datetime, model: str) -> dict[str, Any]:
    return {
        "id": answer if answer.startswith(_PREFIX) and len(answer) <= 128 else derived(_PREFIX, answer, nonce),
        "object": "text_completion",
        "created": int(created_at.timestamp()),
        "model": model,
    }


def _word(finish: ir.Finish) -> str:
    return _WORDS.get(finish.reason, "stop")


def _declined(finish: ir.Finish) -> str:
    """Why nothing was said, where the upstream tells."""
    return finish.message or "" if finish.reason is ir.FinishReason.REFUSAL else ""


class _Candidate(CandidateState):
    """The state of one candidate."""

    has_text = False


class CompletionsStreamEncoder(PartEncoder[_Candidate]):
    """The encoder of one stream. Texts can't overlap, because clients see one text."""

    sequenced = (ir.Text, ir.Refusal)

    def __init__(self, inbound_request: InboundRequest) -> None:
        super().__init__()
        self._model = inbound_request.model
        self._include_usage = inbound_request.include_usage
        self._tail = b',"usage":null}\n\n' if inbound_request.include_usage else b"}\n\n"
        self._head = b""

    @override
    def start(self, event: ir.Started) -> None:
        head = _json(_head(event.id, event.nonce, event.created_at, self._model or event.model))
        self._head = b"data: " + head[:-1] + b',"choices":['

    @override
    def start_candidate(self, number: int) -> _Candidate:
        return _Candidate(number)

    @override
    def writer(self, candidate: _Candidate, part: ir.Part) -> PartWriter:
        if not isinstance(part, ir.Text | ir.Refusal):
            return NullWriter(part, self.out)
        writer = _TextWriter(part, self.out, candidate)
        writer.prefix, writer.suffix = self._head + b'{"text":', self._after_text(candidate, b"null")
        return writer

    def _after_text(self, candidate: _Candidate, finish: bytes) -> bytes:
        rest = b',"index":%d,"logprobs":null,"finish_reason":%b}]' % (candidate.number, finish)
        return rest + self._tail

    @override
    def finish(self, candidate: _Candidate) -> None:
        text = "" if candidate.has_text else _declined(candidate.finish)
        end = self._after_text(candidate, _json(_word(candidate.finish)))
        self.out.append(self._head + b'{"text":' + _json(text) + end)

    @override
    def end(self) -> None:
        if self._include_usage and self.usage is not None:
            self.out.append(self._head + b'],"usage":' + _json(encode_usage(self.usage)) + b"}\n\n")
        self.out.append(b"data: [DONE]\n\n")

    @override
    def fail(self, error: GatewayError) -> None:
        self.out.append(b"data: " + encode_error_object(error) + b"\n\n")


class _TextWriter(PartWriter):
    """The writer of text and refusals."""

    def __init__(self, part: ir.Part, out: list[bytes], candidate: _Candidate) -> None:
        super().__init__(part, out)
        self.keeps = False
        self._candidate = candidate

    @override
    def end(self, part: ir.Part) -> None:
        self._candidate.has_text |= bool(self.length)
