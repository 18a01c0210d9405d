"""A request is decoded at most once, and only when it is needed."""

import json
from typing import Any

import pytest

from llmproxy_asgi.conversation import Request
from llmproxy_asgi.execution.lazy_request import DecodedRequest, LazyRequest
from llmproxy_asgi.translators.base import AnyInbound, InboundRequest
from llmproxy_asgi.translators.registry import translator


def received(protocol: str, **fields: Any) -> tuple[AnyInbound, InboundRequest]:
    inbound = translator(protocol).inbound
    return inbound, inbound.open(json.dumps({"model": "m", **fields}).encode(), headers={})


def test_a_request_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode nothing when it is created, and never twice."""
    inbound, inbound_request = received("openai-chat", messages=[{"role": "user", "content": "hi"}])
    decoded: list[InboundRequest] = []
    decode = type(inbound).decode

    def counted(self: AnyInbound, inbound_request: InboundRequest) -> Any:
        decoded.append(inbound_request)
        return decode(self, inbound_request)

    monkeypatch.setattr(type(inbound), "decode", counted)
    request = LazyRequest(inbound, inbound_request)
    assert decoded == []
    assert request.decode() is request.decode()
    assert decoded == [inbound_request]
    other = request.replaced_by(inbound_request)
    assert other.decode() is not request.decode()


def test_a_batch_is_decoded_prompt_by_prompt() -> None:
    """A list of prompts is a batch; each prompt becomes a request."""
    request = LazyRequest(*received("openai-completions", prompt=["a", "b"]))
    assert request.is_batch
    assert len(request.decode_each()) == 2
    assert not LazyRequest(*received("openai-completions", prompt="a")).is_batch


def test_a_decoded_request_is_itself() -> None:
    """A request made in Python is never encoded or copied."""
    request = Request(protocol="openai-chat", model="m", messages=())
    lazy = DecodedRequest(request)
    assert lazy.decode() is request
    assert not lazy.is_batch
