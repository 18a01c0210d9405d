"""An executor with fake pools: providers that give prepared answers to the requests of one test."""

import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from llmproxy_asgi.conversation import (
    Batch,
    StreamEvent,
)
from llmproxy_asgi.execution.admission import TargetAdmission
from llmproxy_asgi.execution.attempt import Job
from llmproxy_asgi.execution.executor import Executor
from llmproxy_asgi.execution.lazy_request import DecodedRequest
from llmproxy_asgi.execution.open_response import OpenResponse
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.translators.stream_validator import StreamValidator
from llmproxy_asgi.transport import Pool, UpstreamResponse
from support.answers import FakeAnswer
from support.clock import FakeClock

CHAT, MESSAGES = "openai-chat", "anthropic-messages"
PICTURE = {"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "c2lnbmF0dXJl"}


@dataclass
class SentRequest:
    """One request as a pool received it."""

    provider: str
    key: str
    body: dict[str, Any]


class ExecutorHarness:
    """An executor, its targets, what their providers answer next, and what they were asked."""

    def __init__(self) -> None:
        self.asked: list[SentRequest] = []
        self.answers: dict[str, list[FakeAnswer | Exception | Callable[[], FakeAnswer]]] = {}
        self.given: list[FakeAnswer] = []
        self.clock = FakeClock(at=1000.0)
        self.cooldowns = TargetCooldowns(self.clock)
        self.admission: TargetAdmission | None = None
        self.executor = Executor(
            self.pool,
            self.cooldowns,
            largest_answer=10_000,
            largest_stream=200_000,
            clock=self.clock,
            draw=random.Random(7),
        )

    def target(
        self,
        name: str,
        *answers: FakeAnswer | Exception,
        type: str = "openai-compatible",  # noqa: A002  as in the configuration
        **block: Any,
    ) -> Target:
        """A target whose provider gives these answers; then the test fails."""
        capabilities = block.pop("overrides", None)
        made = provider_class(type)
        config = made.Config(type=type, **{"base_url": "http://127.0.0.1/v1", "api_key": ["key-1"], **block})
        self.answers[name] = list(answers)
        return Target(made(name, config), "upstream-model", client_model="m", overrides=capabilities)

    def pool(self, provider: Provider) -> Pool:
        return FakePool(self, provider.name)

    @property
    def names(self) -> list[str]:
        """The providers that were asked, in order."""
        return [asked.provider for asked in self.asked]


class FakePool(Pool):
    """The connections of one provider, without a socket."""

    def __init__(self, harness: ExecutorHarness, name: str) -> None:
        self._harness = harness
        self._name = name

    @override
    async def open(
        self, method: str, url: Any, headers: Any, body: bytes, *, connect: float, progress: Any = None
    ) -> UpstreamResponse:
        named = {name.decode(): value.decode() for name, value in headers}
        key = named.get("x-api-key") or named.get("authorization", "").removeprefix("Bearer ")
        self._harness.asked.append(SentRequest(self._name, key, json.loads(body)))
        answers = self._harness.answers[self._name]
        assert answers, f"{self._name} was asked more often than it should"
        answer = answers.pop(0)
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        self._harness.given.append(answer)
        return answer


def job(protocol: str = CHAT, *, stream: bool = False, python: bool = False, **fields: Any) -> Job:
    """A call as the engine makes it."""
    body = {"model": "m", "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    inbound = translator(protocol).inbound
    inbound_request = inbound.open(json.dumps(body).encode(), headers={})
    request = inbound.decode(inbound_request)
    return Job(
        protocol=protocol,
        stream=stream,
        request=DecodedRequest(request),
        inbound_request=None if python else inbound_request,
    )


def fine(words: str = "fine") -> FakeAnswer:
    """A whole Chat answer."""
    message = {"role": "assistant", "content": words}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return FakeAnswer(json.dumps({"id": "chatcmpl-1", "created": 1, "model": "u", "choices": choices}).encode())


def frame(**chunk: Any) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "created": 1, "model": "u", **chunk}).encode() + b"\n\n"


def first_frame() -> bytes:
    return frame(choices=[{"index": 0, "delta": {"role": "assistant", "content": "x"}}])


def streamed(*pieces: Any) -> FakeAnswer:
    return FakeAnswer(*pieces, content_type="text/event-stream")


def refused(status: int = 400, message: str = "no", **headers: Any) -> FakeAnswer:
    return FakeAnswer(json.dumps({"error": {"message": message}}).encode(), status=status, **headers)


async def words_of(attempt: OpenResponse) -> str:
    """The words of a whole answer that was passed through; the attempt is closed."""
    whole = attempt.whole
    await attempt.close()
    assert isinstance(whole, Batch)
    assert whole.raw is not None
    content = json.loads(whole.raw)["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


USAGE = {"input_tokens": 10, "output_tokens": 3}


def message(*words: str | dict[str, Any], stop: str = "end_turn", id: str = "msg_1") -> FakeAnswer:  # noqa: A002  as on the wire
    """A whole Messages answer with a text for each of the words."""
    content = [{"type": "text", "text": word} if isinstance(word, str) else word for word in words]
    whole = {"id": id, "type": "message", "model": "u", "content": content, "stop_reason": stop, "usage": USAGE}
    return FakeAnswer(json.dumps(whole).encode())


def message_stream(*words: str, stop: str = "end_turn", size: int = 10_000) -> FakeAnswer:
    """The same as a stream, in pieces of `size` bytes."""
    events = []
    for index, word in enumerate(words):
        events += [text_start(index), *(text_delta(index, letter) for letter in word), text_stop(index)]
    data = message_wire(events, stop)
    return streamed(*(data[at : at + size] for at in range(0, len(data), size)))


def text_start(index: int) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}


def text_delta(index: int, text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


def text_stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def message_wire(events: Sequence[dict[str, Any]], stop: str) -> bytes:
    head = {"type": "message_start", "message": {"id": "msg_1", "usage": USAGE}}
    tail = [{"type": "message_delta", "delta": {"stop_reason": stop}, "usage": USAGE}, {"type": "message_stop"}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in [head, *events, *tail])


async def read(attempt: OpenResponse) -> AsyncIterator[Batch]:
    while (batch := await attempt.next()) is not None:
        yield batch


async def events_of(attempt: OpenResponse) -> list[StreamEvent]:
    """All events of a stream, held to the grammar; the attempt is closed."""
    validator, events = StreamValidator(), []
    async for batch in read(attempt):
        assert batch.events, "a batch tells something"
        for event in batch.events:
            validator.check(event)
            events.append(event)
    assert validator.complete
    await attempt.close()
    return events
