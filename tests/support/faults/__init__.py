"""A gateway on a real socket between a bare HTTP caller and upstreams that are scripted down to the byte.

Callers here know no SDK and never try again; what they read is judged by the protocol they speak.
"""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.facts import CallFinished
from llmproxy_asgi.testing import Scenario, ThreadedUpstream, Upstream
from llmproxy_asgi.wire.sse import Decoder
from support.gateway import served
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, Reply
from support.pairs.asks import QUESTION
from support.pairs.failing import check_error_event
from support.pairs.harness import PATHS
from support.telemetry import RecordingObserver

EVERY = (CHAT, RESPONSES, MESSAGES, GEMINI)
FORMS = (False, True)
"""Whole, and as a stream."""
HANG = 30.0
"""Seconds; a guard against hanging and nothing else."""
FINE = Reply(texts=("all ", "is ", "fine"))
"""An answer that every upstream can give."""

T = TypeVar("T")

_KINDS: dict[str, dict[str, Any]] = {
    CHAT: {"type": "openai-compatible", "protocol": "openai-chat"},
    RESPONSES: {"type": "openai", "protocol": "openai-responses"},
    MESSAGES: {"type": "anthropic"},
    GEMINI: {"type": "gemini"},
}


def block(upstream: ThreadedUpstream | str, protocol: str = CHAT, **more: Any) -> dict[str, Any]:
    """A provider's block: one try, and no cooldown after failures, unless `more` changes that."""
    base = upstream if isinstance(upstream, str) else upstream.base_url
    return {
        **_KINDS[protocol],
        "base_url": base + ("/v1" if protocol in {CHAT, RESPONSES} else ""),
        "api_key": "sk-upstream-secret",
        "models": ["m"],
        "retry": {"attempts": 1, "backoff": "1ms"},
        "cooldown": 0,
        **more,
    }


@dataclass(frozen=True, slots=True)
class Answered:
    """What a caller got."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True
    """Whether the HTTP message was complete."""

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class GatewayHarness:
    """A gateway that is being served.

    Attributes:
        base: Its address.
        observer: What observers were given.
    """

    def __init__(self, base: str, observer: RecordingObserver) -> None:
        self.base = base
        self.observer = observer
        parts = urlsplit(base)
        self.host, self.port = str(parts.hostname), int(parts.port or 0)

    def ask(self, client: str = CHAT, *, stream: bool = False, **more: Any) -> Answered:
        """One small call in a protocol, read to its end."""
        path, body = request(client, stream=stream, **more)
        return self.post(path, json.dumps(body).encode())

    def post(self, path: str, body: bytes, **headers: str) -> Answered:
        """A call by hand."""
        with self.opened(path, body, **headers) as answer:
            try:
                data, whole = answer.read(), True
            except http.client.IncompleteRead as cut:
                data, whole = cut.partial, False
            return Answered(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data, whole)

    @contextmanager
    def opened(self, path: str, body: bytes, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """An answer that has begun; leaving hangs up."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=HANG)
        try:
            connection.request("POST", path, body, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            with answer:
                yield answer
        finally:
            connection.close()

    @contextmanager
    def streaming(self, client: str) -> Iterator[http.client.HTTPResponse]:
        """A stream that has begun."""
        path, body = request(client, stream=True)
        with self.opened(path, json.dumps(body).encode()) as answer:
            assert answer.status == 200
            yield answer

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        """A bare connection."""
        with socket.create_connection((self.host, self.port), timeout=HANG) as connection:
            yield connection

    def finished(self, count: int = 1) -> list[CallFinished]:
        """How calls ended, once so many have; exactly so many, one for each that started."""
        wait_until(lambda: len(self.observer.finished()) >= count)
        return self.observer.finished()


def request(client: str, *, stream: bool = False, model: str = "m", **more: Any) -> tuple[str, dict[str, Any]]:
    """Path and body of a small request."""
    if client == GEMINI:
        return f"/v1beta/models/{model}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}", {
            **QUESTION[GEMINI],
            **more,
        }
    limit = {"max_tokens": 64} if client == MESSAGES else {}
    return PATHS[client], {"model": model, "stream": stream, **limit, **QUESTION[client], **more}


@contextmanager
def gateway(*blocks: dict[str, Any], transport: Any = None, **config: Any) -> Iterator[GatewayHarness]:
    """Served; the providers are asked in the order in which they are given."""
    observer = RecordingObserver()
    providers = {f"up{number}": {"priority": -number, **each} for number, each in enumerate(blocks)}
    settings = {"providers": providers, "access": {"mode": "open"}, **config}
    with served(LLMProxy(settings, transport=transport, observers=[observer])) as base:
        yield GatewayHarness(base, observer)


@contextmanager
def upstreams(count: int, default: Scenario | None = None) -> Iterator[list[ThreadedUpstream]]:
    """So many scripted upstreams."""
    with ExitStack() as stack:
        yield [stack.enter_context(Upstream.in_thread(default=default)) for _ in range(count)]


def fine(protocol: str = CHAT, *, stream: bool = False) -> Scenario:
    """A good answer."""
    return FINE.scenario(protocol, stream=stream)


def is_fine(answer: Answered) -> bool:
    """Whether it holds the good answer, in whatever protocol, streamed or whole."""
    return answer.status == 200 and answer.whole and words(answer) == "all is fine"


def words(answer: Answered) -> str:
    """What an answer says."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return _said(answer.json())
    reader = Decoder()
    frames = [frame.data for frame in [*reader.feed(answer.body), *reader.close()]]
    return "".join(_streamed(json.loads(data)) for data in frames if data != b"[DONE]")


def _said(whole: Any) -> str:
    if "choices" in whole:
        return str(whole["choices"][0]["message"]["content"])
    if "candidates" in whole:
        return "".join(part["text"] for part in whole["candidates"][0]["content"]["parts"])
    if "output" in whole:
        return "".join(part["text"] for item in whole["output"] for part in item["content"])
    return "".join(part["text"] for part in whole["content"])


def _streamed(event: Any) -> str:
    if "choices" in event:
        return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    if "candidates" in event:
        parts = event["candidates"][0].get("content", {}).get("parts", [])
        return "".join(part.get("text", "") for part in parts)
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    if event.get("type") == "content_block_delta":
        return str(event["delta"].get("text", ""))
    return ""


def is_refusal(client: str, answer: Answered, status: int) -> bool:
    """Whether it is an error of this status in the words of the caller's protocol."""
    if answer.status != status or not answer.whole or not answer.headers["content-type"].startswith("application/json"):
        return False
    body = answer.json()
    error = body["error"]
    if client == MESSAGES:
        return body["type"] == "error" and bool(error["type"] and error["message"])
    if client == GEMINI:
        return error["code"] == status and bool(error["status"] and error["message"])
    return {"message", "type", "param", "code"} <= error.keys() and bool(error["message"])


def ends_badly(client: str, answer: Answered) -> bool:
    """Whether a stream that began ends with its protocol's error event, and nothing says that it is whole."""
    assert answer.status == 200
    assert answer.whole
    for sign in ("[DONE]", "message_stop", "response.completed", '"finish_reason":"', "finishReason"):
        assert sign not in answer.text.replace(" ", ""), answer.text
    *_, last = answer.text.rstrip().replace("\r", "").split("\n\n")
    check_error_event(client, last)
    return True


def at_once(call: Callable[..., T], *cases: Iterable[Any]) -> list[T]:
    """A call for each combination of the cases, all at the same time; what they gave, in order."""
    combined = list(product(*cases))
    with ThreadPoolExecutor(len(combined)) as pool:
        return list(pool.map(lambda case: call(*case), combined))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; it will be, or the test is wrong."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)
