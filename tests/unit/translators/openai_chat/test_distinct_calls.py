"""Calls that are passed on: OpenAI's SDK finds each under an id of its own, and what is in order keeps its bytes."""

import json
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from llmproxy_asgi.translators.base import InboundRequest, Upstream
from llmproxy_asgi.translators.registry import translator

OUTBOUND = translator("openai-chat").outbound
UPSTREAM = Upstream(provider="p", model="m-1", client_model="m", issuer="p")
INBOUND_REQUEST = InboundRequest(protocol="openai-chat", model="m", stream=True, raw={})
GOOD = "call_Zk3mQ8vT2xYw"
OTHER = "call_Zk3mQ8vT2xYx"


def piece(name: str | None = None, arguments: str | None = None, **head: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": 0, **head, "function": {key: value for key, value in function.items() if value is not None}}


def chunk(*pieces: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"tool_calls": list(pieces)} if pieces else {}, "finish_reason": finish}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": [choice], **more}
    return b"data: " + json.dumps(head).encode() + b"\n\n"


END = chunk(finish="tool_calls") + b"data: [DONE]\n\n"


def passed_through(wire: bytes, cut: int) -> bytes:
    passthrough = OUTBOUND.passthrough_stream(INBOUND_REQUEST, UPSTREAM)
    reads = (wire[:cut], wire[cut:]) if cut else (wire,)
    return b"".join([*(passthrough.feed(read).raw or b"" for read in reads), passthrough.close().raw or b""])


def streamed(*pieces: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The calls as OpenAI's SDK puts them together, wherever the stream is cut: id, name, arguments."""
    wire = b"".join(chunk(each) for each in pieces) + END
    found: set[tuple[tuple[str, str], ...]] = set()
    calls: list[tuple[str, str, str]] = []
    for cut in range(0, len(wire), 7):
        state: Any = ChatCompletionStreamState()
        for frame in passed_through(wire, cut).split(b"\n\n"):
            if frame.startswith(b"data: {"):
                assert json.loads(frame[6:])["model"] == "m"
                state.handle_chunk(ChatCompletionChunk.model_validate_json(frame[6:]))
        made = state.current_completion_snapshot.choices[0].message.tool_calls
        calls = [(call.id, call.function.name, call.function.arguments) for call in made]
        found.add(tuple((name, arguments) for _, name, arguments in calls))
        assert len({call[0] for call in calls}) == len(calls), "ids repeat"
        assert all(call[0] and len(call[0]) <= 64 for call in calls)
    assert len(found) == 1
    return calls


BOTH = [("a", '{"x":1}'), ("b", '{"y":2}')]


@pytest.mark.parametrize("head", [{}, {"index": None}, {"id": "call_0"}, {"id": ""}, {"id": GOOD}])
def test_calls_that_a_server_numbers_alike_are_told_apart(head: dict[str, Any]) -> None:
    """Without ids, without indices, or with one id for all."""
    calls = streamed(piece("a", '{"x":1}', **head), piece("b", '{"y":', **head), piece(None, "2}", **head))
    assert [call[1:] for call in calls] == BOTH


def test_two_calls_of_one_function_under_one_id() -> None:
    """The second whole set of arguments is another call's."""
    calls = streamed(piece("a", '{"x":1}', id="call_0"), piece("a", '{"x":2}', id="call_0"))
    assert [call[1:] for call in calls] == [("a", '{"x":1}'), ("a", '{"x":2}')]


def test_ids_are_added_where_only_indices_are_given() -> None:
    """Pieces of two calls in turn; a later piece adds nothing to the id."""
    calls = streamed(piece("a", ""), piece("b", "", index=1), piece(None, '{"x":1}'), piece(None, '{"y":2}', index=1))
    assert [call[1:] for call in calls] == BOTH


def test_an_id_that_comes_again_is_replaced() -> None:
    """The first call keeps its own."""
    calls = streamed(piece("a", '{"x":1}', id=GOOD), piece("b", '{"y":2}', index=1, id=GOOD))
    assert [call[1:] for call in calls] == BOTH
    assert calls[0][0] == GOOD


def test_a_server_that_repeats_id_and_name_in_every_piece() -> None:
    """SDKs append what they read, so both are said once."""
    head = {"id": GOOD, "type": "function"}
    assert streamed(piece("a", '{"x"', **head), piece("a", ":1}", **head)) == [(GOOD, "a", '{"x":1}')]


def test_calls_of_one_index_with_ids_of_their_own() -> None:
    """Google's endpoint numbers all parallel calls 0, its members in the order of the alphabet."""
    calls = streamed(
        {"function": {"arguments": '{"x":[1]}', "name": "a"}, "id": GOOD, "index": 0, "type": "function"},
        {"function": {"arguments": '{"y":2}', "name": "b"}, "id": OTHER, "index": 0, "type": "function"},
    )
    assert calls == [(GOOD, "a", '{"x":[1]}'), (OTHER, "b", '{"y":2}')]


def test_a_call_without_an_id_behind_one_with() -> None:
    """Also several in one chunk; the members that a server adds to a call stay."""
    wire = chunk(piece("a", "{}", id=GOOD), piece("b", "{}", index=1, extra_content={"google": {"x": [1]}})) + END
    first, second = json.loads(passed_through(wire, 0).split(b"\n\n")[0][6:])["choices"][0]["delta"]["tool_calls"]
    assert (first["id"], second["extra_content"], second["type"]) == (GOOD, {"google": {"x": [1]}}, "function")
    assert second["id"].startswith("call_")


@pytest.mark.parametrize(
    "pieces",
    [
        [piece("a", "", id=GOOD), piece(None, '{"name":"b","id":"c"}'), piece("b", "{}", index=1, id=OTHER)],
        [piece("a", "", id=GOOD), piece(None, "{}", id=""), piece(None, "", id=None)],
        [piece("a", "", id="call_0"), piece(None, "{}"), piece("b", "{}", index=1, id="call_1")],
        [{"index": 0, "id": GOOD, "type": "function", "function": {"arguments": ""}}, piece("a", "{}")],
    ],
)  # fmt: skip
def test_what_is_in_order_keeps_its_bytes(pieces: list[dict[str, Any]]) -> None:
    """But for the model's name."""
    wire = b"".join(chunk(each) for each in pieces) + END
    assert passed_through(wire, 0) == wire.replace(b'"m-1"', b'"m"')


def test_ids_differ_between_answers() -> None:
    """An id that is made up is in no other answer, however alike the two are."""
    wire = chunk(piece("a", "{}")) + END
    assert passed_through(wire, 0) != passed_through(wire, 0)


def whole(*calls: dict[str, Any]) -> bytes:
    message = {"role": "assistant", "content": None, "tool_calls": list(calls)}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "x": 1.50}
    return json.dumps({"id": "c", "model": "m", "choices": [choice], "y": 1.50}).encode()


def restored(body: bytes) -> bytes:
    return OUTBOUND.passthrough_response(body, INBOUND_REQUEST, UPSTREAM).raw or b""


@pytest.mark.parametrize("head", [{}, {"id": None}, {"id": ""}, {"id": GOOD}])
def test_calls_of_a_whole_answer(head: dict[str, Any]) -> None:
    """As many ids as calls, and every other value as it came."""
    body = whole(*({**head, "type": "function", "function": {"name": "a", "arguments": "{}"}} for _ in range(3)))
    found = json.loads(restored(body))
    ids = [call.pop("id") for call in found["choices"][0]["message"]["tool_calls"]]
    assert len(set(ids)) == 3
    assert all(ids)
    assert ids[0] == GOOD or head.get("id") != GOOD
    expected = json.loads(body)
    for call in expected["choices"][0]["message"]["tool_calls"]:
        call.pop("id", None)
    assert found == expected


def test_a_whole_answer_in_order_keeps_its_bytes() -> None:
    """Ids that are distinct are the server's affair."""
    body = whole(piece("a", "{}", id="call_0"), piece("a", "{}", id="call_1"))
    assert restored(body) == body
