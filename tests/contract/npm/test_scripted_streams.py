"""The npm SDKs' stream helpers over scripted upstreams as strict as their vendors: pieces, failures, silence."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from llmproxy_asgi.testing import Gate, Hold, Reset, Scenario, error_answer
from support.npm import Node, Outcome
from support.npm.asks import CALLED, PROTOCOLS, STOPPED, asked
from support.pairs import (
    CHAT,
    GEMINI,
    KEY,
    MESSAGES,
    RESPONSES,
    Call,
    PairHarness,
    ProtocolPair,
    Reply,
    chat_chunks,
    event,
    messages_events,
    pair_harness,
    responses_event,
    responses_events,
    sse,
)
from support.pairs.gemini_wires import gemini_chunks, gemini_frame
from support.pairs.responses_wires import message_item, responses_whole, thought_item

Ask = Callable[..., Outcome]

PAIRS = [ProtocolPair(client=sdk, upstream=upstream, stream=True) for sdk in PROTOCOLS for upstream in PROTOCOLS]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.client}-to-{pair.upstream}")


@pytest.fixture(scope="module")
def harness() -> Iterator[PairHarness]:
    with pair_harness(spares=60) as made:
        yield made


@pytest.fixture(scope="module")
def impatient() -> Iterator[PairHarness]:
    """A gateway that sends keep-alives at once."""
    with pair_harness(spares=10, keepalive="20ms") as made:
        yield made


@pytest.fixture
def ask(node: Node, harness: PairHarness) -> Iterator[Ask]:
    """One streamed question; the request that the upstream gets has to be one that its vendor would take."""
    yield partial(question, node, harness)
    harness.reset()


@pytest.fixture
def ask_impatiently(node: Node, impatient: PairHarness) -> Iterator[Ask]:
    yield partial(question, node, impatient)
    impatient.reset()


def question(
    node: Node,
    harness: PairHarness,
    pair: ProtocolPair,
    answer: Scenario,
    *,
    tool: bool = False,
    spare: bool = False,
    **how: Any,
) -> Outcome:
    harness.play(answer)
    request = asked(pair.client, harness.model(pair, spare=spare), tool=tool)
    outcome = node.ask(pair.client, harness.base, request, key=KEY, **how)
    assert harness.upstream.errors == []
    return outcome


# ── content ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CALLS = (
    Call(id="call_0", name="get_weather", arguments='{"city":"京都 ☃\u2028","deep":{"n":[1,2.50]}}'),
    Call(id="call_1", name="get_weather", arguments="{}"),
)


@pytest.mark.fidelity(36, 37)
@each_pair
def test_calls_come_in_pieces_and_are_whole(ask: Ask, pair: ProtocolPair) -> None:
    """A text and two calls, one without arguments: ids, order and every character survive, and the count with them."""
    outcome = ask(pair, Reply(texts=("I ", "look."), calls=CALLS).scenario(pair.upstream, stream=True), tool=True)
    answer = outcome.whole
    assert (outcome.texts, answer["text"]) == (["I ", "look."], "I look.")
    assert [call["id"] for call in answer["calls"]] == ["call_0", "call_1"]
    assert [call["name"] for call in answer["calls"]] == ["get_weather", "get_weather"]
    assert [json.loads(call["arguments"]) for call in answer["calls"]] == [json.loads(call.arguments) for call in CALLS]
    if pair.client in {CHAT, RESPONSES} and pair.upstream != GEMINI:
        assert [call["arguments"] for call in answer["calls"]] == [call.arguments for call in CALLS]
    if GEMINI not in {pair.client, pair.upstream}:
        assert answer["pieces"] > len(CALLS)
    assert answer["finish"] == CALLED[pair.client]
    assert (answer["input"], answer["output"]) == (30, 12)


THOUGHT, SAID = ("Hm, 雪", " ☃ 👩‍🚀."), "Snow."
THINKING: dict[str, list[bytes]] = {
    CHAT: chat_chunks(*({"reasoning_content": text} for text in THOUGHT), {"content": SAID}),
    RESPONSES: responses_events(thought_item("".join(THOUGHT)), message_item(SAID)),
    MESSAGES: messages_events(
        {"type": "thinking", "thinking": "".join(THOUGHT), "signature": "c2lnbmVk"}, {"type": "text", "text": SAID}
    ),
    GEMINI: gemini_chunks(*({"text": text, "thought": True} for text in THOUGHT), {"text": SAID}),
}


@each_pair
def test_thoughts_come_before_words(ask: Ask, pair: ProtocolPair) -> None:
    """What the upstream thought is thought, not said, for each SDK; Messages' own is signed as it was."""
    answer = ask(pair, sse(THINKING[pair.upstream])).whole
    assert (answer["reasoning"], answer["text"]) == ("".join(THOUGHT), SAID)
    assert answer["finish"] == STOPPED[pair.client]
    if pair.client == pair.upstream == MESSAGES:
        assert answer["signatures"] == ["c2lnbmVk"]


# ── what fails ───────────────────────────────────────────────────────────────────────────────────────────────────────

FAILURES = {
    # The upstream's status: what the caller sees of it, as OpenAI's SDK, Anthropic's and Google's say it.
    429: (429, "RateLimitError", "RateLimitError", "RESOURCE_EXHAUSTED"),
    500: (502, "InternalServerError", "InternalServerError", "INTERNAL"),
    503: (503, "InternalServerError", "ServiceUnavailableError", "UNAVAILABLE"),
    401: (502, "InternalServerError", "InternalServerError", "INTERNAL"),
}
GOOGLES = {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 401: "UNAUTHENTICATED"}
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
"""Google tells its wait in the body; so its SDK looks for no header."""


@pytest.mark.fidelity(91, 92)
@pytest.mark.parametrize("status", FAILURES)
@each_pair
def test_an_upstreams_refusal_has_its_class_and_its_wait(ask: Ask, pair: ProtocolPair, status: int) -> None:
    """Nothing is handed out; the error says how long to wait, and never that the caller's own key is wrong."""
    named = {"code": status, "message": "No.", "status": GOOGLES[status], "details": [RETRY_INFO]}
    body = {"error": named} if pair.upstream == GEMINI else None
    outcome = ask(pair, error_answer(status, body, headers={"retry-after": "7"}), spare=True)
    seen, openai, anthropic, google = FAILURES[status]
    assert (outcome.texts, outcome.failure["status"]) == ([], seen)
    if pair.client == GEMINI:
        assert outcome.failure["class"] == "ApiError"
        told = json.loads(outcome.failure["message"])["error"]
        assert (told["code"], told["status"]) == (seen, google)
        assert [detail["retryDelay"] for detail in told["details"]] == ["7s"]
    else:
        assert outcome.failure["class"] == (anthropic if pair.client == MESSAGES else openai)
        assert outcome.failure["retry_after"] == "7"
        assert outcome.failure["request_id"].startswith("req_")


@pytest.mark.fidelity(91)
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.client != GEMINI], ids=str)
def test_sdks_do_not_try_again_what_we_tried(ask: Ask, harness: PairHarness, pair: ProtocolPair) -> None:
    """An SDK with retries of its own leaves an upstream's failure alone: the gateway has had its tries."""
    outcome = ask(pair, error_answer(500), spare=True, retries=3)
    assert outcome.failure["status"] == 502
    assert len(harness.upstream.requests) == 1


FAILED = responses_whole(message_item("one "), status="failed", error={"code": "server_error", "message": "Boom."})
BROKEN = {
    CHAT: b'data: {"error":{"message":"Boom.","type":"server_error","param":null,"code":null}}\n\n',
    RESPONSES: responses_event("response.failed", sequence_number=9, response=FAILED),
    MESSAGES: event("error", error={"type": "api_error", "message": "Boom."}),
    GEMINI: gemini_frame({"error": {"code": 500, "message": "Boom.", "status": "INTERNAL"}}),
}


def begun(pair: ProtocolPair, heard: str, *rest: Any, **reply: Any) -> tuple[Scenario, Callable[[str], None]]:
    """A stream that sends `rest` after the caller has received this, and the event that signals it."""
    frames = Reply(**reply).frames(pair.upstream)
    count = next(number for number, frame in enumerate(frames, start=1) if heard.encode() in frame)
    gate = Gate()

    def on_heard(text: str) -> None:
        if heard in text:
            gate.set()

    return sse([*frames[:count], Hold(gate), *rest], end=False), on_heard


def failed(outcome: Outcome, client: str) -> None:
    """It is the failure that each SDK knows for the middle of a stream."""
    if client == RESPONSES:
        assert outcome.whole["finish"] == "failed"
        assert outcome.whole["error"]["code"] == "server_error"
        return
    error = outcome.failure
    assert (error["class"], error["type"], error["status"]) == {
        CHAT: ("APIError", "server_error", None),
        MESSAGES: ("APIError", "api_error", None),
        GEMINI: ("ApiError", None, 502),
    }[client]


@pytest.mark.fidelity(94, 95)
@pytest.mark.parametrize("how", ["says so", "is torn down"])
@each_pair
def test_a_failure_in_the_middle_comes_behind_the_words(ask: Ask, pair: ProtocolPair, how: str) -> None:
    """Whether the upstream says that it failed or is just gone: the words so far, then the SDK's own error."""
    rest = [BROKEN[pair.upstream]] if how == "says so" else []
    answer, on_heard = begun(pair, "one ", *rest, Reset(), texts=("one ",))
    outcome = ask(pair, answer, spare=True, on_heard=on_heard)
    assert outcome.texts == ["one "]
    failed(outcome, pair.client)


@pytest.mark.fidelity(95)
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.upstream != GEMINI], ids=str)
def test_half_a_call_is_never_a_call(ask: Ask, pair: ProtocolPair) -> None:
    """A call whose arguments stop in the middle is not finished for the caller; Gemini sends its calls whole."""
    answer, on_heard = begun(pair, "京", Reset(), calls=CALLS[:1])
    # A caller of Gemini hears nothing of a call before it is whole.
    if pair.client == GEMINI:
        answer = sse([*Reply(calls=CALLS[:1]).frames(pair.upstream)[:3], Reset()], end=False)
    outcome = ask(pair, answer, spare=True, tool=True, on_heard=on_heard)
    if outcome.answer is None:
        assert outcome.failure["class"] in {"APIError", "ApiError", "InternalServerError"}
    else:
        assert outcome.whole["finish"] == "failed"
        assert "response.output_item.done" not in outcome.whole["kinds"]


# ── silence and leaving ──────────────────────────────────────────────────────────────────────────────────────────────

TWICE = {
    CHAT: ": keep-alive\n\n" * 2,
    RESPONSES: ": keep-alive\n\n" * 2,
    MESSAGES: 'event: ping\ndata: {"type": "ping"}\n\n' * 2,
    GEMINI: "\n\n",
}


@pytest.mark.fidelity(7, 8, 9)
@each_pair
def test_keepalives_go_unnoticed(ask_impatiently: Ask, pair: ProtocolPair) -> None:
    """An upstream that is silent before its first word and again behind it: several keep-alives each time, no trace."""
    frames = Reply(texts=("one ", "two")).frames(pair.upstream)
    count = next(number for number, frame in enumerate(frames, start=1) if b"one " in frame)
    before, between = Gate(), Gate()

    def on_heard(heard: str) -> None:
        if heard.startswith(TWICE[pair.client]):
            before.set()
        if "\n" + TWICE[pair.client] in heard.partition("one ")[2]:
            between.set()

    answer = Scenario(Hold(before), *sse([*frames[:count], Hold(between), *frames[count:]]).steps)
    outcome = ask_impatiently(pair, answer, on_heard=on_heard)
    assert (outcome.texts, outcome.whole["text"]) == (["one ", "two"], "one two")
    assert outcome.whole["finish"] == STOPPED[pair.client]
    if pair.client == MESSAGES:
        assert outcome.whole["request_id"].startswith("req_")


@pytest.mark.fidelity(94)
@each_pair
def test_a_failure_behind_keepalives_is_still_an_error(ask_impatiently: Ask, pair: ProtocolPair) -> None:
    """The status is gone with the first keep-alive, so a failure that comes then is one of the stream."""
    gate = Gate()

    def on_heard(heard: str) -> None:
        if heard.startswith(TWICE[pair.client]):
            gate.set()

    answer = Scenario(Hold(gate), *error_answer(500).steps)
    outcome = ask_impatiently(pair, answer, spare=True, on_heard=on_heard)
    assert outcome.texts == []
    # There is no response yet that could have failed, so Responses has its own event for errors.
    failed(outcome, CHAT if pair.client == RESPONSES else pair.client)


LEAVING = [
    pytest.param(pair, way, id=f"{pair.client}-to-{pair.upstream}-{way}")
    for pair in PAIRS
    for way in ("abort", "break")
    # Google's SDK keeps its connection when its loop is left; it has to be handed a signal, and that aborted.
    if (pair.client, way) != (GEMINI, "break")
]


@pytest.mark.fidelity(12)
@pytest.mark.parametrize(("pair", "way"), LEAVING)
def test_who_leaves_ends_the_upstreams_work(ask: Ask, harness: PairHarness, pair: ProtocolPair, way: str) -> None:
    """Giving a stream up, or leaving the loop that reads it, closes the upstream's connection, which would go on."""
    answer, _ = begun(pair, "one ", texts=("one ",))
    outcome = ask(pair, answer, leave=way)
    assert outcome.texts == ["one "]
    harness.upstream.wait_closed(0)
