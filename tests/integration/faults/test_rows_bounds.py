"""Rows 55 and 57, and bounds on what a request may hold: counted on the bytes, whatever path and protocol it takes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.inprocess import ASGITransport

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"
COUNT, INPUT_TOKENS = "/v1/messages/count_tokens", "/v1/responses/input_tokens"
GEMINI = "/v1beta/models/echo:"
GENERATE, COUNT_GEMINI, EMBED = GEMINI + "generateContent", GEMINI + "countTokens", GEMINI + "batchEmbedContents"
pytestmark = pytest.mark.anyio

LIMITS = {"messages": 3, "tools": 2, "values": 400}


def proxy(**limits: Any) -> LLMProxy:
    config = {"providers": {"simulated": {"models": ["echo", "m"]}}, "access": {"mode": "open"}, "limits": limits}
    return LLMProxy(config)


class Caller:
    """Asks one gateway, without a socket."""

    def __init__(self, app: LLMProxy) -> None:
        self._client = httpx2.AsyncClient(transport=ASGITransport(app), base_url="http://gateway.invalid")

    async def post(self, path: str, body: bytes | dict[str, Any]) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._client.post(path, content=content, headers={"content-type": "application/json"})

    async def aclose(self) -> None:
        await self._client.aclose()


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    made = Caller(proxy(**LIMITS))
    yield made
    await made.aclose()


def user(number: int) -> dict[str, Any]:
    return {"role": "user", "content": str(number)}


def function(number: int) -> dict[str, Any]:
    return {"name": f"f{number}", "parameters": {"type": "object", "properties": {}}}


def nested(number: int) -> dict[str, Any]:
    return {"type": "function", "function": function(number)}


def turn(number: int) -> dict[str, Any]:
    return {"role": "user", "parts": [{"text": str(number)}]}


def many(make: Any, count: int) -> list[Any]:
    return [make(number) for number in range(count)]


PLAIN: dict[str, dict[str, Any]] = {
    CHAT: {"model": "echo", "messages": [user(0)]},
    RESPONSES: {"model": "echo", "input": "hi", "store": False},
    INPUT_TOKENS: {"model": "echo", "input": "hi"},
    MESSAGES: {"model": "echo", "max_tokens": 9, "messages": [user(0)]},
    COUNT: {"model": "echo", "messages": [user(0)]},
    GENERATE: {"contents": [turn(0)]},
    COUNT_GEMINI: {"contents": [turn(0)]},
    COMPLETIONS: {"model": "echo", "prompt": "hi"},
    EMBEDDINGS: {"model": "m", "input": "hi"},
    EMBED: {"requests": [{"model": "models/m", "content": {"parts": [{"text": "hi"}]}}]},
}
LISTS: list[tuple[str, str, str, Any]] = [
    (CHAT, "messages", "messages", user),
    (CHAT, "tools", "tools", nested),
    (CHAT, "functions", "tools", function),
    (RESPONSES, "input", "messages", user),
    (RESPONSES, "tools", "tools", lambda number: {"type": "function", **function(number)}),
    (INPUT_TOKENS, "input", "messages", user),
    (MESSAGES, "messages", "messages", user),
    (MESSAGES, "tools", "tools", lambda number: {"name": f"f{number}", "input_schema": {"type": "object"}}),
    (COUNT, "messages", "messages", user),
    (GENERATE, "contents", "messages", turn),
    (COUNT_GEMINI, "contents", "messages", turn),
    (COMPLETIONS, "prompt", "messages", str),
]


def named(answer: httpx2.Response) -> str:
    """The message of a refusal with 400, having checked that it is in some protocol's words."""
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert "type" in error or error["status"] == "INVALID_ARGUMENT"
    message: str = error["message"]
    return message


@pytest.mark.parametrize(("path", "field", "bound", "make"), LISTS, ids=lambda each: getattr(each, "__name__", each))
async def test_a_list_is_bounded_on_every_path(caller: Caller, path: str, field: str, bound: str, make: Any) -> None:
    """As many as allowed are served; one more is a 400 that names the field, the limit, what came and what may."""
    most = LIMITS[bound]
    served = await caller.post(path, {**PLAIN[path], field: many(make, most)})
    assert served.status_code == 200, served.text
    message = named(await caller.post(path, {**PLAIN[path], field: many(make, most + 1)}))
    assert f"Too many {bound} ({field}): at most {most} are allowed" in message
    assert f"{most + 1} were sent" in message
    assert f"limits.{bound}" in message


async def test_tools_count_wherever_they_are_declared(caller: Caller) -> None:
    """Google's declarations and tools within a namespace count one by one."""
    declared = {"contents": [turn(0)], "tools": [{"functionDeclarations": many(function, 2)}, {"googleSearch": {}}]}
    assert "3 were sent" in named(await caller.post(GENERATE, declared))
    space = {"type": "namespace", "name": "n", "tools": [{"type": "function", **function(n)} for n in range(3)]}
    assert "limits.tools" in named(await caller.post(RESPONSES, {**PLAIN[RESPONSES], "tools": [space]}))


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("place", ["member", "deep"])
async def test_values_are_bounded_on_every_path(caller: Caller, path: str, place: str) -> None:
    """However they are arranged, too many JSON values are a 400; text that looks like them is none."""
    values: list[Any] = [1] * 400 if path not in (EMBEDDINGS, EMBED) else [1] * 350_000
    more: dict[str, Any] = {"x": values} if place == "member" else {"x": {"y": [values]}}
    assert "limits.values" in named(await caller.post(path, {**PLAIN[path], **more}))
    text = {**PLAIN[path], "x": json.dumps(values) + '\\"'}
    served = await caller.post(path, {**text, "x": None} if path in (GENERATE, COUNT_GEMINI, EMBED) else text)
    assert "limits.values" not in served.text


async def test_embeddings_take_what_their_vendors_take(caller: Caller) -> None:
    """2048 inputs, or 300 000 ids of tokens, are taken however low the limits are."""
    assert "limits." not in (await caller.post(EMBEDDINGS, {"model": "m", "input": ["a"] * 2048})).text
    message = named(await caller.post(EMBEDDINGS, {"model": "m", "input": ["a"] * 2049}))
    assert "Too many messages (input): at most 2048 are allowed (limits.messages), and 2049 were sent" in message
    ids = {"model": "m", "input": [[1] * 100_000] * 3}
    assert "limits." not in (await caller.post(EMBEDDINGS, ids)).text


async def test_limits_that_are_raised_are_raised_everywhere() -> None:
    """The configured bound counts, not the default."""
    raised = Caller(proxy(messages=5_000, values=10**6, tools=2_000))
    body = {**PLAIN[CHAT], "messages": many(user, 3_000), "tools": many(nested, 600)}
    answer = await raised.post(CHAT, body)
    assert answer.status_code == 200, answer.text
    await raised.aclose()


# ── 57 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

DECIDES: dict[str, list[str]] = {
    CHAT: ["model", "messages", "store", "stream", "tools", "user", "service_tier", "previous_response_id"],
    RESPONSES: ["model", "input", "store", "stream", "previous_response_id", "conversation", "prompt", "background"],
    INPUT_TOKENS: ["model", "conversation"],
    MESSAGES: ["model", "max_tokens", "stream", "container", "mcp_servers", "thread", "service_tier"],
    COUNT: ["model", "mcp_servers"],
    GENERATE: ["contents", "cachedContent", "system_instruction", "toolConfig"],
    COUNT_GEMINI: ["contents", "generateContentRequest"],
    COMPLETIONS: ["model", "prompt", "n", "best_of", "stream"],
    EMBEDDINGS: ["model", "input", "dimensions"],
    EMBED: ["requests", "model"],
}


def spellings(name: str) -> list[str]:
    """As bytes of a JSON string's content: capitals, escapes, letters that fold, full width."""
    odd = [name.upper(), name[0].upper() + name[1:], f"\\u00{ord(name[0].upper()):02x}{name[1:]}"]
    odd.append("".join(chr(ord(letter) + 0xFEE0) if letter.isalpha() else letter for letter in name))
    for plain, folding in (("s", "\\u017f"), ("k", "\\u212a"), ("i", "\u0131"), ("s", "\u017f")):
        if plain in name:
            odd.append(name.replace(plain, folding, 1))
    return odd


@pytest.mark.fault(57)
@pytest.mark.parametrize("path", DECIDES)
async def test_a_second_spelling_of_a_member_is_refused(caller: Caller, path: str) -> None:
    """No parser may read another model or storage setting than the gateway did: a 400 that names the field."""
    plain = json.dumps(PLAIN[path])[:-1]
    for name in DECIDES[path]:
        for odd in spellings(name):
            message = named(await caller.post(path, f'{plain},"{odd}":"x"}}'.encode()))
            assert "second spelling" in message, odd
            assert repr(name) in message, odd


@pytest.mark.fault(57)
@pytest.mark.parametrize("path", PLAIN)
async def test_fields_that_nobody_knows_are_passed_on(path: str) -> None:
    """Only what could be taken for a known field is refused."""
    caller = Caller(proxy())
    for more in ({"x-Model": 1}, {"modell": 1}, {"Größe": 1}, {"M" * 300: 1}):
        answer = await caller.post(path, {**PLAIN[path], **more})
        assert "spelling" not in answer.text
    await caller.aclose()


@pytest.mark.fault(57)
async def test_one_field_in_both_of_googles_spellings_is_refused(caller: Caller) -> None:
    """Either is legal; which of two counts would be the upstream's choice."""
    body = {"contents": [turn(0)], "systemInstruction": {"parts": []}, "system_instruction": {"parts": []}}
    assert "one field" in named(await caller.post(GENERATE, body))


@pytest.mark.fault(57)
@pytest.mark.parametrize("inner", ["Generate_Content_Request", "generateContentRequest"])
async def test_a_request_within_a_request_is_looked_at_alike(caller: Caller, inner: str) -> None:
    """Google's count of tokens holds a whole request, and its fields are fields."""
    body = {inner: {"contents": [turn(0)], "Contents": []}}
    assert "spelling" in named(await caller.post(COUNT_GEMINI, body))


# ── 55 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def stored(caller: Caller, **body: Any) -> str:
    """The id of a kept response."""
    answer = await caller.post(RESPONSES, {"model": "echo", **body})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


@pytest.mark.fault(55)
@pytest.mark.parametrize("path", [RESPONSES, INPUT_TOKENS])
async def test_a_stored_conversation_is_bounded_like_a_sent_one(caller: Caller, path: str) -> None:
    """Messages of all its turns count, with those that are sent; the refusal names what unfolds."""
    first = await stored(caller, input=[user(0)])
    served = await caller.post(path, {"model": "echo", "input": [user(1)], "previous_response_id": first})
    assert served.status_code == 200, served.text
    second = await stored(caller, input=[user(1)], previous_response_id=first)  # two, and two answers: four
    answer = await caller.post(path, {"model": "echo", "input": [user(2)], "previous_response_id": second})
    message = named(answer)
    assert "Too many messages in the stored conversation (previous_response_id)" in message
    assert "limits.messages" in message


@pytest.mark.fault(55)
async def test_a_stored_conversation_is_bounded_in_bytes() -> None:
    """A short request that unfolds to more than a body may have is a 413, and so is one that names one item often."""
    caller = Caller(proxy(body="64KiB", messages=50))
    first = await stored(caller, input="x" * 40_000)
    answer = await caller.post(RESPONSES, {"model": "echo", "input": "y" * 30_000, "previous_response_id": first})
    assert answer.status_code == 413, answer.text
    assert "previous_response_id" in answer.json()["error"]["message"]
    assert "limits.body" in answer.json()["error"]["message"]

    listed = await caller._client.get(f"{RESPONSES}/{first}")
    reference = {"type": "item_reference", "id": listed.json()["output"][0]["id"]}
    answer = await caller.post(RESPONSES, {"model": "echo", "input": [reference] * 10})
    assert answer.status_code == 413, answer.text
    assert "limits.body" in answer.json()["error"]["message"]
    await caller.aclose()


@pytest.mark.fault(55)
async def test_a_stored_conversation_is_bounded_in_values() -> None:
    """What is legal turn by turn need not be so together."""
    caller = Caller(proxy(values=300))
    parts = [{"type": "input_text", "text": "x"}] * 60  # 180 values
    first = await stored(caller, input=[{"role": "user", "content": parts}])
    body = {"model": "echo", "input": [{"role": "user", "content": parts}], "previous_response_id": first}
    assert "limits.values" in named(await caller.post(RESPONSES, body))
    await caller.aclose()


@pytest.mark.fault(55)
async def test_what_unfolds_is_refused_before_the_rest_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that is too long costs the reading of a few turns, not of all."""
    app = proxy(body="64KiB", messages=10)
    caller = Caller(app)
    responses = app.gateway.endpoints.stored.stateful.responses
    last = None
    for _ in range(5):
        last = await stored(caller, input="hi", **({"previous_response_id": last} if last else {}))
    read: list[str] = []
    value = responses._value

    async def counted(owner: Any, response_id: str, kind: str = "") -> Any:
        read.append(response_id)
        return await value(owner, response_id, kind)

    monkeypatch.setattr(responses, "_value", counted)
    monkeypatch.setattr(responses, "bounds", responses.bounds.__class__(messages=3))
    answer = await caller.post(RESPONSES, {"model": "echo", "input": "hi", "previous_response_id": last})
    assert answer.status_code == 400, answer.text
    assert len(read) == 2
    await asyncio.gather(caller.aclose())


async def test_calls_from_python_are_bounded_alike() -> None:
    """A program that passes on its own users' requests gets the same errors."""
    gateway = proxy(messages=3).gateway
    assert (await gateway.complete(model="echo", messages=many(user, 3))).text
    with pytest.raises(BadRequest, match=r"at most 3 are allowed \(limits\.messages\), and 4 were sent"):
        await gateway.complete(model="echo", messages=many(user, 4))
    await gateway.aclose()
