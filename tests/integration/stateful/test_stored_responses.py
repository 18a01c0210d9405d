"""Stored responses over every upstream: continued, retrieved and deleted with OpenAI's client."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from llmproxy_asgi.testing import json_answer
from support.pairs import Reply, chat_whole, messages_events, responses_wires
from support.pairs.owners import ALICE, OwnersHarness, owners_harness
from support.pairs.wires import CHAT, GEMINI, MESSAGES, RESPONSES, Call, sse

UPSTREAMS = (CHAT, RESPONSES, MESSAGES, GEMINI)
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
WEATHER = Call(id="call_1", name="get_weather", arguments='{"city":"Oslo"}')
STATE = "reasoning.encrypted_content"
BLOB = "openai-AAAA"


@pytest.fixture(scope="module")
def shared() -> Iterator[OwnersHarness]:
    with owners_harness() as made:
        yield made


@pytest.fixture
def harness(shared: OwnersHarness) -> Iterator[OwnersHarness]:
    shared.reset()
    yield shared
    errors, shared.upstream.errors = shared.upstream.errors, []
    assert errors == []


def ask(client: openai.OpenAI, *, stream: bool, **request: Any) -> Any:
    """Return a response, streamed or not."""
    if not stream:
        return client.responses.create(**request)
    *_, last = client.responses.create(stream=True, **request)
    return last.response


def said(protocol: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the roles and texts that an upstream has received."""
    if protocol == RESPONSES:
        return [_item(item) for item in body["input"]]
    if protocol == CHAT:
        return [_message(each) for each in body["messages"]]
    if protocol == MESSAGES:
        return [
            _block(each["role"], block)
            for each in body["messages"]
            for block in (
                [{"type": "text", "text": each["content"]}] if isinstance(each["content"], str) else each["content"]
            )
        ]
    return [_part(each["role"], part) for each in body["contents"] for part in each["parts"]]


def _item(item: dict[str, Any]) -> tuple[str, str]:
    match item.get("type", "message"):
        case "function_call":
            return "call", item["arguments"]
        case "function_call_output":
            return "result", item["output"]
        case _:
            content = item["content"]
            return item["role"], content if isinstance(content, str) else content[0]["text"]


def _message(each: dict[str, Any]) -> tuple[str, str]:
    if each.get("tool_calls"):
        return "call", each["tool_calls"][0]["function"]["arguments"]
    content = each["content"]
    role = "result" if each["role"] == "tool" else each["role"]
    return role, content if isinstance(content, str) else content[0]["text"]


def _block(role: str, block: dict[str, Any]) -> tuple[str, str]:
    match block["type"]:
        case "tool_use":
            return "call", json.dumps(block["input"], separators=(",", ":"))
        case "tool_result":
            content = block["content"]
            return "result", content if isinstance(content, str) else content[0]["text"]
        case _:
            return role, block["text"]


def _part(role: str, part: dict[str, Any]) -> tuple[str, str]:
    if "functionCall" in part:
        return "call", json.dumps(part["functionCall"]["args"], separators=(",", ":"))
    if "functionResponse" in part:
        return "result", next(iter(part["functionResponse"]["response"].values()))
    return "assistant" if role == "model" else role, part["text"]


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(87)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_chain_of_three_is_one_conversation(harness: OwnersHarness, upstream: str, stream: bool) -> None:
    """The third upstream request has question, call, result and response; instructions apply to their call only."""
    harness.play(Reply(calls=(WEATHER,)), Reply(texts=("It is ", "12 °C.")), Reply(texts=("Warmer.",)))
    known: dict[str, Any] = {"model": harness.model(upstream), "tools": [TOOL], "stream": stream}
    first = ask(harness.alice, **known, input="Weather in Oslo?", instructions="Be brief.")
    (call,) = [item for item in first.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 °C"}
    second = ask(harness.alice, **known, input=[result], previous_response_id=first.id)
    third = ask(harness.alice, **known, input="And in Rome?", previous_response_id=second.id)
    assert third.output_text == "Warmer."
    assert said(upstream, harness.sent) == [
        ("user", "Weather in Oslo?"),
        ("call", '{"city":"Oslo"}'),
        ("result", "12 °C"),
        ("assistant", "It is 12 °C."),
        ("user", "And in Rome?"),
    ]
    assert b"Be brief." in harness.upstream.requests[0].body
    assert b"Be brief." not in harness.upstream.requests[-1].body
    assert [each.previous_response_id for each in (first, second, third)] == [None, first.id, second.id]
    assert [each.store for each in (first, second, third)] == [True, True, True]
    assert len({first.id, second.id, third.id}) == 3
    for answer in (first, second, third):
        assert harness.alice.responses.retrieve(answer.id) == answer
    again = ask(harness.alice, **known, input="And in Bonn?", previous_response_id=second.id, instructions="Be long.")
    assert again.previous_response_id == second.id
    assert b"Be long." in harness.upstream.requests[-1].body
    assert b"Rome" not in harness.upstream.requests[-1].body


def test_nothing_is_stored_upstream(harness: OwnersHarness) -> None:
    """An upstream of the same protocol gets `store: false`, and no id that it could have stored."""
    harness.play(Reply(texts=("a",)))
    first = harness.alice.responses.create(model=harness.model(RESPONSES), input="x", store=True)
    assert harness.sent["store"] is False
    harness.alice.responses.create(model=harness.model(RESPONSES), previous_response_id=first.id)
    assert harness.sent["store"] is False
    assert harness.sent.keys().isdisjoint({"previous_response_id", "background"})
    assert said(RESPONSES, harness.sent) == [("user", "x"), ("assistant", "a")]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_upstreams_own_id_is_stored_while_it_is_free(harness: OwnersHarness, stream: bool) -> None:
    """A passthrough response keeps its upstream's id, unless another response of this caller has it."""
    harness.play(Reply(texts=("a",)))
    request: Any = {"model": harness.model(RESPONSES), "input": "x", "stream": stream}
    for each in (harness.alice, harness.bob):
        forget(each, responses_wires.RESPONSE_ID)
        assert ask(each, **request).id == responses_wires.RESPONSE_ID
        assert ask(each, **request).id != responses_wires.RESPONSE_ID


def forget(client: openai.OpenAI, response_id: str) -> None:
    """Delete a response, if it exists."""
    try:
        client.responses.delete(response_id)
    except openai.NotFoundError:
        return


@pytest.mark.fidelity(26)
@pytest.mark.parametrize("upstream", [RESPONSES, CHAT], ids=["responses-to-responses", "responses-to-chat"])
def test_the_phase_of_a_text_survives_a_round(harness: OwnersHarness, upstream: str) -> None:
    """A text's phase is sent back with it, even if another protocol responded in between."""
    item = responses_wires.message_item("Looking.", phase="commentary")
    harness.play(json_answer(200, responses_wires.responses_whole(item)))
    first = harness.alice.responses.create(model=harness.model(RESPONSES), input="x")
    harness.play(Reply(texts=("ok",)))
    second = harness.alice.responses.create(model=harness.model(upstream), input="y", previous_response_id=first.id)
    harness.alice.responses.create(model=harness.model(RESPONSES), input="z", previous_response_id=second.id)
    phases = [item.get("phase") for item in harness.sent["input"] if item.get("role") == "assistant"]
    assert phases == ["commentary", None]


@pytest.mark.fidelity(26)
@pytest.mark.parametrize("stream", [False, True], ids=["responses-to-chat-whole", "responses-to-chat-stream"])
def test_a_callers_phase_is_stored_behind_a_chat_upstream(harness: OwnersHarness, stream: bool) -> None:
    """Send the turn to Chat without the phase, which it lacks, and store it with the phase."""
    turns: Any = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "Looking.", "phase": "commentary"},
        {"role": "assistant", "content": "It snows.", "phase": "final_answer"},
        {"role": "user", "content": "y"},
    ]
    harness.play(Reply(texts=("ok",)))
    first = ask(harness.alice, model=harness.model(CHAT), input=turns, stream=stream)
    assert "phase" not in json.dumps(harness.sent)
    harness.alice.responses.create(model=harness.model(RESPONSES), input="z", previous_response_id=first.id)
    phases = [item.get("phase") for item in harness.sent["input"] if item.get("role") == "assistant"]
    assert phases == ["commentary", "final_answer", None]


# ── whose it is ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(87)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_others_find_nothing(harness: OwnersHarness, upstream: str) -> None:
    """Answer a wrong id and another owner's response with the same 404, in every operation."""
    harness.play(Reply(texts=("secret",)))
    model = harness.model(upstream)
    kept = harness.alice.responses.create(model=model, input="x")
    for client, response_id in (
        (harness.bob, kept.id),
        (harness.alice, "resp_" + "0" * 32),
        (harness.alice, "nonsense"),
    ):
        responses = client.responses
        for asked in (
            lambda: responses.retrieve(response_id),  # noqa: B023  asked at once
            lambda: responses.retrieve(response_id, stream=True),  # noqa: B023
            lambda: responses.delete(response_id),  # noqa: B023
            lambda: responses.cancel(response_id),  # noqa: B023
            lambda: responses.input_items.list(response_id),  # noqa: B023
        ):
            with pytest.raises(openai.NotFoundError) as refused:
                asked()
            assert refused.value.type == "invalid_request_error"
        with pytest.raises(openai.NotFoundError) as unknown:
            responses.create(model=model, input="y", previous_response_id=response_id)
        assert (unknown.value.code, unknown.value.param) == ("previous_response_not_found", "previous_response_id")
    assert len(harness.upstream.requests) == 1
    assert harness.alice.responses.retrieve(kept.id).output_text == "secret"


@pytest.mark.fidelity(87)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_store_false_stores_nothing(harness: OwnersHarness, upstream: str, stream: bool) -> None:
    """Store nothing, also of a response that continues a stored one, and say so in the response."""
    harness.play(Reply(texts=("a",)))
    known: dict[str, Any] = {"model": harness.model(upstream), "stream": stream}
    store = harness.proxy.gateway._shared.stores("memory").responses
    forget(harness.alice, responses_wires.RESPONSE_ID)
    before = store.count  # type: ignore[attr-defined]  # of a store in memory
    answer = ask(harness.alice, **known, input="x", store=False)
    assert not getattr(answer, "store", False)  # an upstream of the same protocol says it, or does not
    assert store.count == before  # type: ignore[attr-defined]
    for asked in (harness.alice.responses.retrieve, harness.alice.responses.delete):
        with pytest.raises(openai.NotFoundError):
            asked(answer.id)
    kept = ask(harness.alice, **known, input="x")
    before = store.count  # type: ignore[attr-defined]
    going_on = ask(harness.alice, **known, input="y", store=False, previous_response_id=kept.id)
    assert (going_on.store, going_on.previous_response_id) == (False, kept.id)
    assert said(upstream, harness.sent) == [("user", "x"), ("assistant", "a"), ("user", "y")]
    assert store.count == before  # type: ignore[attr-defined]


def test_a_count_includes_the_continued_conversation(harness: OwnersHarness) -> None:
    """Count the tokens of the conversation that a request continues, and store nothing."""
    harness.play(Reply(texts=("A long answer of many words.",)))
    model = harness.model(CHAT)
    kept = harness.alice.responses.create(model=model, input="A question of some words")
    count = harness.alice.responses.input_tokens.count
    alone = count(model=model, input="x").input_tokens
    assert count(model=model, input="x", previous_response_id=kept.id).input_tokens > alone + 5
    with pytest.raises(openai.NotFoundError):
        harness.bob.responses.input_tokens.count(model=model, input="x", previous_response_id=kept.id)


def test_a_deleted_response_cannot_be_continued(harness: OwnersHarness) -> None:
    """Continue neither from a deleted response nor from one that continued it."""
    harness.play(Reply(texts=("a",)))
    model = harness.model(CHAT)
    first = harness.alice.responses.create(model=model, input="x")
    second = harness.alice.responses.create(model=model, input="y", previous_response_id=first.id)
    raw = harness.alice.responses.with_raw_response.delete(first.id)
    assert raw.http_response.json() == {"id": first.id, "object": "response", "deleted": True}
    for previous in (first.id, second.id):
        with pytest.raises(openai.NotFoundError):
            harness.alice.responses.create(model=model, input="z", previous_response_id=previous)
    assert harness.alice.responses.retrieve(second.id) == second


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(88)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_stream_is_stored_before_its_last_event(harness: OwnersHarness, upstream: str) -> None:
    """All events have one id; a client that reads the last event finds the same response at once."""
    harness.play(Reply(texts=("Look", "ing."), calls=(WEATHER,)))
    ids, done, kept = set(), [], None
    request: Any = {"model": harness.model(upstream), "input": "x", "tools": [TOOL], "stream": True}
    numbers = []
    for event in harness.alice.responses.create(**request):
        numbers.append(event.sequence_number)
        if hasattr(event, "response"):
            ids.add(event.response.id)
            assert event.response.store is True
        if event.type == "response.output_item.done":
            done.append(event.item)
        if event.type == "response.completed":
            kept = harness.alice.responses.retrieve(event.response.id)
            assert kept == event.response
    assert kept is not None
    assert ids == {kept.id}
    assert kept.output == done
    assert [item.type for item in done] == ["message", "function_call"]
    assert numbers == list(range(len(numbers)))


@pytest.mark.fidelity(89)
def test_a_length_stop_is_incomplete(harness: OwnersHarness) -> None:
    """The stream ends with `response.incomplete` and its reason; the stored response can be continued."""
    harness.play(
        sse(messages_events({"type": "text", "text": "Once upon"}, stop="max_tokens")), Reply(texts=("a time",))
    )
    request: Any = {"model": harness.model(MESSAGES), "input": "A tale", "stream": True}
    *_, last = harness.alice.responses.create(**request)
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    kept = harness.alice.responses.retrieve(last.response.id)
    assert (kept.status, kept.output_text) == ("incomplete", "Once upon")
    assert kept == last.response
    harness.alice.responses.create(model=harness.model(MESSAGES), input="Go on.", previous_response_id=kept.id)
    assert said(MESSAGES, harness.sent) == [("user", "A tale"), ("assistant", "Once upon"), ("user", "Go on.")]


def test_a_passed_through_stream_keeps_its_bytes(harness: OwnersHarness) -> None:
    """Of a stored passthrough stream, only the lifecycle events are rewritten; every other frame is the upstream's."""
    frames = Reply(texts=("a", "b", "c"), calls=(WEATHER,)).frames(RESPONSES)
    harness.play(sse(frames))
    body = {"model": harness.model(RESPONSES), "input": "x", "stream": True}
    headers = {"authorization": f"Bearer {ALICE}"}
    told = httpx2.post(f"{harness.base}/v1/responses", json=body, headers=headers, trust_env=False).content
    life = [frame for frame in frames if b'"response":' in frame]
    assert len(life) == 3
    assert [frame for frame in told.split(b"\n\n") if b'"response":' not in frame and frame] == [
        frame.removesuffix(b"\n\n") for frame in frames if frame not in life
    ]


def test_a_broken_stream_is_stored_as_failed(harness: OwnersHarness) -> None:
    """Keep the response as failed with the stream's error, and refuse to continue from it."""
    frames = messages_events({"type": "text", "text": "Once upon"})[:4]
    harness.play(sse(frames))
    request: Any = {"model": harness.model(MESSAGES), "input": "A tale", "stream": True}
    *_, last = harness.alice.responses.create(**request)
    assert last.type == "response.failed"
    kept = harness.alice.responses.retrieve(last.response.id)
    assert (kept.status, kept.error) == ("failed", last.response.error)
    with pytest.raises(openai.BadRequestError):
        harness.alice.responses.create(model=harness.model(MESSAGES), input="y", previous_response_id=kept.id)


# ── the state of reasoning ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_reasoning_state_is_requested_and_hidden(harness: OwnersHarness, stream: bool) -> None:
    """Continuing needs it, so the upstream sends it; a caller that did not request it may read it later."""
    thought = responses_wires.thought_item("Hm.", state=BLOB)
    answer = responses_wires.message_item("Yes.")
    whole = json_answer(200, responses_wires.responses_whole(thought, answer))
    harness.play(sse(responses_wires.responses_events(thought, answer)) if stream else whole)
    known: dict[str, Any] = {"model": harness.model(RESPONSES), "stream": stream}
    first = ask(harness.alice, **known, input="x")
    assert harness.sent["include"] == [STATE]
    assert first.output[0].encrypted_content is None
    assert harness.alice.responses.retrieve(first.id).output[0].encrypted_content is None  # type: ignore[union-attr]
    shown = harness.alice.responses.retrieve(first.id, include=[STATE])  # type: ignore[list-item]
    assert shown.output[0].encrypted_content == BLOB  # type: ignore[union-attr]
    open_first = ask(harness.alice, **known, input="x", include=[STATE])
    assert open_first.output[0].encrypted_content == BLOB
    ask(harness.alice, **known, input="y", previous_response_id=first.id)
    kinds = [(item.get("type", item.get("role")), item.get("encrypted_content")) for item in harness.sent["input"]]
    assert kinds == [("message", None), ("reasoning", BLOB), ("message", None), ("message", None)]


def test_item_references_are_resolved(harness: OwnersHarness) -> None:
    """Replace references to stored items, and reasoning without its state, by the stored items."""
    thought = responses_wires.thought_item("Hm.", state=BLOB, item_id="rs_named")
    answer = responses_wires.message_item("Yes.", item_id="msg_named")
    harness.play(json_answer(200, responses_wires.responses_whole(thought, answer)))
    model = harness.model(RESPONSES)
    harness.alice.responses.create(model=model, input="x")
    named: Any = [
        {"role": "user", "content": "x"},
        {"type": "reasoning", "id": "rs_named", "summary": []},
        {"type": "item_reference", "id": "msg_named"},
        {"role": "user", "content": "y"},
    ]
    for store in (True, False):
        harness.alice.responses.create(model=model, input=named, store=store)
        assert harness.sent["input"][1]["encrypted_content"] == BLOB
        assert harness.sent["input"][2]["content"][0]["text"] == "Yes."
    with pytest.raises(openai.BadRequestError) as refused:
        harness.bob.responses.create(model=model, input=named)
    assert refused.value.param == "input[2]"


# ── input items ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_input_is_listed(harness: OwnersHarness) -> None:
    """List it in pages, in either order, each item with an id, a type and its content as parts."""
    harness.play(Reply(texts=("a",)))
    given: Any = [
        {"role": "user", "content": "one"},
        {"type": "message", "role": "assistant", "content": "two", "id": "msg_two"},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    kept = harness.alice.responses.create(model=harness.model(CHAT), input=given)
    items: Any = harness.alice.responses.input_items
    for order, expected in (("asc", ["one", "two", "three"]), ("desc", ["three", "two", "one"])):
        pages = list(items.list(kept.id, order=order, limit=2))
        assert [each.content[0].text for each in pages] == expected
        assert all(each.type == "message" and each.id for each in pages)
    assert [each.id for each in items.list(kept.id, order="asc")][1] == "msg_two"
    page = items.list(kept.id, order="asc", after="msg_two")
    assert (len(page.data), page.has_more) == (1, False)
    (only,) = items.list(harness.alice.responses.create(model=harness.model(CHAT), input="x").id)
    assert only.content[0].text == "x"
    for wrong in ({"limit": 0}, {"limit": 101}, {"after": "msg_none"}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError) as refused:
            items.list(kept.id, **wrong)
        assert refused.value.param == next(iter(wrong))


# ── what does not go together, and what is nowhere ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "resp_1", 405),
        ("GET", "resp_1/cancel", 405),
        ("POST", "resp_1/input_items", 405),
        ("GET", "resp_1/else", 404),
        ("GET", "", 405),  # the endpoint that makes responses
    ],
)
def test_other_paths_and_methods_are_refused(harness: OwnersHarness, method: str, path: str, status: int) -> None:
    """Refuse them in OpenAI's format, with the allowed methods."""
    headers = {"authorization": f"Bearer {ALICE}"}
    answer = httpx2.request(method, f"{harness.base}/v1/responses/{path}", headers=headers, trust_env=False)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert ("allow" in answer.headers) == (status == 405)
    assert httpx2.get(f"{harness.base}/v1/responses/resp_1", trust_env=False).status_code == 401


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True, "store": False}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_invalid_continuations_are_refused_by_name(
    harness: OwnersHarness, upstream: str, fields: dict[str, Any], param: str
) -> None:
    """Send nothing to any upstream."""
    with pytest.raises(openai.BadRequestError) as refused:
        harness.alice.responses.create(model=harness.model(upstream), input="x", **fields)
    assert refused.value.param == param
    assert harness.upstream.requests == []


def test_a_foreground_response_is_neither_cancelled_nor_streamed_again(harness: OwnersHarness) -> None:
    """Both are for background responses, and a 400 for others."""
    harness.play(Reply(texts=("a",)))
    kept = harness.alice.responses.create(model=harness.model(CHAT), input="x")
    for asked in (
        lambda: harness.alice.responses.cancel(kept.id),
        lambda: harness.alice.responses.retrieve(kept.id, stream=True),
    ):
        with pytest.raises(openai.BadRequestError):
            asked()


# ── state of the vendor's ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_vendors_state_passes_where_its_operator_says_so() -> None:
    """`allow_stored`: a vendor's stored responses may be used and created; the gateway's own are expanded here."""
    with owners_harness(allow_stored=True) as harness:
        harness.play(Reply(texts=("a",)))
        model = harness.model(RESPONSES)
        first = harness.alice.responses.create(model=model, input="x", previous_response_id="resp_theirs", store=True)
        assert (harness.sent["previous_response_id"], harness.sent.get("store", True)) == ("resp_theirs", True)
        assert first.previous_response_id == "resp_theirs"
        harness.alice.responses.create(model=model, input="y", conversation="conv_1", store=False)
        assert (harness.sent["conversation"], harness.sent["store"]) == ("conv_1", False)
        second = harness.alice.responses.create(model=model, input="x")
        harness.alice.responses.create(model=model, input="y", previous_response_id=second.id)
        assert said(RESPONSES, harness.sent) == [("user", "x"), ("assistant", "a"), ("user", "y")]
        with pytest.raises(openai.NotFoundError):
            harness.alice.responses.create(model=harness.model(CHAT), input="x", previous_response_id="resp_theirs")
        harness.alice.chat.completions.create(
            model=harness.model(CHAT), messages=[{"role": "user", "content": "x"}], store=True
        )
        assert harness.sent["store"] is True


def test_chat_stores_nothing(harness: OwnersHarness) -> None:
    """Drop Chat's own `store` behind a shared key, with a warning."""
    harness.play(json_answer(200, chat_whole(content="a")))
    raw = harness.alice.chat.completions.with_raw_response.create(
        model=harness.model(CHAT), messages=[{"role": "user", "content": "x"}], store=True
    )
    assert harness.sent["store"] is False
    assert raw.headers["x-llmproxy-warnings"] == "dropped:store"
