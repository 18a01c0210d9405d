"""The npm SDKs' stream helpers over simulated models, for every client protocol over every upstream protocol."""

import json
from collections.abc import Callable, Iterator

import pytest

from llmproxy_asgi import LLMProxy
from support.gateway import served
from support.npm import Node, Outcome
from support.npm.asks import CALLED, FULL, PROTOCOLS, QUESTION, STOPPED, asked
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES

KEY = "llmp_abcdefghijklmnopqrstuvwxyz"
SPOKEN = {CHAT: "openai-chat", RESPONSES: "openai-responses", MESSAGES: "anthropic-messages", GEMINI: "gemini"}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    providers = {
        name: {"type": "simulated", "protocol": protocol, "retry": {"attempts": 1}} for name, protocol in SPOKEN.items()
    }
    config = {"providers": providers, "access": {"mode": "keys", "keys": [{"name": "npm", "key": KEY}]}}
    with served(LLMProxy(config)) as address:
        yield address


Ask = Callable[..., Outcome]


@pytest.fixture
def ask(node: Node, base: str) -> Ask:
    """One streamed question: whose SDK asks it, and which model is asked."""

    def once(sdk: str, model: str, *, key: str = KEY, tool: bool = False) -> Outcome:
        return node.ask(sdk, base, asked(sdk, model, tool=tool), key=key)

    return once


each_sdk = pytest.mark.parametrize("sdk", PROTOCOLS)
each_pair = pytest.mark.parametrize(
    ("sdk", "upstream"),
    [pytest.param(sdk, upstream, id=f"{sdk}-to-{upstream}") for sdk in PROTOCOLS for upstream in PROTOCOLS],
)


@pytest.mark.fidelity(18)
@each_pair
def test_words_come_in_pieces(ask: Ask, sdk: str, upstream: str) -> None:
    """Each word is handed out as it came; the whole has the text, the end, the count and the model as asked."""
    outcome = ask(sdk, f"{upstream}/echo")
    answer = outcome.whole
    assert outcome.texts == ["How", " is", " the", " weather?"]
    assert answer["text"] == QUESTION
    assert answer["finish"] == STOPPED[sdk]
    assert (answer["input"], answer["output"]) == (4, 4)
    assert answer["model"] == f"{upstream}/echo"
    assert answer["calls"] == []
    if sdk == MESSAGES:
        assert answer["request_id"].startswith("req_")


@pytest.mark.parametrize(("model", "count"), [("tools", 1), ("parallel", 2)])
@each_pair
def test_calls_are_assembled(ask: Ask, sdk: str, upstream: str, model: str, count: int) -> None:
    """One call or two at once, each with an id of its own and its arguments whole, and no word."""
    answer = ask(sdk, f"{upstream}/{model}", tool=True).whole
    assert [call["name"] for call in answer["calls"]] == ["get_weather"] * count
    assert [json.loads(call["arguments"]) for call in answer["calls"]] == [{"city": "some city"}] * count
    assert len({call["id"] for call in answer["calls"]}) == count
    assert answer["text"] == ""
    assert answer["finish"] == CALLED[sdk]


@each_pair
def test_reasoning_comes_apart_from_the_answer(ask: Ask, sdk: str, upstream: str) -> None:
    """What a model thinks is where each SDK has its thoughts, and what it says is where it has its words."""
    answer = ask(sdk, f"{upstream}/reasoning").whole
    assert answer["reasoning"].startswith("The user wrote 4 words. I could disagree,")
    assert answer["text"] == "Having thought about your 4 words, I agree with you."
    assert answer["finish"] == STOPPED[sdk]
    if sdk == MESSAGES:
        assert [bool(signature) for signature in answer["signatures"]] == [True]


@each_pair
def test_an_answer_that_ran_out_of_tokens_says_so(ask: Ask, sdk: str, upstream: str) -> None:
    """In the words of each SDK, and with the text up to there."""
    answer = ask(sdk, f"{upstream}/length").whole
    assert answer["finish"] == FULL[sdk]
    assert answer["text"].endswith("There was once a question of eleven")
    assert answer["output"] == 12


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nothing", (404, "NotFoundError", "NOT_FOUND")),
        ("error-400", (400, "BadRequestError", "INVALID_ARGUMENT")),
    ],
)
@each_pair
def test_a_refusal_before_the_first_event_has_its_class(
    ask: Ask, sdk: str, upstream: str, model: str, told: tuple[int, str, str]
) -> None:
    """A real status, so each SDK throws what it throws for its own vendor's, before it hands out anything."""
    status, kind, word = told
    outcome = ask(sdk, f"{upstream}/{model}")
    error = outcome.failure
    assert outcome.texts == []
    assert error["status"] == status
    if sdk == GEMINI:
        assert error["class"] == "ApiError"
        assert json.loads(error["message"])["error"]["status"] == word
    else:
        assert error["class"] == kind
        assert error["request_id"].startswith("req_")


@each_sdk
def test_a_key_that_nobody_knows_is_refused(ask: Ask, sdk: str) -> None:
    """Each SDK sends its key in its own header, and throws its own class for a wrong one."""
    error = ask(sdk, "gemini/echo", key="llmp_wrong-wrong-wrong-wrong").failure
    assert error["status"] == 401
    assert error["class"] == ("ApiError" if sdk == GEMINI else "AuthenticationError")


@pytest.mark.fidelity(95)
@each_pair
def test_a_stream_that_breaks_off_never_ends_well(ask: Ask, sdk: str, upstream: str) -> None:
    """Half an answer is thrown as an error behind its words; Responses ends as failed, with the words in it."""
    outcome = ask(sdk, f"{upstream}/cut")
    assert "".join(outcome.texts) == "This answer is cut off before it comes to its end,"
    if sdk == RESPONSES:
        assert outcome.whole["finish"] == "failed"
        assert outcome.whole["error"]["code"] == "server_error"
        # A passed-through stream reports the items that were done; this one was not.
        assert outcome.whole["text"] == ("" if upstream == RESPONSES else "".join(outcome.texts))
        return
    kinds = {CHAT: ("APIError", "server_error", None), MESSAGES: ("APIError", "api_error", None)}
    error = outcome.failure
    assert (error["class"], error["type"], error["status"]) == kinds.get(sdk, ("ApiError", None, 502))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("upstream", PROTOCOLS)
def test_anthropics_tool_runner_finishes(node: Node, base: str, upstream: str, stream: bool) -> None:
    """The runner asks for a thread first; after the refusal in the vendor's format it works without one."""
    request = {
        "model": f"{upstream}/tools",
        "messages": [{"role": "user", "content": "Weather?"}],
        "max_iterations": 2,
        "stream": stream,
    }
    answer = node.ask("messagesRunner", base, request, key=KEY).whole
    assert answer["ran"] == ["some city"]
    assert answer["turns"] == 2
