"""The strict fake of Google's API: it takes what Google takes, and every rule of it refuses something."""

import copy
import json
from typing import Any

import pytest

from llmproxy_asgi.testing import Received
from support.pairs.asks import PDF, PNG, WEATHER_SCHEMA
from support.pairs.gemini_asks import chosen, declared, function_response, model, user
from support.pairs.gemini_wires import signature
from support.strict import GEMINI_RULES, Refused, check_gemini
from support.strict.gemini import EMBEDDING_RULES

JSONObject = dict[str, Any]

MADE: JSONObject = {"id": "call_1", "name": "get_weather", "args": {"city": "Oslo"}}
OTHER: JSONObject = {"id": "call_2", "name": "get_weather", "args": {}}
PICTURE: JSONObject = {"inlineData": {"mimeType": "image/png", "data": PNG}}
FIRST = function_response("call_1", "get_weather", {"output": "snow"}, parts=[PICTURE])
SECOND = function_response("call_2", "get_weather", {"error": "no such city"})
BODY: JSONObject = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        user("Hi", PICTURE, {"inline_data": {"mime_type": "application/pdf", "data": PDF}}),
        model({"functionCall": MADE, "thoughtSignature": signature("one")}, {"functionCall": OTHER}),
        user(SECOND, FIRST),
    ],
    "tools": [
        {"functionDeclarations": [declared("get_weather", WEATHER_SCHEMA), {"name": "now"}]},
        {"googleSearch": {}},
    ],
    "toolConfig": {**chosen("ANY", "get_weather"), "includeServerSideToolInvocations": True},
    "generationConfig": {
        "temperature": 1,
        "stopSequences": ["END"],
        "maxOutputTokens": 500,
        "responseLogprobs": True,
        "logprobs": 3,
        "thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True},
        "response_mime_type": "application/json",
        "responseJsonSchema": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"$ref": "#/$defs/a"}]},
    },
    "serviceTier": "flex",
}
EMBEDDING: JSONObject = {"requests": [{"model": "models/e-1", "content": user("Hi"), "outputDimensionality": 8}]}
KEY = {"x-goog-api-key": "sk-upstream-1"}
ADDRESS = "/v1beta/models/gemini-3.5-flash:generateContent"
OLD_ADDRESS = "/v1beta/models/gemini-2.5-pro:generateContent"
EMBEDDINGS_ADDRESS = "/v1beta/models/e-1:batchEmbedContents"


def refused_by(
    body: JSONObject, headers: dict[str, str] = KEY, path: str = ADDRESS, query: str = ""
) -> tuple[str, str] | None:
    data = json.dumps(body).encode()
    asked = Received(
        method="POST", path=path, query=query, headers=list(headers.items()), body=data, at=0.0, connection=0
    )
    try:
        check_gemini(asked)
    except Refused as refused:
        return refused.rule, str(refused)
    return None


def change(path: tuple[Any, ...], value: Any, body: JSONObject = BODY) -> JSONObject:
    """The body with one value set, or removed where it is `...`."""
    changed = copy.deepcopy(body)
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return changed


def test_whole_requests_are_taken() -> None:
    """A request with most of what there is passes every rule, whole and streamed, and so does one for embeddings."""
    assert refused_by(BODY) is None
    assert refused_by(BODY, path=ADDRESS.replace("generate", "streamGenerate"), query="alt=sse") is None
    assert refused_by(EMBEDDING, path=EMBEDDINGS_ADDRESS) is None


ASKED, STEP, RESULTS = (("contents", number, "parts") for number in range(3))
CONFIG = "generationConfig"
SCHEMA = ("tools", 0, "functionDeclarations", 0, "parametersJsonSchema")
CITY = (*SCHEMA, "properties", "city")
CHANGES: list[tuple[str, tuple[Any, ...], Any]] = [
    ("required", ("contents",), []),
    ("required", (*ASKED,), []),
    ("unknown-keyword", ("temperature",), 1),
    ("unknown-keyword", (CONFIG, "max_tokens"), 1),
    ("unknown-keyword", (CONFIG, "thinkingConfig", "effort"), "low"),
    ("unknown-keyword", (*ASKED, 0, "cache_control"), {}),
    ("unknown-keyword", (*STEP, 0, "functionCall", "arguments"), "{}"),
    ("unknown-keyword", ("tools", 0, "functionDeclarations", 0, "strict"), True),
    ("unknown-keyword", ("toolConfig", "mode"), "ANY"),
    ("roles", ("contents", 1, "role"), "assistant"),
    ("roles", (*ASKED, 0), {"functionCall": MADE}),
    ("roles", (*ASKED, 0, "thought"), True),
    ("roles", (*STEP, 0), FIRST),
    ("turns", ("contents", 0, "role"), "model"),
    ("turns", ("contents",), [user("Hi"), user("Hi")]),
    ("one-payload", (*ASKED, 0, "inlineData"), PICTURE["inlineData"]),
    ("one-payload", (*ASKED, 0), {}),
    ("empty-text", (*ASKED, 0, "text"), ""),
    ("system", ("systemInstruction", "parts"), [PICTURE]),
    ("system", ("systemInstruction", "parts"), []),
    ("media", (*ASKED, 1, "inlineData", "mimeType"), "png"),
    ("media", (*ASKED, 1, "inlineData", "data"), "?"),
    ("media", (*ASKED, 1), {"fileData": {"fileUri": "https://pictures.example/a.png"}}),
    ("calls", (*STEP, 0, "functionCall", "args"), "{}"),
    ("calls", (*STEP, 0, "functionCall", "name"), "1st"),
    ("calls", (*STEP, 1, "functionCall", "id"), "call_1"),
    ("calls", (*RESULTS, 0, "functionResponse", "response"), "snow"),
    ("calls", (*RESULTS, 0, "functionResponse", "name"), ...),
    ("pairing", (*RESULTS,), [FIRST]),
    ("pairing", (*RESULTS, 0, "functionResponse", "id"), "call_9"),
    ("pairing", (*RESULTS, 0, "functionResponse", "name"), "now"),
    ("pairing", (*RESULTS,), [{"text": "Well?"}, FIRST, SECOND]),
    ("pairing", ("contents", 2), ...),
    ("results", (*RESULTS,), [FIRST, SECOND, PICTURE]),
    ("results", (*RESULTS, 1, "functionResponse", "parts"), [{"text": "x"}]),
    ("tools", ("tools", 0, "functionDeclarations", 1, "name"), "get_weather"),
    ("tools", ("tools", 0, "functionDeclarations", 1, "name"), "a b"),
    ("tools", ("tools", 0, "functionDeclarations", 0, "parameters"), {"type": "OBJECT"}),
    ("tools", ("tools", 1), {}),
    ("mixed-tools", ("toolConfig", "includeServerSideToolInvocations"), ...),
    ("tool-choice", ("toolConfig",), {**chosen("AUTO", "now"), "includeServerSideToolInvocations": True}),
    ("tool-choice", ("toolConfig", "functionCallingConfig", "allowedFunctionNames"), ["other"]),
    ("tool-choice", ("toolConfig", "functionCallingConfig", "mode"), "required"),
    ("tool-choice", ("tools",), [{"googleSearch": {}}]),
    ("schemas", (*SCHEMA, "$schema"), "https://json-schema.org/draft/2020-12/schema"),
    ("schemas", (*SCHEMA, "type"), "array"),
    ("schemas", (*CITY, "type"), ["string", "null"]),
    ("schemas", (*CITY, "const"), "Oslo"),
    ("schemas", (*CITY, "exclusiveMinimum"), 1),
    ("schemas", (*CITY, "enum"), ["Oslo", None]),
    ("schemas", (*CITY, "enum"), ["Oslo", ""]),
    ("schemas", (*CITY,), {"type": "array"}),
    ("schemas", (*CITY,), {"$ref": "#/$defs/city", "description": "Where."}),
    ("schemas", (CONFIG, "responseJsonSchema"), {"type": "OBJECT"}),
    ("schemas", ("tools", 0, "functionDeclarations", 1, "parameters"), {"type": "object"}),
    ("thinking", (CONFIG, "thinkingConfig", "thinkingBudget"), 1024),
    ("thinking", (CONFIG, "thinkingConfig"), {"thinkingLevel": "MAX"}),
    ("thinking", (CONFIG, "thinkingConfig"), {"thinkingBudget": 1024}),
    ("signatures", (*STEP, 0, "thoughtSignature"), "claude-signature/+=="),
    ("signatures", (*STEP, 0, "thoughtSignature"), "bGxtcHJveHkx"),
    ("lost-signature", (*STEP, 0, "thoughtSignature"), ...),
    ("numbers", (CONFIG, "temperature"), 2.5),
    ("numbers", (CONFIG, "maxOutputTokens"), 0),
    ("numbers", (CONFIG, "responseLogprobs"), ...),
    ("stops", (CONFIG, "stopSequences"), list("ABCDEF")),
    ("stops", (CONFIG, "stopSequences"), [""]),
    ("output-format", (CONFIG, "response_mime_type"), ...),
    ("output-format", (CONFIG, "responseSchema"), {"type": "STRING"}),
    ("words", ("serviceTier",), "fast"),
    ("words", (CONFIG, "responseModalities"), ["audio"]),
    ("words", (*ASKED, 1, "mediaResolution"), {"level": "low"}),
]
OLDER: list[tuple[str, tuple[Any, ...], Any]] = [
    ("results", (CONFIG, "thinkingConfig"), {"thinkingBudget": 1024}),
    ("thinking", (*RESULTS, 1, "functionResponse", "parts"), []),
]


@pytest.mark.parametrize(("rule", "path", "value"), CHANGES)
def test_a_request_is_refused_by_its_rule(rule: str, path: tuple[Any, ...], value: Any) -> None:
    """One change to a good request, and the rule for it refuses."""
    refused = refused_by(change(path, value))
    assert refused is not None
    assert refused[0] == rule, refused[1]


@pytest.mark.parametrize(("rule", "path", "value"), OLDER)
def test_an_older_model_refuses_more(rule: str, path: tuple[Any, ...], value: Any) -> None:
    """Levels and media in responses are the newer models'; both gone, an older one takes the request."""
    refused = refused_by(change(path, value), path=OLD_ADDRESS)
    assert refused is not None
    assert refused[0] == rule, refused[1]
    both = change(OLDER[1][1], OLDER[1][2], change(OLDER[0][1], OLDER[0][2]))
    formatted = refused_by(both, path=OLD_ADDRESS)
    assert formatted is not None
    assert formatted[0] == "output-format", "tools beside a format are the newer models', too"
    for key in ("response_mime_type", "responseJsonSchema"):
        del both[CONFIG][key]
    assert refused_by(both, path=OLD_ADDRESS) is None


@pytest.mark.parametrize("budget", [0, 100, 40_000])
def test_a_budget_stands_within_its_models_range(budget: int) -> None:
    """One that can't be switched off takes neither nought nor more than its most."""
    asked = {"contents": [user("Hi")], CONFIG: {"thinkingConfig": {"thinkingBudget": budget}}}
    refused = refused_by(asked, path=OLD_ADDRESS)
    assert refused is not None
    assert refused[0] == "thinking"


AROUND: list[Any] = [
    pytest.param(KEY, "/models/gemini-3.5-flash:generateContent", "", "address", id="no-version"),
    pytest.param(KEY, ADDRESS.replace("generate", "streamGenerate"), "", "address", id="stream-without-alt"),
    pytest.param(KEY, ADDRESS, "key=sk-upstream", "address", id="key-in-query"),
    pytest.param({}, ADDRESS, "", "credential", id="no-key"),
    pytest.param({**KEY, "authorization": "Bearer k"}, ADDRESS, "", "credential", id="two-keys"),
]


@pytest.mark.parametrize(("headers", "path", "query", "rule"), AROUND)
def test_what_stands_around_the_body_is_judged(headers: dict[str, str], path: str, query: str, rule: str) -> None:
    """Addresses and keys."""
    refused = refused_by(BODY, headers, path, query)
    assert refused is not None
    assert refused[0] == rule, refused[1]


def test_one_field_in_two_spellings_is_refused() -> None:
    """Either spelling is read, but not both at once."""
    refused = refused_by({**BODY, "tool_config": {}})
    assert refused is not None
    assert refused[0] == "json"


EMBEDDINGS: list[Any] = [
    pytest.param("requests", ("requests",), [], id="none"),
    pytest.param("requests", ("requests",), EMBEDDING["requests"] * 101, id="too-many"),
    pytest.param("requests", ("requests", 0, "content"), user(""), id="empty-text"),
    pytest.param("requests", ("input",), ["Hi"], id="openais-words"),
    pytest.param("requests", ("requests", 0, "dimensions"), 8, id="openais-size"),
    pytest.param("model", ("requests", 0, "model"), "e-1", id="model-without-its-kind"),
    pytest.param("model", ("requests", 0, "model"), "models/e-2", id="another-model"),
]


@pytest.mark.parametrize(("rule", "path", "value"), EMBEDDINGS)
def test_embeddings_are_refused_by_their_rule(rule: str, path: tuple[Any, ...], value: Any) -> None:
    """One change to a good request for embeddings, and the rule for it refuses."""
    refused = refused_by(change(path, value, EMBEDDING), path=EMBEDDINGS_ADDRESS)
    assert refused is not None
    assert refused[0] == rule, refused[1]


def test_embeddings_have_an_address_and_a_key() -> None:
    """A single content is an address that the gateway does not use; it needs a key, too."""
    for headers, query, rule in ((KEY, "alt=sse", "address"), ({}, "", "credential")):
        refused = refused_by(EMBEDDING, headers, EMBEDDINGS_ADDRESS, query)
        assert refused is not None
        assert refused[0] == rule


def test_every_rule_has_refused_something() -> None:
    """No rule stands here that nothing trips."""
    around = {case.values[3] for case in AROUND}
    assert {rule.name for rule in GEMINI_RULES} == {rule for rule, *_ in CHANGES} | around
    assert {rule.name for rule in EMBEDDING_RULES} == {case.values[0] for case in EMBEDDINGS} | around


def test_a_rule_can_be_set_aside() -> None:
    """`allow` names rules that shall not count, for what a passthrough passes on as it came."""
    changed = json.dumps(change(("later",), 1)).encode()
    asked = Received(method="POST", path=ADDRESS, query="", headers=list(KEY.items()), body=changed, at=0, connection=0)
    check_gemini(asked, allow=("unknown-keyword",))
