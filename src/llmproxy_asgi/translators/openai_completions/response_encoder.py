"""Answers as completions' callers read them: whole, and as a stream of chunks that ends with `[DONE]`.

Only words are told. A refusal's words are text like any other here, and its finish is `content_filter`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import InboundRequest, StreamEncoder
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
    """A whole answer, with the model's name as it was asked for."""
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


class CompletionsStreamEncoder(StreamEncoder):
    """Writes one stream."""

    def __init__(self, inbound_request: InboundRequest) -> None:
        self._model = inbound_request.model
        self._asked_usage = inbound_request.include_usage
        self._tail = b',"usage":null}\n\n' if inbound_request.include_usage else b"}\n\n"
        self._head = b""
        self._written: set[tuple[int, int]] = set()
        """Parts of which anything was told, by candidate and index."""
        self._usage: ir.Usage | None = None
        self._over = False

    @override
    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self._over:
                break
            match event:
                case ir.PartDelta(candidate=candidate, index=index, delta=ir.TextDelta() | ir.RefusalDelta() as delta):
                    self._write_text(candidate, index, delta.text, out)
                case ir.PartStarted(candidate=candidate, index=index, part=ir.Text() | ir.Refusal() as part):
                    self._write_text(candidate, index, part.text, out)
                case ir.PartEnded(candidate=candidate, index=index, part=part):
                    self._restate(candidate, index, part, out)
                case ir.Started(id=answer, created_at=created_at, model=model, usage=usage, nonce=nonce):
                    head = _json(_head(answer, nonce, created_at, self._model or model))
                    self._head = b"data: " + head[:-1] + b',"choices":['
                    self._usage = usage
                case ir.Finished(candidate=candidate, finish=finish):
                    self._finish(candidate, finish, out)
                case ir.UsageReported(usage=usage):
                    self._usage = usage
                case ir.Failed() | ir.Ended():
                    self._end(event, out)
                case _:  # this protocol has no reasoning, calls or media
                    pass
        return b"".join(out)

    def _write_text(self, candidate: int, index: int, text: str, out: list[bytes]) -> None:
        if text:
            self._written.add((candidate, index))
            self._write(candidate, text, b"null", out)

    def _restate(self, candidate: int, index: int, part: ir.Part | None, out: list[bytes]) -> None:
        """Write a part whose text was not streamed."""
        if isinstance(part, ir.Text | ir.Refusal) and (candidate, index) not in self._written:
            self._write_text(candidate, index, part.text, out)

    def _finish(self, candidate: int, finish: ir.Finish, out: list[bytes]) -> None:
        has_text = any(each == candidate for each, _ in self._written)
        self._write(candidate, "" if has_text else _declined(finish), _json(_word(finish)), out)

    def _end(self, event: ir.Failed | ir.Ended, out: list[bytes]) -> None:
        self._over = True
        if isinstance(event, ir.Failed):
            out.append(b"data: " + encode_error_object(event.error) + b"\n\n")
            return
        if self._asked_usage and self._usage is not None:
            out.append(self._head + b'],"usage":' + _json(encode_usage(self._usage)) + b"}\n\n")
        out.append(b"data: [DONE]\n\n")

    def _write(self, candidate: int, text: str, finish: bytes, out: list[bytes]) -> None:
        choice = b'{"text":%b,"index":%d,"logprobs":null,"finish_reason":%b}]' % (_json(text), candidate, finish)
        out.append(self._head + choice + self._tail)
