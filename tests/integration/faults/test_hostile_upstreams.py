"""What an upstream may make the gateway do: calls, candidates, parts and lines are bounded, and no read takes long."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.conversation import MOST_CALLS, MOST_CANDIDATES, MOST_PARTS
from llmproxy_asgi.testing import Scenario, ThreadedUpstream, Upstream, json_answer, sse_answer
from llmproxy_asgi.wire.sse import MAX_LINES, EventTooLarge, FrameSplitter
from support.gateway import chat_answer, chat_delta, served

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
ASKS: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]},
    MESSAGES: {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    RESPONSES: {"model": "m", "stream": True, "input": "hi", "store": False},
}
TRANSLATED = pytest.mark.parametrize("path", [MESSAGES, RESPONSES])


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


@pytest.fixture(scope="module")
def base(upstream: ThreadedUpstream) -> Iterator[str]:
    block = {"type": "openai-compatible", "base_url": upstream.base_url + "/v1", "retry": {"attempts": 1}}
    with served(LLMProxy({"providers": {"up": block}, "access": {"mode": "open"}})) as address:
        yield address


def streamed(*pieces: bytes) -> Scenario:
    return sse_answer(pieces)


def ask(base: str, path: str, **more: Any) -> httpx2.Response:
    return httpx2.post(base + path, json={**ASKS[path], **more}, timeout=60, trust_env=False)


def call(index: int) -> dict[str, Any]:
    return {"index": index, "id": f"c{index}", "type": "function", "function": {"name": "f", "arguments": "{}"}}


FIRST = chat_delta({"role": "assistant", "content": ""})
END = chat_delta({}, "tool_calls") + b"data: [DONE]\n\n"


@TRANSLATED
def test_too_many_calls_in_one_event_end_the_stream(upstream: ThreadedUpstream, base: str, path: str) -> None:
    """As many as may be pass; one more is an error of the upstream's, and nothing of it is shown."""

    def answer(count: int) -> Scenario:
        calls = chat_delta({"tool_calls": [call(number) for number in range(count)]})
        return streamed(FIRST, chat_delta({"content": "x"}), calls, END)

    upstream.default = answer(MOST_CALLS)
    assert f'"c{MOST_CALLS - 1}"' in ask(base, path).text
    upstream.default = answer(MOST_CALLS + 1)
    told = ask(base, path).text
    assert '"c1"' not in told
    assert "error" in told


@TRANSLATED
def test_too_many_calls_in_one_stream_end_it(upstream: ThreadedUpstream, base: str, path: str) -> None:
    """However they are spread over events: the caller reads an error in its own protocol."""
    calls = b"".join(chat_delta({"tool_calls": [call(n)]}) for n in range(MOST_PARTS + 5))
    upstream.default = streamed(FIRST, calls, END)
    told = ask(base, path).text
    assert f"more than {MOST_PARTS} parts" in told
    assert f'"c{MOST_PARTS + 2}"' not in told


def test_too_many_candidates_are_no_answer(upstream: ThreadedUpstream, base: str) -> None:
    """Whole or streamed, translated or passed on, it is a 502."""
    choice = chat_answer("x")["choices"][0]
    many = {**chat_answer("x"), "choices": [{**choice, "index": n} for n in range(MOST_CANDIDATES + 1)]}
    upstream.default = json_answer(200, many)
    for path in (CHAT, MESSAGES):
        assert ask(base, path, stream=False).status_code == 502


@TRANSLATED
def test_too_many_candidates_in_a_stream_end_it(upstream: ThreadedUpstream, base: str, path: str) -> None:
    """However they are spread over events: the caller reads an error in its own protocol."""
    delta = json.loads(chat_delta({"content": "x"}).removeprefix(b"data: "))
    choice = delta["choices"][0]
    chunks = [{**delta, "choices": [{**choice, "index": n}]} for n in range(MOST_CANDIDATES + 1)]
    upstream.default = streamed(*(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks), END)
    assert f"more than {MOST_CANDIDATES} candidates" in ask(base, path).text


@pytest.mark.parametrize("path", ASKS)
def test_a_large_read_comes_whole_and_in_order(upstream: ThreadedUpstream, base: str, path: str) -> None:
    """It is decoded a piece at a time, and nothing of it is lost or turned round."""
    words = [f"word{number} " for number in range(8_000)]
    frames = b"".join(chat_delta({"content": word}) for word in words)
    upstream.default = streamed(FIRST + frames + chat_delta({}, "stop") + b"data: [DONE]\n\n")
    told = ask(base, path).text
    places = [told.index(f'"{word}"') for word in words]
    assert places == sorted(places)


@pytest.mark.parametrize("path", ASKS)
def test_a_large_whole_answer_is_served(upstream: ThreadedUpstream, base: str, path: str) -> None:
    """It is read and written off the event loop, and is the same to the letter."""
    text = "words, and \\ more \u4e2d " * 60_000
    upstream.default = json_answer(200, chat_answer(text))
    got = ask(base, path, stream=False)
    assert got.status_code == 200, got.text[:300]
    assert json.dumps(text, ensure_ascii=False)[1:-1] in json.dumps(got.json(), ensure_ascii=False)


def test_lines_of_one_event_are_bounded() -> None:
    """A long event is of few lines; the rest is refused before it is read."""
    splitter = FrameSplitter()
    lines = b"data: 1\n" * (MAX_LINES - 1)
    assert splitter.complete(lines[:100_000]) == b""
    assert len(splitter.complete(lines[100_000:] + b"\n")) == len(lines) + 1
    with pytest.raises(EventTooLarge):
        FrameSplitter().complete(lines + b"data: 1\n\n")
