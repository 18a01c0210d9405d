"""Stored responses: how requests refer to them, and how they are encoded again."""

from typing import Any

import msgspec
import pytest

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.responses_api.items import assign_ids, encode_input_item, encode_stored, encode_without_output
from llmproxy_asgi.responses_api.requests import expand_request
from llmproxy_asgi.responses_api.rewriter import ResponseRewriter
from llmproxy_asgi.translators.base import InboundRequest, State
from support.wires.openai_responses import COMPLETED, CREATED, INBOUND, NOW, body, event, inbound_request

BLOB = "reasoning.encrypted_content"


def told(frame: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(frame.partition(b"data: ")[2])
    return found


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, State(store=True)),
        ({"store": None}, State(store=True)),
        ({"store": False}, None),
        ({"store": False, "previous_response_id": "resp_1"}, State(previous_id="resp_1")),
        ({"store": False, "previous_response_id": ""}, None),
        ({"store": False, "input": [{"type": "item_reference", "id": "x"}]}, State()),
        ({"background": True}, State(store=True, background=True)),
        ({"include": [BLOB]}, State(store=True, shows_state=True)),
    ],
)
def test_storage_fields_are_decoded(fields: dict[str, Any], expected: State | None) -> None:
    """A response is stored unless the request forbids it; the state is None if there is nothing to do."""
    assert inbound_request(**fields).state == expected


def test_a_count_stores_nothing() -> None:
    """A token count stores nothing; the continued response counts as well."""
    counted = INBOUND.open(body(previous_response_id="resp_1"), headers={}, path={"operation": "input_tokens"})
    assert counted.state == State(previous_id="resp_1")


@pytest.mark.parametrize(
    "fields",
    [{"background": True, "store": False}, {"previous_response_id": "resp_1", "conversation": "conv_1"}],
)
def test_conflicting_fields_are_refused(fields: dict[str, Any]) -> None:
    """Refuse fields that exclude each other, and name the first one."""
    with pytest.raises(BadRequest) as refused:
        inbound_request(**fields)
    assert refused.value.param == next(iter(fields))


def test_a_conversation_is_put_before_the_input() -> None:
    """The earlier items are put first as bytes; the storage fields are removed."""
    before = [msgspec.Raw(b'{"role":  "user", "content": "a"}')]
    asked = inbound_request(input="b", previous_response_id="resp_1", store=True, background=True)
    whole = expand_request(asked, before)
    assert whole.raw.keys() == {"model", "input", "stream"}
    given = bytes(whole.raw["input"])
    assert given.startswith(b'[{"role":  "user", "content": "a"},')
    assert [message.parts for message in INBOUND.decode(whole).messages][1:] == [
        INBOUND.decode(asked).messages[0].parts
    ]
    assert whole.stream
    untouched = inbound_request(input="b", store=False)
    assert expand_request(untouched).raw == untouched.raw


def test_every_item_has_a_unique_id() -> None:
    """Keep the ids of items, and derive missing and duplicate ones, the same each time."""
    items = [
        raw({"role": "user", "content": "a"}),
        raw({"id": "m"}),
        raw({"id": "m"}),
        raw({"type": "reasoning"}),
        raw(1),
    ]
    ids = [found for found, _ in assign_ids(items, "resp_1")]
    assert ids[1] == "m"
    assert len(set(ids)) == len(items)
    assert [found.partition("_")[0] for found in ids] == ["msg", "m", "msg", "rs", "msg"]
    assert ids == [found for found, _ in assign_ids(items, "resp_1")]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {"role": "user", "content": "a"},
            {
                "id": "i",
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}],
                "status": "completed",
            },
        ),
        (
            {"type": "message", "id": "mine", "role": "assistant", "content": "a", "status": "incomplete"},
            {
                "id": "i",
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "a", "annotations": []}],
                "status": "incomplete",
            },
        ),
        ({"type": "reasoning", "encrypted_content": "x"}, {"id": "i", "type": "reasoning"}),
        ({"type": "function_call_output", "output": "x"}, {"id": "i", "type": "function_call_output", "output": "x"}),
    ],
)
def test_items_are_listed_in_full(item: dict[str, Any], expected: dict[str, Any]) -> None:
    """A listed item has an id and a type, and texts as parts, without state that was not requested."""
    assert msgspec.json.decode(encode_input_item("i", raw(item), with_state=False)) == expected


def test_deltas_pass_unchanged() -> None:
    """Return the same object for deltas, whatever their text contains."""
    telling = ResponseRewriter(inbound_request(), passed_through=True)
    delta = event("response.output_text.delta", delta='"response": "encrypted_content"')
    assert telling.feed(delta) is delta


def test_lifecycle_events_describe_the_stored_response() -> None:
    """Replace what the upstream reports about storage, and nothing else."""
    asked = inbound_request(previous_response_id="resp_0")
    telling = ResponseRewriter(asked, passed_through=True)
    assert telling.first_id(event("response.output_text.delta", delta="x")) is None
    assert telling.first_id(CREATED) == "resp_1"
    telling.id = "resp_other"
    for frame in (CREATED, COMPLETED):
        answer = told(telling.feed(frame))["response"]
        assert (answer["id"], answer["store"], answer["previous_response_id"]) == ("resp_other", True, "resp_0")
        assert answer["model"] == "big-1"
    assert telling.final is not None
    assert (telling.final.status, telling.final.output) == ("completed", ())


@pytest.mark.parametrize("found", ["chat-1", "resp_", "resp_a/b", "resp_" + "x" * 200, 7, None])
def test_an_invalid_id_is_empty(found: object) -> None:
    """Treat an invalid id as missing: it could not be requested."""
    telling = ResponseRewriter(inbound_request(), passed_through=True)
    assert telling.first_id(event("response.created", response={"id": found})) == ""


def test_unreadable_frames_pass() -> None:
    """Unknown frames pass unchanged."""
    telling = ResponseRewriter(inbound_request(), passed_through=True)
    for data in (b'data: {"response": \n\n', b'data: "response"\n\n', b'event: x\ndata: ["response"]\n\n'):
        assert telling.feed(data) == data


def test_a_failed_response_cannot_be_continued() -> None:
    """The output so far is encoded again, without state."""
    telling = ResponseRewriter(inbound_request(), passed_through=True)
    telling.id = "resp_1"
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    failed = {"id": "resp_1", "status": "failed", "output": [thought]}
    shown = told(telling.feed(event("response.failed", response=failed)))["response"]
    assert "encrypted_content" not in shown["output"][0]
    assert telling.final is not None
    assert (telling.final.status, telling.final.output) == ("failed", None)
    again = msgspec.json.decode(encode_stored(msgspec.Raw(telling.final.response), (), with_state=False))
    assert again["output"] == shown["output"]


@pytest.mark.parametrize("stream", [False, True])
def test_state_that_is_not_stored_reaches_the_caller(*, stream: bool) -> None:
    """The state of a response that is not stored stays for the caller, who sends it back."""
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    answer = {"id": "resp_2", "status": "completed", "output": [thought]}
    for kept in (False, True):
        telling = ResponseRewriter(inbound_request(previous_response_id="resp_1", store=kept), passed_through=True)
        if stream:
            done = telling.feed(event("response.output_item.done", output_index=0, item=thought))
            shown = telling.feed(event("response.completed", response=answer))
            assert (b"encrypted_content" in done) is not kept
        else:
            shown = telling.whole(msgspec.json.encode(answer))
        assert (b"encrypted_content" in shown) is not kept


def test_only_a_stored_response_says_so() -> None:
    """Repeat the caller's fields in a translated response, and `store: true` only if it is stored."""
    for fields, expected in (({}, True), ({"store": False}, False)):
        known: InboundRequest = inbound_request(stream=True, **fields)
        written = encode_without_output(known, "queued", answer="resp_1", created_at=NOW)
        assert msgspec.json.decode(written)["store"] is expected
