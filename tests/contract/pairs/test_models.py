"""The list of models in each vendor's shape, and whose key is whose."""

import logging
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import Upstream
from support.gateway import served
from support.pairs import KEY, MESSAGES, PairHarness, ProtocolPair, Reply, gateway_config
from support.pairs.asks import QUESTION
from support.pairs.parameters import CHAT_AND_MESSAGES, pairs

OTHER_KEY = "llmp_another-key-0123456789"


@pytest.mark.fidelity(99)
def test_each_sdk_lists_and_finds_models() -> None:
    """A bare Bearer gets OpenAI's shape, `anthropic-version` gets Anthropic's; both SDKs list, and find one by name."""
    with Upstream.in_thread() as upstream:
        config = gateway_config(upstream, models=["small", "large"])
        with (
            served(LLMProxy(config)) as base,
            openai.OpenAI(base_url=base + "/v1", api_key=KEY, max_retries=0) as chat,
            anthropic.Anthropic(base_url=base, api_key=KEY, max_retries=0) as messages,
        ):
            assert {"small", "large"} <= {model.id for model in chat.models.list()}
            found = chat.models.retrieve("openai/large")
            assert (found.id, found.object) == ("openai/large", "model")
            assert {"small", "large"} <= {model.id for model in messages.models.list()}
            shown = messages.models.retrieve("anthropic/large")
            assert (shown.id, shown.type) == ("anthropic/large", "model")
            with pytest.raises(openai.NotFoundError):
                chat.models.retrieve("nothing")
            with pytest.raises(anthropic.NotFoundError):
                messages.models.retrieve("nothing")
    assert upstream.requests == []


def sent(harness: PairHarness, pair: ProtocolPair, **headers: str) -> httpx2.Response:
    limit = {"max_tokens": 9} if pair.client == MESSAGES else {}
    return harness.post(pair, {"model": harness.model(pair), **limit, **QUESTION[pair.client]}, **headers)


@pytest.mark.fidelity(103)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "", "x-api-key": KEY}, {"x-api-key": KEY}],
    ids=["bearer", "x-api-key", "both-the-same"],
)
@pytest.mark.parametrize("pair", pairs(stream=False, among=CHAT_AND_MESSAGES))
def test_a_key_in_any_header_is_the_same_caller(
    harness: PairHarness, pair: ProtocolPair, headers: dict[str, str]
) -> None:
    """One key, in either header or in both, is let in; and it is never what the upstream gets."""
    harness.play(Reply(texts=("Fine.",)).scenario(pair.upstream, stream=False))
    assert sent(harness, pair, **headers).status_code == 200
    received: Any = harness.received
    assert KEY not in str(received.headers)
    assert KEY.encode() not in received.body


@pytest.mark.fidelity(103)
@pytest.mark.parametrize("pair", pairs(stream=False, among=CHAT_AND_MESSAGES))
def test_two_different_keys_are_nobody(
    harness: PairHarness, pair: ProtocolPair, caplog: pytest.LogCaptureFixture
) -> None:
    """A request with two different keys is refused, and neither key is logged."""
    caplog.set_level(logging.DEBUG)
    answer = sent(harness, pair, **{"x-api-key": OTHER_KEY})
    assert answer.status_code == 401
    assert harness.upstream.requests == []
    logged = [record for record in caplog.records if record.name.startswith("llmproxy")]
    assert not [record for record in logged if KEY in record.getMessage() or OTHER_KEY in record.getMessage()]
    assert KEY not in answer.text
    assert OTHER_KEY not in answer.text


@pytest.mark.fidelity(103)
@pytest.mark.parametrize("pair", pairs(stream=False, among=CHAT_AND_MESSAGES))
def test_a_wrong_key_is_the_sdks_authentication_error(harness: PairHarness, pair: ProtocolPair) -> None:
    """An unknown key raises the SDK's own class for it."""
    wrong = {"Authorization": f"Bearer {OTHER_KEY}"}
    with pytest.raises((openai.AuthenticationError, anthropic.AuthenticationError)):
        harness.ask(pair, **QUESTION[pair.client], extra_headers=wrong)
    assert harness.upstream.requests == []
