"""Whole answers of very many values are refused on their bytes; the largest honest ones pass and are read."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from llmproxy_asgi.conversation import Candidate, Finish, FinishReason, Response, Text, TokenLogprob
from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.answer_bounds import MOST_VALUES, SMALL, refuse_crowded
from llmproxy_asgi.translators.base import InboundRequest, Upstream, UpstreamRequest
from llmproxy_asgi.translators.registry import translator
from support.large_answers import HOSTILE, LARGEST, Made

MIB = 2**20
UPSTREAM = Upstream(provider="p", model="m", client_model="asked", issuer="i")


def every(table: dict[str, dict[str, Made]]) -> list[tuple[str, str]]:
    return [(protocol, name) for protocol, shapes in table.items() for name in shapes]


@pytest.mark.parametrize(("protocol", "name"), every(HOSTILE))
def test_too_many_values_are_refused_before_they_are_read(protocol: str, name: str) -> None:
    """Wherever they stand: entries of the answer itself, log probabilities that are none, unknown members."""
    body = HOSTILE[protocol][name](14 * MIB)
    with pytest.raises(UpstreamProtocolError, match=f"too many JSON values: at most {MOST_VALUES}"):
        refuse_crowded(body, translator(protocol).outbound.many)


@pytest.mark.parametrize(("protocol", "name"), every(LARGEST))
def test_the_largest_honest_answers_pass(protocol: str, name: str) -> None:
    """Long texts, log probabilities and vectors hold more values, and are read or passed on."""
    body = LARGEST[protocol][name](14 * MIB)
    outbound = translator(protocol).outbound
    refuse_crowded(body, outbound.many)
    passed = outbound.passthrough_response(body, InboundRequest(protocol=protocol, model="asked", raw={}), UPSTREAM)
    assert len(passed.raw or b"") > 13 * MIB


@pytest.mark.parametrize("protocol", ["openai-chat", "openai-responses", "gemini"])
def test_large_log_probabilities_are_read_one_by_one(protocol: str) -> None:
    """As those of a small answer are: each token with its alternatives."""
    body = LARGEST[protocol]["log probabilities"](2 * MIB)
    sent = UpstreamRequest(body=b"{}", stream=False)
    answer = translator(protocol).outbound.decode(body, sent, UPSTREAM, received_at=datetime.now(UTC))
    assert isinstance(answer, Response)
    tokens = answer.candidates[0].logprobs
    assert len(tokens) == body.count(b'"top_logprobs"') + body.count(b'"candidates":[{"token"')
    assert {(token.token, token.logprob, len(token.top)) for token in tokens} == {(" hello", -0.123456789, 20)}


def test_the_bound_itself_is_allowed_and_short_answers_are_not_counted() -> None:
    """As many values as may be pass; one more is refused; what is short is read whatever it holds."""

    def body(values: int) -> bytes:
        return b'{"x":"' + b"x" * SMALL + b'","y":[' + b",".join([b"1"] * (values - 2)) + b"]}"

    refuse_crowded(body(MOST_VALUES), ())
    with pytest.raises(UpstreamProtocolError):
        refuse_crowded(body(MOST_VALUES + 1), ())
    refuse_crowded(b"[" + b"{}," * (SMALL // 3 - 2) + b"{}]", ())


@pytest.mark.parametrize("protocol", ["openai-chat", "openai-responses", "gemini"])
def test_large_log_probabilities_are_encoded_one_by_one(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call encodes many of them: it would hold the interpreter for as long as all of them take."""
    tokens = (TokenLogprob(token="x", logprob=-0.5, top=(TokenLogprob(token="y", logprob=-0.5),) * 20),) * 2_000
    candidate = Candidate(index=0, parts=(Text(text="x"),), finish=Finish(reason=FinishReason.STOP), logprobs=tokens)
    response = Response(id="r", model="m", created_at=datetime.now(UTC), candidates=(candidate,))
    values: list[int] = []
    encode = msgspec.json.encode

    def counted(value: object, **options: Any) -> bytes:
        values.append(count(value))
        return encode(value, **options)

    monkeypatch.setattr(msgspec.json, "encode", counted)
    asked = InboundRequest(protocol=protocol, model="asked", raw={})
    body = translator(protocol).inbound.encode(response, asked)
    assert len(body) > 1_000_000
    assert max(values) < 50_000


def count(value: object) -> int:
    """Count the JSON values of an object; bytes are copied, and count as one."""
    if isinstance(value, dict):
        return 1 + sum(map(count, value.values()))
    return 1 + sum(map(count, value)) if isinstance(value, list | tuple) else 1


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        ("openai-embeddings", b'{"object":"list","model":"m","data":[{"index":0,"embedding":%b}]}'),
        ("gemini-embeddings", b'{"embeddings":[{"values":%b}]}'),
    ],
)
@pytest.mark.parametrize("vector", [b'"%b"', b"[0.1%b]", b"[1%b]"])
def test_a_vector_of_megabytes_is_refused_by_its_length(protocol: str, body: bytes, vector: bytes) -> None:
    """Before it is decoded, and also where its bytes would pass through."""
    outbound = translator(protocol).outbound
    body %= vector % (b"0" * 5 * MIB)
    sent = UpstreamRequest(body=b'{"input":["x"],"requests":[{}]}', stream=False)
    with pytest.raises(UpstreamProtocolError, match="an embedding of more than 4 MiB"):
        outbound.decode(body, sent, UPSTREAM, received_at=datetime.now(UTC))
    asked = InboundRequest(protocol=protocol, model="asked", raw={})
    with pytest.raises(UpstreamProtocolError, match="an embedding of more than 4 MiB"):
        outbound.passthrough_response(body, asked, UPSTREAM)
