"""What goes wrong, as each SDK raises it: statuses, refusals, nonsense, and failures in the middle of a stream."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import anthropic
import openai
import pytest

from llmproxy_asgi.testing import Close, Gate, Hold, Reset, Scenario, Send, Step, error_answer, raw_answer
from support_pairs import CHAT, GEMINI, MESSAGES, Lane, Reply, Stage, delta, event, sse, staged
from support_pairs.asks import QUESTION, tools
from support_pairs.lanes import CHAT_AND_MESSAGES, PROTOCOLS, lanes, pairs
from support_pairs.stage import PATHS
from support_pairs.wires import block_events, messages_start

NOBODYS = "claude-sonnet-5"
"""A model that providers of both protocols serve on the stage with a list."""


@pytest.fixture(scope="module")
def shared_list() -> Iterator[Stage]:
    with staged(models=[NOBODYS], retry={"attempts": 2, "backoff": "1ms"}) as made:
        yield made


@pytest.fixture
def listed(shared_list: Stage) -> Iterator[Stage]:
    """A gateway that serves one model, by OpenAI's provider and then by Anthropic's, each tried twice."""
    shared_list.reset()
    yield shared_list
    shared_list.reset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What an upstream answers, and what becomes of it."""

    status: int
    chat: str
    """The type of the error where the upstream speaks Chat."""
    messages: str
    """The same for Messages."""
    code: str | None = None
    seen: dict[str, int]
    """By the caller's protocol: the status that it sees."""
    openai: type[Exception]
    anthropic: type[Exception]
    types: tuple[str, str]
    """The types that callers of Chat and of Messages read."""
    told: bool = True
    """Whether the upstream's own message reaches the caller."""
    wait: str | None = None

    def answer(self, protocol: str) -> Scenario:
        headers = {"retry-after": self.wait} if self.wait else {}
        words = {"message": SECRET}
        if protocol == CHAT:
            error = {**words, "type": self.chat, "param": None, "code": self.code}
            return error_answer(self.status, {"error": error}, headers={"x-request-id": "up-1", **headers})
        error = {**words, "type": self.messages}
        body = {"type": "error", "error": error, "request_id": "up-1"}
        return error_answer(self.status, body, headers={"request-id": "up-1", **headers})


SECRET = "The cat sat on key sk-cat."
SAME = "invalid_request_error"


def both(status: int) -> dict[str, int]:
    return {CHAT: status, MESSAGES: status}


FAILURES = {
    "bad-request": Failure(
        status=400, chat=SAME, messages=SAME, seen=both(400),
        openai=openai.BadRequestError, anthropic=anthropic.BadRequestError, types=(SAME, SAME),
    ),
    "refused-credential": Failure(
        status=401, chat="authentication_error", messages="authentication_error", seen=both(502), told=False,
        openai=openai.InternalServerError, anthropic=anthropic.InternalServerError, types=("server_error", "api_error"),
    ),
    "spent-quota": Failure(
        status=402, chat="insufficient_quota", messages="billing_error", seen=both(429), told=False,
        openai=openai.RateLimitError, anthropic=anthropic.RateLimitError,
        types=("insufficient_quota", "rate_limit_error"),
    ),
    "forbidden": Failure(
        status=403, chat="permission_error", messages="permission_error", seen=both(502), told=False,
        openai=openai.InternalServerError, anthropic=anthropic.InternalServerError, types=("server_error", "api_error"),
    ),
    "not-found": Failure(
        status=404, chat=SAME, messages="not_found_error", code="model_not_found", seen=both(404),
        openai=openai.NotFoundError, anthropic=anthropic.NotFoundError, types=(SAME, "not_found_error"),
    ),
    "conflict": Failure(
        status=409, chat=SAME, messages="conflict_error", seen=both(409),
        openai=openai.ConflictError, anthropic=anthropic.ConflictError, types=(SAME, "conflict_error"),
    ),
    "too-large": Failure(
        status=413, chat=SAME, messages="request_too_large", seen=both(413),
        openai=openai.APIStatusError, anthropic=anthropic.RequestTooLargeError, types=(SAME, "request_too_large"),
    ),
    "unprocessable": Failure(
        status=422, chat=SAME, messages=SAME, seen=both(422),
        openai=openai.UnprocessableEntityError, anthropic=anthropic.UnprocessableEntityError, types=(SAME, SAME),
    ),
    "rate-limit": Failure(
        status=429, chat="rate_limit_error", messages="rate_limit_error", seen=both(429), wait="30",
        openai=openai.RateLimitError, anthropic=anthropic.RateLimitError,
        types=("rate_limit_error", "rate_limit_error"),
    ),
    "failed": Failure(
        status=500, chat="server_error", messages="api_error", seen=both(502), told=False,
        openai=openai.InternalServerError, anthropic=anthropic.InternalServerError, types=("server_error", "api_error"),
    ),
    "overloaded": Failure(
        status=503, chat="overloaded_error", messages="overloaded_error", seen=both(503),
        openai=openai.InternalServerError, anthropic=anthropic.ServiceUnavailableError,
        types=("overloaded_error", "overloaded_error"),
    ),
    "overloaded-as-anthropic-says-it": Failure(
        status=529, chat="overloaded_error", messages="overloaded_error", seen={CHAT: 503, MESSAGES: 529},
        openai=openai.InternalServerError, anthropic=anthropic.OverloadedError,
        types=("overloaded_error", "overloaded_error"),
    ),
    "timeout": Failure(
        status=504, chat="timeout_error", messages="timeout_error", seen=both(504),
        openai=openai.InternalServerError, anthropic=anthropic.DeadlineExceededError,
        types=("timeout_error", "timeout_error"),
    ),
}  # fmt: skip


@pytest.mark.fidelity(91, 92)
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("lane", lanes(among=CHAT_AND_MESSAGES))
def test_an_upstreams_refusal_is_the_sdks_own_exception(stage: Stage, lane: Lane, failure: Failure) -> None:
    """Class, status, type, message, request id and wait are what the caller's vendor would have said."""
    stage.play(failure.answer(lane.upstream))
    wanted: Any = failure.openai if lane.client == CHAT else failure.anthropic
    with pytest.raises(wanted) as caught:
        stage.ask(lane, model=stage.model(lane, spare=True), **QUESTION[lane.client])
    error: Any = caught.value
    assert type(error) is wanted
    assert error.status_code == failure.seen[lane.client]
    assert error.request_id == error.response.headers["x-request-id"] != "up-1"
    assert error.response.headers.get("retry-after") == failure.wait
    told = error.body if lane.client == CHAT else error.body["error"]
    assert told["type"] == failure.types[0 if lane.client == CHAT else 1]
    if lane.client == CHAT:
        assert {"message", "type", "param", "code"} <= told.keys()
        if failure.code and lane.upstream == CHAT:
            assert error.code == failure.code
    else:
        assert error.body["type"] == "error"
        assert error.body["request_id"] == error.request_id
    if failure.status < 500:
        assert (told["message"] == SECRET) == failure.told
    if failure.status in {401, 402, 403}:
        assert "sk-cat" not in error.response.text


@pytest.mark.fidelity(92)
@pytest.mark.parametrize("lane", pairs(among=CHAT_AND_MESSAGES))
def test_our_refused_credential_is_never_the_callers(stage: Stage, lane: Lane) -> None:
    """Nothing that the SDK could take for its own key's fault: no 401, no 403."""
    for name in ("refused-credential", "forbidden"):
        stage.play(FAILURES[name].answer(lane.upstream))
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
            stage.ask(lane, model=stage.model(lane, spare=True), **QUESTION[lane.client])
        error: Any = caught.value
        assert error.status_code == 502
        assert "sk-upstream" not in error.response.text


@pytest.mark.fidelity(91)
@pytest.mark.parametrize("upstream", [CHAT, MESSAGES])
def test_a_long_prompt_has_openais_code_for_it(stage: Stage, upstream: str) -> None:
    """Callers of Chat shorten and try again by the code `context_length_exceeded`, whoever says so."""
    lane = Lane(client=CHAT, upstream=upstream)
    details = {"error_code": "prompt_too_long"} if upstream == MESSAGES else {}
    code = {"code": "context_length_exceeded"} if upstream == CHAT else {"details": details}
    stage.play(error_answer(400, {"type": "error", "error": {"type": SAME, "message": "too long", **code}}))
    with pytest.raises(openai.BadRequestError) as caught:
        stage.ask(lane, **QUESTION[CHAT])
    assert (caught.value.status_code, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.fidelity(91)
@pytest.mark.parametrize("lane", pairs(stream=False, among=CHAT_AND_MESSAGES))
def test_sdks_do_not_try_again_what_we_tried(stage: Stage, lane: Lane) -> None:
    """An SDK with retries of its own leaves an upstream's failure alone: the gateway has had its tries."""
    stage.play(FAILURES["failed"].answer(lane.upstream))
    caller: Any = stage.callers[lane.client]
    client = caller.client.with_options(max_retries=3)
    asked = {"model": stage.model(lane, spare=True), **QUESTION[lane.client]}
    create = client.chat.completions.create if lane.client == CHAT else partial(client.messages.create, max_tokens=9)
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
        create(**asked)
    assert len(stage.upstream.requests) == 1


# ── retries and failover ─────────────────────────────────────────────────────────────────────────────────────────────

BEFORE_THE_FIRST_EVENT: dict[str, Scenario] = {
    "500": error_answer(500),
    "529": error_answer(529),
    "reset": Scenario(Reset()),
    "closed": Scenario(Close()),
    "html": raw_answer(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"),
}


@pytest.mark.fidelity(93)
@pytest.mark.parametrize("broken", BEFORE_THE_FIRST_EVENT.values(), ids=BEFORE_THE_FIRST_EVENT)
@pytest.mark.parametrize("lane", pairs(among=CHAT_AND_MESSAGES))
def test_a_failure_before_the_first_event_is_tried_again(listed: Stage, lane: Lane, broken: Scenario) -> None:
    """The second try answers, and the SDK sees nothing of the first."""
    listed.play(broken, Reply(texts=("Fine.",)).scenario(lane.upstream, stream=lane.stream))
    name = f"{'openai' if lane.upstream == CHAT else 'anthropic'}/{NOBODYS}"
    assert listed.ask(lane, model=name, **QUESTION[lane.client]).text == "Fine."
    assert len(listed.upstream.requests) == 2


@pytest.mark.fidelity(93)
@pytest.mark.parametrize("lane", [lane for lane in pairs() if lane.values[0].upstream != CHAT])
def test_another_protocols_upstream_takes_over(lane: Lane) -> None:
    """When those before it are down, an upstream of another protocol answers, and the SDK sees only that."""
    fine = Reply(texts=("Fine.",)).scenario(lane.upstream, stream=lane.stream)
    before = list(PROTOCOLS[: PROTOCOLS.index(lane.upstream)])
    with staged(models=[NOBODYS], retry={"attempts": 2, "backoff": "1ms"}) as stage:
        stage.play(lambda received: error_answer(503) if spoken(received.path) in before else fine)
        caller: Any = stage.callers[lane.client]
        assert caller.ask(lane, model=NOBODYS, **QUESTION[lane.client]).text == "Fine."
        asked = [spoken(request.path) for request in stage.upstream.requests]
    assert asked == [*(protocol for protocol in before for _ in range(2)), lane.upstream]


def spoken(path: str) -> str:
    """The protocol of an upstream's path."""
    return next((protocol for protocol, known in PATHS.items() if known == path), GEMINI)


# ── in the middle ────────────────────────────────────────────────────────────────────────────────────────────────────


def begun(protocol: str) -> list[bytes]:
    """A stream that has said one word."""
    if protocol == CHAT:
        return [delta({"role": "assistant", "content": ""}), delta({"content": "Half"})]
    return [messages_start(), *block_events(0, {"type": "text", "text": "Half"})[:2]]


def begun_call(protocol: str) -> list[bytes]:
    """A stream that is in the middle of a call's arguments."""
    if protocol == CHAT:
        head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        more = {"index": 0, "function": {"arguments": '{"city":'}}
        return [delta({"role": "assistant", "tool_calls": [head]}), delta({"tool_calls": [more]})]
    use = {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": '{"city":"Oslo"}'}
    return [messages_start(), *block_events(0, use)[:3]]


def error_event(protocol: str) -> bytes:
    error = {"type": "overloaded_error", "message": "Busy now."}
    if protocol == CHAT:
        return b"data: " + json.dumps({"error": {**error, "code": None, "param": None}}).encode() + b"\n\n"
    return event("error", error=error)


@dataclass(frozen=True, slots=True)
class Breaking:
    """A stream that breaks off when its reader has seen how it begins, and not before."""

    stage: Stage
    lane: Lane
    begins: list[bytes]
    ending: list[bytes | Step]

    def play(self) -> Gate:
        gate = Gate()
        stream = sse([*self.begins, Hold(gate), *(step for step in self.ending if isinstance(step, bytes))], end=False)
        self.stage.play(stream.then(*(step for step in self.ending if not isinstance(step, bytes))))
        return gate

    def raised(self, **asked: Any) -> Any:
        """What the SDK raises, having handed out the beginning."""
        gate = self.play()
        name = self.stage.model(self.lane, spare=True)
        with pytest.raises((openai.APIError, anthropic.APIStatusError)) as caught:
            self.stage.ask(self.lane, on_event=lambda _: gate.set(), model=name, **QUESTION[self.lane.client], **asked)
        assert gate.is_set()
        return caught.value

    def bytes(self, **asked: Any) -> str:
        """The same by hand: an error event of the caller's protocol is the last, and nothing says that it is whole."""
        gate, lane = self.play(), self.lane
        limit = {"max_tokens": 99} if lane.client == MESSAGES else {}
        name = self.stage.model(lane, spare=True)
        body = {"model": name, "stream": True, **limit, **QUESTION[lane.client], **asked}
        text = self.stage.read(lane, body, on_first=gate.set)
        assert "[DONE]" not in text
        assert "message_stop" not in text
        assert "message_delta" not in text
        assert '"finish_reason":"' not in text.replace(" ", "")
        *_, last = text.rstrip("\n").split("\n\n")
        if lane.client == CHAT:
            assert last.startswith('data: {"error":')
            assert {"message", "type", "code", "param"} <= json.loads(last.removeprefix("data: "))["error"].keys()
        else:
            head, data = last.split("\n")
            assert head == "event: error"
            assert json.loads(data.removeprefix("data: "))["type"] == "error"
        return text


@pytest.mark.fidelity(94)
@pytest.mark.parametrize("lane", lanes(streams=(True,), among=CHAT_AND_MESSAGES))
def test_an_error_in_the_middle_is_raised(stage: Stage, lane: Lane) -> None:
    """The SDK raises, with the error's type in its body, having handed out what came before."""
    breaking = Breaking(stage, lane, begun(lane.upstream), [error_event(lane.upstream)])
    error = breaking.raised()
    told = error.body if lane.client == CHAT else error.body["error"]
    assert told["type"] == "overloaded_error"
    assert told["message"]
    assert "Half" in breaking.bytes()


ENDINGS: dict[str, list[Any]] = {"closed": [Close()], "reset": [Reset()], "whole-body": [Send(b"0\r\n\r\n")]}


@pytest.mark.fidelity(95)
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("lane", lanes(streams=(True,), among=CHAT_AND_MESSAGES))
def test_a_stream_without_its_end_sign_is_a_failure(stage: Stage, lane: Lane, ending: list[Any]) -> None:
    """However the connection ends, an answer that did not say that it is whole is raised, never a clean end."""
    breaking = Breaking(stage, lane, begun(lane.upstream), ending)
    breaking.raised()
    assert "Half" in breaking.bytes()


@pytest.mark.fidelity(95)
@pytest.mark.parametrize("lane", pairs(stream=True, among=CHAT_AND_MESSAGES))
def test_a_half_sent_call_is_not_completed(stage: Stage, lane: Lane) -> None:
    """A call whose arguments break off stays unfinished: nobody closes its block or its JSON."""
    breaking = Breaking(stage, lane, begun_call(lane.upstream), [Reset()])
    asked: dict[str, Any] = {"tools": tools(lane.client, "get_weather")}
    breaking.raised(**asked)
    assert "content_block_stop" not in breaking.bytes(**asked)


def page(content_type: str, body: bytes) -> Scenario:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return raw_answer(head.encode() + body)


NONSENSE: dict[str, Scenario] = {
    "html": page("text/html", b"<html>internal-host-7</html>"),
    "html-as-json": page("application/json", b"<html>internal-host-7</html>"),
    "truncated-json": page("application/json", b'{"id":"x","internal":"internal-host-7","choi'),
    "other-json": page("application/json", b'{"internal":"internal-host-7"}'),
    "empty": page("application/json", b""),
}


@pytest.mark.fidelity(96)
@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("lane", pairs(among=CHAT_AND_MESSAGES))
def test_nonsense_with_a_200_is_a_502(stage: Stage, lane: Lane, nonsense: Scenario) -> None:
    """What is no answer of the protocol is the SDK's server error, and nothing of it is shown."""
    stage.play(nonsense)
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)) as caught:
        stage.ask(lane, model=stage.model(lane, spare=True), **QUESTION[lane.client])
    error: Any = caught.value
    assert error.status_code == 502
    assert "internal-host" not in error.response.text


# ── the caller's own mistakes ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(97)
@pytest.mark.parametrize("lane", lanes(upstream=CHAT, among=CHAT_AND_MESSAGES))
def test_an_unknown_model_is_the_sdks_not_found(listed: Stage, lane: Lane) -> None:
    """A 404 in each vendor's words, before any upstream is asked."""
    caller: Any = listed.callers[lane.client]
    with pytest.raises((openai.NotFoundError, anthropic.NotFoundError)) as caught:
        caller.ask(lane, model="snow-1", **QUESTION[lane.client])
    error: Any = caught.value
    if lane.client == CHAT:
        assert (error.code, error.param, error.type) == ("model_not_found", "model", SAME)
    else:
        assert error.body["error"]["type"] == "not_found_error"
    assert "snow-1" in str(error)
    assert listed.upstream.requests == []


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "messages-text": ({"messages": "hi"}, "messages"),
    "stream-text": ({"stream": "yes"}, "stream"),
    "tools-object": ({"tools": {}}, "tools"),
    "limit-text": ({"max_tokens": "many"}, "max_tokens"),
    "temperature-text": ({"temperature": "hot"}, "temperature"),
}


@pytest.mark.fidelity(98)
@pytest.mark.parametrize(("change", "field"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("lane", pairs(stream=False, among=CHAT_AND_MESSAGES))
def test_a_wrong_type_is_a_400_that_names_the_field(stage: Stage, lane: Lane, change: Any, field: str) -> None:
    """By our own hand, in the caller's shape, whether or not the request is translated."""
    limit = {"max_tokens": 9} if lane.client == MESSAGES else {}
    answer = stage.post(lane, {"model": stage.model(lane), **limit, **QUESTION[lane.client], **change})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == SAME
    assert field in (error["param"] if lane.client == CHAT else error["message"])
    assert stage.upstream.requests == []


@pytest.mark.fidelity(98)
@pytest.mark.parametrize("lane", pairs(stream=False, among=CHAT_AND_MESSAGES))
def test_a_body_that_is_no_json_is_a_400(stage: Stage, lane: Lane) -> None:
    """Truncated JSON is told as such, in the caller's shape."""
    answer = stage.post(lane, b'{"model": "m", "messa')
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == SAME
    assert "JSON" in answer.json()["error"]["message"]


@pytest.mark.fidelity(98)
@pytest.mark.parametrize("lane", pairs(client=MESSAGES, stream=False, among=CHAT_AND_MESSAGES))
def test_messages_need_their_limit(stage: Stage, lane: Lane) -> None:
    """Anthropic's callers must name `max_tokens`, whoever answers; the SDK raises its own class."""
    caller: Any = stage.callers[MESSAGES].client
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        caller.post("/v1/messages", cast_to=object, body={"model": stage.model(lane), **QUESTION[MESSAGES]})
    assert stage.upstream.requests == []
