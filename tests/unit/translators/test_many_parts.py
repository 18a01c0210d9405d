"""Conversations of very many small parts are read and written in time that grows with their length alone.

Measured is the processor time of this thread. Each case takes well under a second; where every part were compared with
every other it would take a minute, and it blocks the event loop.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from llmproxy_asgi.conversation import EMPTY, UNDATED, Message, Request, Seal, Text, ToolCall, ToolResult
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.pairing import merge
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.translators.seals import wrap
from llmproxy_asgi.wire.json_body import Bounds

LIMIT = 10.0
WIDE = Bounds(values=10**7, messages=10**6, tools=10**6)  # what is slow shows only beyond the usual bounds
FOREIGN = Seal(issuer="other", kind="signature", data="state")


def quickly(work: Callable[[], Any]) -> Any:
    """What it gives, if it does not take forever."""
    began = time.thread_time()
    given = work()
    assert time.thread_time() - began < LIMIT
    return given


def read(protocol: str, body: dict[str, Any]) -> tuple[Message, ...]:
    inbound = translator(protocol).inbound
    path = {"model": "m", "method": "generateContent"} if protocol == "gemini" else EMPTY
    inbound_request = inbound.open(msgspec.json.encode(body), headers={}, path=path, bounds=WIDE)
    messages: tuple[Message, ...] = quickly(lambda: inbound.decode(inbound_request)).messages
    return messages


def from_google(*contents: dict[str, Any]) -> tuple[Message, ...]:
    return read("gemini", {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, *contents]})


def from_anthropic(*turns: dict[str, Any]) -> tuple[Message, ...]:
    return read("anthropic-messages", {"model": "m", "max_tokens": 9, "messages": [*turns]})


def model(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "model", "parts": [*parts]}


def written(protocol: str, *messages: Message) -> dict[str, Any]:
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p")
    request = Request(protocol="made-up", model="m", messages=messages)
    body: dict[str, Any] = msgspec.json.decode(
        quickly(lambda: translator(protocol).outbound.encode(request, upstream)).body
    )
    return body


def test_results_find_their_calls() -> None:
    """Google's results in any order, with ids and without, each answer a call of theirs."""
    many = 30_000
    calls = [{"functionCall": {"name": "f", "id": f"c{number}"}} for number in range(many)]
    named = [{"functionResponse": {"name": "f", "id": f"c{number}"}} for number in reversed(range(0, many, 2))]
    nameless = [{"functionResponse": {"name": "f"}}] * (many // 2)
    results = from_google(model(*calls), {"role": "user", "parts": [*named, *nameless]})[-1].parts
    answered = [part.call_id for part in results if isinstance(part, ToolResult)]
    assert answered[: many // 2] == [f"c{number}" for number in reversed(range(0, many, 2))]
    assert answered[many // 2 :] == [f"c{number}" for number in range(1, many, 2)]


def test_contents_of_the_model_are_one_message() -> None:
    """Pieces that Google's clients send back one by one, each in a content of its own, are one text."""
    many = 60_000
    assert from_google(*[model({"text": "a"})] * many)[1:] == (
        Message(role="assistant", parts=(Text(text="a" * many),)),
    )


def test_long_pieces_are_joined_once() -> None:
    """Pieces of one content are one text, and thoughts are one thought."""
    piece = "word" * 250
    parts: list[dict[str, Any]] = [*[{"text": piece, "thought": True}] * 20_000, *[{"text": piece}] * 20_000]
    thought, text = from_google(model(*parts))[1].parts
    assert (getattr(thought, "text", ""), getattr(text, "text", "")) == (piece * 20_000, piece * 20_000)


def test_state_of_others_returns_to_their_thoughts() -> None:
    """Each seal that hangs on a part because its thought could not carry it is given back."""
    many = 50_000
    parts = from_google(model(*[{"text": "a", "thoughtSignature": wrap(FOREIGN)}] * many))[1].parts
    assert len(parts) == 2 * many
    assert parts[0].seals == (FOREIGN,)


def test_state_of_calls_returns_to_them() -> None:
    """State before a call is found among very many thoughts without words."""
    many = 30_000
    own = wrap(msgspec.structs.replace(FOREIGN, item_id="t"))
    thoughts = [{"type": "thinking", "thinking": "", "signature": f"s{number}"} for number in range(many)]
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    turn = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": own}, *thoughts, call]}
    parts = from_anthropic({"role": "user", "content": "Hi"}, turn)[1].parts
    assert len(parts) == many + 1
    assert parts[-1] == ToolCall(call_id="t", name="f", arguments="{}", seals=(FOREIGN,))


def test_what_the_model_said_is_written_for_google() -> None:
    """A message of very many texts, none of them a call."""
    many = 20_000
    said = Message(role="assistant", parts=(Text(text="a"),) * many)
    body = written(
        "gemini", Message(role="user", parts=(Text(text="Hi"),)), said, Message(role="user", parts=said.parts)
    )
    assert len(body["contents"][1]["parts"]) == many


def test_fields_of_merged_messages_are_united() -> None:
    """Messages that each say something of their own are merged with all of it."""
    many = 60_000
    messages = [
        Message(role="user", parts=(Text(text="a"),), extras={"p": {f"k{number}": number}}) for number in range(many)
    ]
    assert len(quickly(lambda: merge(messages))[0].extras["p"]) == many


def test_allowed_tools_are_found() -> None:
    """Very many tools of which very many are allowed."""
    many = 30_000
    tools = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(many)]
    names = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(many - 1)]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": names}}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": tools, "tool_choice": allowed}
    chat = translator("openai-chat").inbound
    request = chat.decode(chat.open(msgspec.json.encode(body), headers={}, bounds=WIDE))
    upstream = Upstream(provider="p", model="m", client_model="m", issuer="p")
    upstream_request = quickly(lambda: translator("anthropic-messages").outbound.encode(request, upstream))
    assert len(msgspec.json.decode(upstream_request.body)["tools"]) == many - 1


def test_citations_are_placed_and_told() -> None:
    """An answer of Google's in which very many sources are cited, one for each word."""
    many = 20_000
    grounding = {
        "groundingChunks": [{"web": {"uri": f"https://a.example/{number}"}} for number in range(many)],
        "groundingSupports": [
            {"segment": {"startIndex": number, "endIndex": number + 1}, "groundingChunkIndices": [number]}
            for number in range(many)
        ],
    }
    content = {"role": "model", "parts": [{"text": "a" * many}]}
    body = msgspec.json.encode(
        {"candidates": [{"content": content, "finishReason": "STOP", "groundingMetadata": grounding}]}
    )
    google, upstream = translator("gemini"), Upstream(provider="p", model="m", client_model="m", issuer="p")
    answer = quickly(
        lambda: google.outbound.decode(body, UpstreamRequest(body=b"", stream=False), upstream, received_at=UNDATED)
    )
    assert len(answer.candidates[0].parts[0].citations) == many
    path = {"model": "m", "method": "generateContent"}
    inbound_request = google.inbound.open(b'{"contents": [{"parts": [{"text": "Hi"}]}]}', headers={}, path=path)
    written = msgspec.json.decode(quickly(lambda: google.inbound.encode(answer, inbound_request)))
    assert written["candidates"][0]["groundingMetadata"]["groundingChunks"] == grounding["groundingChunks"]
