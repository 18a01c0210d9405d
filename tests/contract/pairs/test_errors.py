"""What goes wrong, as each SDK raises it: statuses, refusals, nonsense, and failures in the middle of a stream."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import anthropic
import openai
import pytest
from google.genai import errors

from llmproxy_asgi.testing import (
    Close,
    Gate,
    Hold,
    Reset,
    Scenario,
    Send,
    Step,
    Wait,
    error_answer,
    raw_answer,
    sse_answer,
)
from support.pairs import (
    CHAT,
    GEMINI,
    MESSAGES,
    RESPONSES,
    PairHarness,
    ProtocolPair,
    Reply,
    delta,
    pair_harness,
    responses_events,
    sse,
)
from support.pairs.asks import QUESTION, tools
from support.pairs.failing import ENDS, begun, begun_call, check_error_event, error_event
from support.pairs.gemini_wires import gemini_chunk
from support.pairs.harness import PATHS, PROVIDERS
from support.pairs.parameters import PROTOCOLS, all_pairs, pairs
from support.pairs.responses_wires import message_item
from support.pairs.wires import block_events, messages_start

NOBODYS = "claude-sonnet-5"
"""A model that providers of all protocols serve in the harness with a list."""


@pytest.fixture(scope="module")
def shared_list() -> Iterator[PairHarness]:
    with pair_harness(spares=40, models=[NOBODYS], retry={"attempts": 2, "backoff": "1ms"}) as made:
        yield made


@pytest.fixture
def listed(shared_list: PairHarness) -> Iterator[PairHarness]:
    """A gateway that serves one model, by a provider for each protocol, each tried twice."""
    shared_list.reset()
    yield shared_list
    shared_list.reset()


@pytest.fixture(scope="module")
def restless() -> Iterator[PairHarness]:
    """The same, each tried once, without cooldowns, so that every test finds all of them available."""
    with pair_harness(models=[NOBODYS], cooldown=0) as made:
        yield made


ASYNC_STREAMS = [
    pair
    for pair in all_pairs(modes=("async",), streams=(True,))
    if (PROTOCOLS.index(pair.values[0].client) - PROTOCOLS.index(pair.values[0].upstream)) % len(PROTOCOLS) < 2
]
EACH = [*pairs(stream=False), *ASYNC_STREAMS]
"""Every pair whole; and streamed, each protocol's SDK and each upstream passed through and translated once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What an upstream answers, and what becomes of it."""

    status: int
    chat: str
    """The type of the error where the upstream speaks Chat or Responses."""
    messages: str
    """The same for Messages."""
    gemini: str
    """The status of the error where it speaks Gemini."""
    code: str | None = None
    seen: dict[str, int]
    """By the caller's protocol: the status that it sees."""
    openai: type[Exception]
    anthropic: type[Exception]
    google: str
    """The status word that callers of Gemini read."""
    types: tuple[str, str]
    """The types that callers of OpenAI's protocols and of Messages read."""
    told: bool = True
    """Whether the upstream's own message reaches the caller."""
    wait: str | None = None

    def answer(self, protocol: str) -> Scenario:
        headers = {"retry-after": self.wait} if self.wait else {}
        words = {"message": SECRET}
        if protocol == GEMINI:
            wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{self.wait}s"}
            told = {"code": self.status, **words, "status": self.gemini, **({"details": [wait]} if self.wait else {})}
            return error_answer(self.status, {"error": told})
        if protocol in OPENAIS:
            error = {**words, "type": self.chat, "param": None, "code": self.code}
            return error_answer(self.status, {"error": error}, headers={"x-request-id": "up-1", **headers})
        error = {**words, "type": self.messages}
        body = {"type": "error", "error": error, "request_id": "up-1"}
        return error_answer(self.status, body, headers={"request-id": "up-1", **headers})


SECRET = "The cat sat on key sk-cat."
MASKED = "The cat sat on key ***"
SAME = "invalid_request_error"
OPENAIS = (CHAT, RESPONSES)
SDK_ERRORS = (openai.APIStatusError, anthropic.APIStatusError, errors.APIError)


def both(status: int) -> dict[str, int]:
    return dict.fromkeys(PROTOCOLS, status)


def status_of(error: Any) -> int:
    """The HTTP status that an SDK raised."""
    return int(error.code if isinstance(error, errors.APIError) else error.status_code)


FAILURES = {
    "bad-request": Failure(
        status=400, chat=SAME, messages=SAME, seen=both(400),
        gemini="INVALID_ARGUMENT", google="INVALID_ARGUMENT",
        openai=openai.BadRequestError, anthropic=anthropic.BadRequestError, types=(SAME, SAME),
    ),
    "refused-credential": Failure(
        status=401, chat="authentication_error", messages="authentication_error", seen=both(502), told=False,
        gemini="UNAUTHENTICATED", google="INTERNAL",
        openai=openai.InternalServerError, anthropic=anthropic.InternalServerError, types=("server_error", "api_error"),
    ),
    "spent-quota": Failure(
        status=402, chat="insufficient_quota", messages="billing_error", seen=both(429), told=False,
        gemini="RESOURCE_EXHAUSTED", google="RESOURCE_EXHAUSTED",
        openai=openai.RateLimitError, anthropic=anthropic.RateLimitError,
        types=("insufficient_quota", "rate_limit_error"),
    ),
    "forbidden": Failure(
        status=403, chat="permission_error", messages="permission_error", seen=both(502), told=False,
        gemini="PERMISSION_DENIED", google="INTERNAL",
        openai=openai.InternalServerError, anthropic=anthropic.InternalServerError, types=("server_error", "api_error"),
    ),
    "not-found": Failure(
        status=404, chat=SAME, messages="not_found_error", code="model_not_found", seen=both(404),
        gemini="NOT_FOUND", google="NOT_FOUND",
        openai=openai.NotFoundError, anthropic=anthropic.NotFoundError, types=(SAME, "not_found_error"),
    ),
    "conflict": Failure(
        status=409, chat=SAME, messages="conflict_error", seen=both(409),
        gemini="ABORTED", google="ABORTED",
        openai=openai.ConflictError, anthropic=anthropic.ConflictError, types=(SAME, "conflict_error"),
    ),
    "too-large": Failure(
        status=413, chat=SAME, messages="request_too_large", seen=both(413),
        gemini="INVALID_ARGUMENT", google="INVALID_ARGUMENT",
        openai=openai.APIStatusError, anthropic=anthropic.RequestTooLargeError, types=(SAME, "request_too_large"),
    ),
    "unprocessable": Failure(
        status=422, chat=SAME, messages=SAME, seen=both(422),
        gemini="INVALID_ARGUMENT", google="INVALID_ARGUMENT",
        openai=openai.UnprocessableEntityError, anthropic=anthropic.UnprocessableEntityError, types=(SAME, SAME),
    ),
    "rate-limit": Failure(
        status=429, chat="rate_limit_error", messages="rate_limit_error", seen=both(429), wait="30",
        gemini="RESOURCE_EXHAUSTED", google="RESOURCE_EXHAUSTED",
        openai=openai.RateLimitError, anthropic=anthropic.RateLimitError,
        types=("rate_limit_error", "rate_limit_error"),
    ),
    "failed": Failure(
        status=500, chat="server_error", messages="api_error", seen=both(502), told=False,
        gemini="INTERNAL", google="INTERNAL",
        openai=openai.InternalServerError, anthropic=anthropic.InternalServerError, types=("server_error", "api_error"),
    ),
    "overloaded": Failure(
        status=503, chat="overloaded_error", messages="overloaded_error", seen=both(503),
        gemini="UNAVAILABLE", google="UNAVAILABLE",
        openai=openai.InternalServerError, anthropic=anthropic.ServiceUnavailableError,
        types=("overloaded_error", "overloaded_error"),
    ),
    "overloaded-as-anthropic-says-it": Failure(
        status=529, chat="overloaded_error", messages="overloaded_error", seen={**both(503), MESSAGES: 529},
        gemini="UNAVAILABLE", google="UNAVAILABLE",
        openai=openai.InternalServerError, anthropic=anthropic.OverloadedError,
        types=("overloaded_error", "overloaded_error"),
    ),
    "timeout": Failure(
        status=504, chat="timeout_error", messages="timeout_error", seen=both(504),
        gemini="DEADLINE_EXCEEDED", google="DEADLINE_EXCEEDED",
        openai=openai.InternalServerError, anthropic=anthropic.DeadlineExceededError,
        types=("timeout_error", "timeout_error"),
    ),
}  # fmt: skip


@pytest.mark.fault(12)
@pytest.mark.fidelity(91, 92)
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("pair", EACH)
def test_an_upstreams_refusal_is_the_sdks_own_exception(
    harness: PairHarness, pair: ProtocolPair, failure: Failure
) -> None:
    """Class, status, type, message, request id and wait are what the caller's vendor would have said."""
    harness.play(failure.answer(pair.upstream))
    google = errors.ServerError if failure.seen[GEMINI] >= 500 else errors.ClientError
    wanted: Any = {MESSAGES: failure.anthropic, GEMINI: google}.get(pair.client, failure.openai)
    with pytest.raises(wanted) as caught:
        harness.ask(pair, model=harness.model(pair, spare=True), **QUESTION[pair.client])
    error: Any = caught.value
    assert type(error) is wanted
    assert status_of(error) == failure.seen[pair.client]
    assert error.response.headers["x-request-id"] != "up-1"
    assert error.response.headers.get("retry-after") == failure.wait
    told = as_told(pair, error, failure)
    if failure.status < 500:
        assert (told["message"] == MASKED) == failure.told
    assert "sk-cat" not in str(told)


def as_told(pair: ProtocolPair, error: Any, failure: Failure) -> dict[str, Any]:
    """The error within an exception, which has the form that the caller's vendor gives it."""
    if pair.client == GEMINI:
        told: dict[str, Any] = error.details["error"]
        assert told["code"] == failure.seen[GEMINI]
        assert error.status == told["status"] == failure.google
        waits = [entry["retryDelay"] for entry in told.get("details", ()) if "retryDelay" in entry]
        assert waits == ([f"{failure.wait}s"] if failure.wait else [])
        return told
    assert error.request_id == error.response.headers["x-request-id"]
    if pair.client == MESSAGES:
        assert error.body["type"] == "error"
        assert error.body["request_id"] == error.request_id
        assert error.body["error"]["type"] == failure.types[1]
        return dict(error.body["error"])
    assert {"message", "type", "param", "code"} <= error.body.keys()
    assert error.type == failure.types[0]
    if failure.code and pair.upstream in OPENAIS:
        assert error.code == failure.code
    return dict(error.body)


FOREIGN_REFUSALS: dict[str, tuple[object, str]] = {
    "fastapi": (
        {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "Input should be a valid string"}]},
        "messages[0].content: Input should be a valid string",
    ),
    "errors": ({"errors": [{"code": 1, "message": "No such parameter"}]}, "No such parameter"),
    "page": (b"<html><body><h1>No such</h1> parameter</body></html>", "No such parameter"),
}


@pytest.mark.fidelity(114)
@pytest.mark.parametrize("refusal", FOREIGN_REFUSALS.values(), ids=FOREIGN_REFUSALS)
@pytest.mark.parametrize("pair", pairs())
def test_a_refusal_of_no_vendors_shape_keeps_its_reason(
    harness: PairHarness, pair: ProtocolPair, refusal: tuple[object, str]
) -> None:
    """Whole and streamed, the SDK's exception says why a server or a proxy before it refused the request."""
    body, reason = refusal
    harness.play(error_answer(422, body))
    wanted: Any = {MESSAGES: anthropic.APIStatusError, GEMINI: errors.ClientError}.get(
        pair.client, openai.APIStatusError
    )
    with pytest.raises(wanted) as caught:
        harness.ask(pair, **QUESTION[pair.client])
    assert status_of(caught.value) == 422
    assert reason in str(caught.value)


@pytest.mark.fault(12)
@pytest.mark.fidelity(92)
@pytest.mark.parametrize("pair", EACH)
def test_our_refused_credential_is_never_the_callers(harness: PairHarness, pair: ProtocolPair) -> None:
    """Nothing that the SDK could take for its own key's fault: no 401, no 403."""
    for name in ("refused-credential", "forbidden"):
        harness.play(FAILURES[name].answer(pair.upstream))
        with pytest.raises(SDK_ERRORS) as caught:
            harness.ask(pair, model=harness.model(pair, spare=True), **QUESTION[pair.client])
        assert status_of(caught.value) == 502
        assert "sk-upstream" not in str(vars(caught.value))


@pytest.mark.fidelity(91)
@pytest.mark.parametrize(
    "pair", [pair for to in (CHAT, RESPONSES, MESSAGES) for who in OPENAIS for pair in pairs(client=who, upstream=to)]
)
def test_a_long_prompt_has_openais_code_for_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """Every upstream's context error has the code `context_length_exceeded` for callers of OpenAI's protocols."""
    details = {"error_code": "prompt_too_long"} if pair.upstream == MESSAGES else {}
    code = {"code": "context_length_exceeded"} if pair.upstream in OPENAIS else {"details": details}
    harness.play(error_answer(400, {"type": "error", "error": {"type": SAME, "message": "too long", **code}}))
    with pytest.raises(openai.BadRequestError) as caught:
        harness.ask(pair, **QUESTION[pair.client])
    assert (caught.value.status_code, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.fidelity(91)
@pytest.mark.parametrize("pair", [pair for pair in pairs(stream=False) if pair.values[0].client != GEMINI])
def test_sdks_do_not_try_again_what_we_tried(harness: PairHarness, pair: ProtocolPair) -> None:
    """An SDK with retries of its own leaves an upstream's failure alone: the gateway has had its tries."""
    harness.play(FAILURES["failed"].answer(pair.upstream))
    caller: Any = harness.callers[pair.client]
    client = caller.client.with_options(max_retries=3)
    asked = {"model": harness.model(pair, spare=True), **QUESTION[pair.client]}
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
        asking(pair.client, client)(**asked)
    assert len(harness.upstream.requests) == 1


def asking(protocol: str, client: Any) -> Callable[..., Any]:
    """How an SDK's client asks for a whole answer."""
    if protocol == MESSAGES:
        return partial(client.messages.create, max_tokens=9)
    create: Callable[..., Any] = client.responses.create if protocol == RESPONSES else client.chat.completions.create
    return create


# ── retries and failover ─────────────────────────────────────────────────────────────────────────────────────────────

BEFORE_THE_FIRST_EVENT: dict[str, Scenario] = {
    "500": error_answer(500),
    "529": error_answer(529),
    "reset": Scenario(Reset()),
    "closed": Scenario(Close()),
    "html": raw_answer(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>"),
}


@pytest.mark.fault(6, 24)
@pytest.mark.fidelity(93)
@pytest.mark.parametrize("broken", BEFORE_THE_FIRST_EVENT.values(), ids=BEFORE_THE_FIRST_EVENT)
@pytest.mark.parametrize("pair", EACH)
def test_a_failure_before_the_first_event_is_tried_again(
    listed: PairHarness, pair: ProtocolPair, broken: Scenario
) -> None:
    """The second try answers, and the SDK sees nothing of the first."""
    listed.play(broken, Reply(texts=("Fine.",)).scenario(pair.upstream, stream=pair.stream))
    name = listed.model(pair, NOBODYS, spare=True)  # which has not spent what it may retry
    assert listed.ask(pair, model=name, **QUESTION[pair.client]).text == "Fine."
    assert len(listed.upstream.requests) == 2


@pytest.mark.parametrize("client", PROTOCOLS)
def test_a_ping_is_no_first_event(listed: PairHarness, client: str) -> None:
    """An upstream that sent a ping and then failed is retried in every protocol; the caller sees none of it."""
    pair = ProtocolPair(client=client, upstream=MESSAGES, stream=True)
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    error = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'
    listed.play(
        sse_answer([ping, Wait(0.05), ping, Wait(0.05), error]), Reply(texts=("Fine.",)).scenario(MESSAGES, stream=True)
    )
    name = listed.model(pair, NOBODYS, spare=True)
    assert listed.ask(pair, model=name, **QUESTION[client]).text == "Fine."
    assert len(listed.upstream.requests) == 2


@pytest.mark.fidelity(93)
@pytest.mark.parametrize("pair", [pair for pair in EACH if pair.values[0].upstream != CHAT])
def test_another_protocols_upstream_takes_over(restless: PairHarness, pair: ProtocolPair) -> None:
    """When those before it are down, an upstream of another protocol answers, and the SDK sees only that."""
    restless.reset()
    fine = Reply(texts=("Fine.",)).scenario(pair.upstream, stream=pair.stream)
    before = list(PROTOCOLS[: PROTOCOLS.index(pair.upstream)])
    restless.play(lambda received: error_answer(503) if spoken(received.path) in before else fine)
    caller: Any = restless.callers[pair.client]
    assert caller.ask(pair, model=NOBODYS, **QUESTION[pair.client]).text == "Fine."
    asked = [spoken(request.path) for request in restless.upstream.requests]
    assert asked == [*before, pair.upstream]


def spoken(path: str) -> str:
    """The protocol of an upstream's path."""
    return next((protocol for protocol, known in PATHS.items() if known == path), GEMINI)


# ── in the middle ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Breaking:
    """A stream that breaks off when its reader has seen how it begins, and not before."""

    harness: PairHarness
    pair: ProtocolPair
    begins: list[bytes]
    ending: list[bytes | Step]

    def play(self) -> Gate:
        gate = Gate()
        stream = sse([*self.begins, Hold(gate), *(step for step in self.ending if isinstance(step, bytes))], end=False)
        self.harness.play(stream.then(*(step for step in self.ending if not isinstance(step, bytes))))
        return gate

    def raised(self, **asked: Any) -> Any:
        """What the SDK raises, having handed out the beginning; OpenAI's hands out a failed response and raises not."""
        gate, pair = self.play(), self.pair
        name = self.harness.model(pair, spare=True)
        asked = {**QUESTION[pair.client], **asked}
        if pair.client == RESPONSES:
            answer = self.harness.ask(pair, on_event=lambda _: gate.set(), model=name, **asked)
            assert gate.is_set()
            assert answer.finish == "failed"
            assert [each.sequence_number for each in answer.events] == list(range(len(answer.events)))
            return answer.whole
        with pytest.raises((openai.APIError, anthropic.APIStatusError, errors.APIError)) as caught:
            self.harness.ask(pair, on_event=lambda _: gate.set(), model=name, **asked)
        assert gate.is_set()
        return caught.value

    def bytes(self, **asked: Any) -> str:
        """The same by hand: an error event of the caller's protocol is the last, and nothing says that it is whole."""
        gate, pair = self.play(), self.pair
        limit = {"max_tokens": 99} if pair.client == MESSAGES else {}
        name = self.harness.model(pair, spare=pair.client != GEMINI)
        head = {} if pair.client == GEMINI else {"model": name, "stream": True}
        text = self.harness.read(pair, {**head, **limit, **QUESTION[pair.client], **asked}, on_first=gate.set)
        for sign in ENDS:
            assert sign not in text.replace(" ", "")
        *_, last = text.rstrip().replace("\r", "").split("\n\n")
        check_error_event(pair.client, last)
        return text


@pytest.mark.fault(23)
@pytest.mark.fidelity(94)
@pytest.mark.parametrize("pair", all_pairs(streams=(True,)))
def test_an_error_in_the_middle_is_raised(harness: PairHarness, pair: ProtocolPair) -> None:
    """The SDK raises, with the error's type in its body, having handed out what came before."""
    breaking = Breaking(harness, pair, begun(pair.upstream), [error_event(pair.upstream)])
    error = breaking.raised()
    if pair.client == GEMINI:
        assert type(error) is errors.ServerError
        assert (error.code, error.status, bool(error.message)) == (503, "UNAVAILABLE", True)
    elif pair.client == RESPONSES:
        assert (error.error.code, bool(error.error.message)) == ("server_error", True)
    else:
        told = error.body if pair.client == CHAT else error.body["error"]
        assert (told["type"], bool(told["message"])) == ("overloaded_error", True)
    assert "Half" in breaking.bytes()


@pytest.mark.fidelity(94)
@pytest.mark.parametrize("pair", pairs(client=RESPONSES, stream=True))
def test_a_failed_response_holds_what_was_said(harness: PairHarness, pair: ProtocolPair) -> None:
    """What was complete, or said so far where it is known, is in the response that fails; its id never changes."""
    first = {
        CHAT: [delta({"role": "assistant", "content": ""}), delta({"content": "Half"})],
        RESPONSES: responses_events(message_item("Half"), begun=message_item("Qu", item_id="msg_up2"), ends=False),
        MESSAGES: [messages_start(), *block_events(0, {"type": "text", "text": "Half"})],
        GEMINI: [gemini_chunk({"text": "Half"})],
    }[pair.upstream]
    failed = Breaking(harness, pair, first, [Reset()]).raised()
    assert [part.text for item in failed.output for part in item.content] == ["Half"]
    assert failed.model.startswith(f"{PROVIDERS[pair.upstream]}")


ENDINGS: dict[str, list[Any]] = {"closed": [Close()], "reset": [Reset()], "whole-body": [Send(b"0\r\n\r\n")]}


@pytest.mark.fault(24, 25)
@pytest.mark.fidelity(95)
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("pair", pairs(stream=True))
def test_a_stream_without_its_end_sign_is_a_failure(
    harness: PairHarness, pair: ProtocolPair, ending: list[Any]
) -> None:
    """However the connection ends, an answer that did not say that it is whole is raised, never a clean end."""
    breaking = Breaking(harness, pair, begun(pair.upstream), ending)
    breaking.raised()
    assert "Half" in breaking.bytes()


@pytest.mark.fault(24)
@pytest.mark.fidelity(95)
@pytest.mark.parametrize("pair", pairs(stream=True, among=(CHAT, RESPONSES, MESSAGES)))
def test_a_half_sent_call_is_not_completed(harness: PairHarness, pair: ProtocolPair) -> None:
    """A call whose arguments break off stays unfinished: its block and its JSON stay open. Gemini's arrive whole."""
    breaking = Breaking(harness, pair, begun_call(pair.upstream), [Reset()])
    asked: dict[str, Any] = {"tools": tools(pair.client, "get_weather")}
    failed = breaking.raised(**asked)
    if pair.client == RESPONSES:
        assert all(item.status == "incomplete" for item in failed.output)
    text = breaking.bytes(**asked)
    assert "content_block_stop" not in text
    assert "function_call_arguments.done" not in text
    assert "output_item.done" not in text


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


@pytest.mark.fault(29)
@pytest.mark.fidelity(96)
@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("pair", EACH)
def test_nonsense_with_a_200_is_a_502(harness: PairHarness, pair: ProtocolPair, nonsense: Scenario) -> None:
    """What is no answer of the protocol is the SDK's server error, and nothing of it is shown."""
    harness.play(nonsense)
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError, errors.ServerError)) as caught:
        harness.ask(pair, model=harness.model(pair, spare=True), **QUESTION[pair.client])
    assert status_of(caught.value) == 502
    assert "internal-host" not in str(vars(caught.value))


# ── the caller's own mistakes ────────────────────────────────────────────────────────────────────────────────────────


CALLERS = [pytest.param(*pair.values, id=pair.id.replace("-to-chat", "")) for pair in all_pairs(upstream=CHAT)]


@pytest.mark.fidelity(97)
@pytest.mark.parametrize("pair", CALLERS)
def test_an_unknown_model_is_the_sdks_not_found(listed: PairHarness, pair: ProtocolPair) -> None:
    """A 404 in each vendor's words, before any upstream is asked."""
    caller: Any = listed.callers[pair.client]
    with pytest.raises((openai.NotFoundError, anthropic.NotFoundError, errors.ClientError)) as caught:
        caller.ask(pair, model="snow-1", **QUESTION[pair.client])
    error: Any = caught.value
    if pair.client == GEMINI:
        assert (error.code, error.status) == (404, "NOT_FOUND")
    elif pair.client in OPENAIS:
        assert (error.code, error.param, error.type) == ("model_not_found", "model", SAME)
    else:
        assert error.body["error"]["type"] == "not_found_error"
    assert "snow-1" in str(error)
    assert listed.upstream.requests == []


@pytest.mark.fidelity(97)
@pytest.mark.parametrize("pair", EACH)
def test_a_model_that_its_upstream_does_not_know(harness: PairHarness, pair: ProtocolPair) -> None:
    """The same where only the upstream can tell, in whichever words it does."""
    harness.play(FAILURES["not-found"].answer(pair.upstream))
    with pytest.raises((openai.NotFoundError, anthropic.NotFoundError, errors.ClientError)) as caught:
        harness.ask(pair, model=harness.model(pair, spare=True), **QUESTION[pair.client])
    error: Any = caught.value
    if pair.client == GEMINI:
        assert (error.code, error.status) == (404, "NOT_FOUND")
    elif pair.client in OPENAIS:
        assert (error.code, error.type) == ("model_not_found", SAME)
    else:
        assert error.body["error"]["type"] == "not_found_error"


TURNS_AND_LIMITS = {
    CHAT: ("messages", "max_tokens"),
    RESPONSES: ("input", "max_output_tokens"),
    MESSAGES: ("messages", "max_tokens"),
}
MISTAKES: dict[str, tuple[str, Any]] = {
    "turns-number": ("turns", 7),
    "stream-text": ("stream", "yes"),
    "tools-object": ("tools", {}),
    "limit-text": ("limit", "many"),
    "temperature-text": ("temperature", "hot"),
}


@pytest.mark.fidelity(98)
@pytest.mark.parametrize(("name", "value"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("pair", [pair for pair in pairs(stream=False) if pair.values[0].client != GEMINI])
def test_a_wrong_type_is_a_400_that_names_the_field(
    harness: PairHarness, pair: ProtocolPair, name: str, value: Any
) -> None:
    """By our own hand, in the caller's shape, whether or not the request is translated."""
    turns, limited = TURNS_AND_LIMITS[pair.client]
    field = {"turns": turns, "limit": limited}.get(name, name)
    limit = {"max_tokens": 9} if pair.client == MESSAGES else {}
    answer = harness.post(pair, {"model": harness.model(pair), **limit, **QUESTION[pair.client], field: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == SAME
    assert field in (error["param"] if pair.client in OPENAIS else error["message"])
    assert harness.upstream.requests == []


GEMINIS_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "contents-number": ({"contents": 7}, "contents"),
    "tools-text": ({"tools": "all"}, "tools"),
    "limit-text": ({"generationConfig": {"maxOutputTokens": "many"}}, "maxOutputTokens"),
    "temperature-text": ({"generationConfig": {"temperature": "hot"}}, "temperature"),
}


@pytest.mark.fidelity(98)
@pytest.mark.parametrize(("change", "field"), GEMINIS_MISTAKES.values(), ids=GEMINIS_MISTAKES)
@pytest.mark.parametrize(
    "pair", [pair for pair in pairs(client=GEMINI, stream=False) if not pair.values[0].passthrough]
)
def test_a_wrong_type_is_googles_400_too(
    harness: PairHarness, pair: ProtocolPair, change: dict[str, Any], field: str
) -> None:
    """The same of Gemini's fields; what only passes through is its vendor's to judge."""
    answer = harness.post(pair, {**QUESTION[GEMINI], **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert field in error["message"]
    assert harness.upstream.requests == []


@pytest.mark.fidelity(98)
@pytest.mark.parametrize("pair", pairs(stream=False))
def test_a_body_that_is_no_json_is_a_400(harness: PairHarness, pair: ProtocolPair) -> None:
    """Truncated JSON is reported as such, in the caller's format."""
    answer = harness.post(pair, b'{"model": "m", "messa')
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["status"] == "INVALID_ARGUMENT") if pair.client == GEMINI else (error["type"] == SAME)
    assert "JSON" in error["message"]
    assert harness.upstream.requests == []


@pytest.mark.fidelity(98)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, stream=False))
def test_messages_need_their_limit(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic's callers must send `max_tokens` for every upstream; the SDK raises its own class."""
    caller: Any = harness.callers[MESSAGES].client
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        caller.post("/v1/messages", cast_to=object, body={"model": harness.model(pair), **QUESTION[MESSAGES]})
    assert harness.upstream.requests == []
