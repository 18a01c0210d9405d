"""What is set aside for a call: cheap, bounded by the request's own word, and never led astray by a picture."""

import base64
import json
from typing import Any

import pytest

from llmproxy_asgi.conversation import Batch, PartDelta, TextDelta
from llmproxy_asgi.execution.attempt import Job
from llmproxy_asgi.execution.lazy_request import LazyRequest
from llmproxy_asgi.execution.tokens import DEFAULT_OUTPUT_TOKENS, INLINE_MEDIA_TOKENS, estimate_tokens, streamed_tokens
from llmproxy_asgi.translators.registry import translator

HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


def job(protocol: str, body: dict[str, Any], path: dict[str, str] | None = None) -> Job:
    inbound = translator(protocol).inbound
    inbound_request = inbound.open(json.dumps(body).encode(), headers={}, path=path or {})
    return Job(
        protocol=protocol,
        stream=False,
        request=LazyRequest(inbound, inbound_request),
        inbound_request=inbound_request,
    )


@pytest.mark.parametrize(
    ("protocol", "body", "output"),
    [
        ("openai-chat", {"messages": HI}, DEFAULT_OUTPUT_TOKENS),
        ("openai-chat", {"messages": HI, "max_tokens": 50}, 50),
        ("openai-chat", {"messages": HI, "max_tokens": 50, "max_completion_tokens": 70}, 70),
        ("openai-chat", {"messages": HI, "max_tokens": None}, DEFAULT_OUTPUT_TOKENS),
        ("openai-responses", {"input": "hi", "max_output_tokens": 90}, 90),
        ("anthropic-messages", {"messages": HI, "max_tokens": 64_000}, 64_000),
        ("openai-completions", {"prompt": "hi", "max_tokens": 7}, 7),
        ("gemini", {"contents": [{"parts": [{"text": "hi"}]}]}, DEFAULT_OUTPUT_TOKENS),
        ("gemini", {"contents": [], "generationConfig": {"maxOutputTokens": 30}}, 30),
        ("gemini", {"contents": [], "generation_config": {"max_output_tokens": 31}}, 31),
        ("gemini", {"contents": [], "generationConfig": {"maxOutputTokens": "many"}}, DEFAULT_OUTPUT_TOKENS),
        ("gemini", {"contents": [], "generationConfig": {"maxOutputTokens": -(10**9)}}, 0),
        ("openai-embeddings", {"input": "hi"}, 0),
    ],
)
def test_an_answer_is_as_long_as_the_request_allows(protocol: str, body: dict[str, Any], output: int) -> None:
    """Each protocol's own field says how much is set aside for the answer."""
    path = {"model": "m", "method": "generateContent"} if protocol == "gemini" else {}
    asked = body if protocol == "gemini" else {"model": "m", **body}
    size = estimate_tokens(job(protocol, asked, path))
    assert size.output == output
    assert size.input == len(json.dumps(asked)) // 4


def test_a_request_made_in_python_is_weighed_too() -> None:
    """Without bytes, what was said and how long the answer may be are known all the same."""
    made = job("openai-chat", {"model": "m", "messages": HI * 100, "max_tokens": 50})
    size = estimate_tokens(Job(protocol="openai-chat", stream=False, request=made.request))
    assert size.output == 50
    assert size.input > 100


def test_a_picture_counts_the_same_however_large_it_is() -> None:
    """Three megabytes of a picture are no million tokens; a long text is as long as it is."""
    data = base64.b64encode(bytes(range(256)) * 12_000).decode()
    text = "some words of a long text " * 4_000
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": text},
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    size = estimate_tokens(job("openai-chat", body))
    assert INLINE_MEDIA_TOKENS + len(text) // 4 <= size.input < INLINE_MEDIA_TOKENS + len(text) // 4 + 100


def test_what_passes_is_weighed_by_its_text_or_by_its_frames() -> None:
    """Events tell their texts; of a passed-through read only the length is known."""
    events = [PartDelta(0, 0, TextDelta("four" * 10)), PartDelta(0, 0, TextDelta("four"))]
    assert streamed_tokens(Batch(events)) == 11
    assert streamed_tokens(Batch((), b"x" * 250)) == 2.5
