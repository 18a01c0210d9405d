"""The strict fake of Responses: it takes what the vendor takes, and every rule of its refuses something."""

import copy
import json
from typing import Any

import pytest

from llmproxy_asgi.testing import Received
from support.pairs.asks import PDF, PNG, response_call, response_output, responses_tool
from support.strict import RESPONSES_RULES, Refused, check_responses

JSONObject = dict[str, Any]

CUSTOM: JSONObject = {
    "type": "custom",
    "name": "patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'},
}
SPACE: JSONObject = {"type": "namespace", "name": "maps", "description": "Maps.", "tools": [responses_tool("find")]}
BODY: JSONObject = {
    "model": "gpt-5.9",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": "Answer in JSON."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
                {"type": "input_file", "file_url": "https://files.example/b.pdf"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "openai-state"},
        {**response_call("call_1"), "id": "fc_1"},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "patch", "input": "a"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "done"},
        response_output("call_1", [{"type": "input_text", "text": "snow"}]),
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "So it snows.", "annotations": []}],
        },
        {"role": "user", "content": "And now?"},
    ],
    "tools": [responses_tool(strict=True), CUSTOM, SPACE, {"type": "web_search"}],
    "tool_choice": {"type": "function", "name": "get_weather"},
    "temperature": 1,
    "max_output_tokens": 16,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_object"}, "verbosity": "low"},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "store": False,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
}
HEADERS = {"authorization": "Bearer sk-upstream-1"}


def refused_by(body: JSONObject, headers: dict[str, str] = HEADERS, path: str = "/v1/responses") -> str | None:
    data = json.dumps(body).encode()
    received = Received(
        method="POST", path=path, query="", headers=list(headers.items()), body=data, at=0.0, connection=0
    )
    try:
        check_responses(received)
    except Refused as refused:
        return refused.rule
    return None


def changed(path: tuple[Any, ...], value: Any) -> JSONObject:
    """The good body with one value set, or removed where it is `...`."""
    body = copy.deepcopy(BODY)
    holder: Any = body
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return body


def test_a_whole_request_is_taken() -> None:
    """A request with most of what there is passes every rule."""
    assert refused_by(BODY) is None


USER = ("input", 1, "content")
OPEN_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
SCHEMA_FORMAT = {"type": "json_schema", "name": "a", "schema": OPEN_SCHEMA}
MARKED = {"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}
CHANGES: list[tuple[str, tuple[Any, ...], Any]] = [
    ("required", ("model",), ...),
    ("required", ("input",), []),
    ("required", ("conversation",), "conv_1"),
    ("unknown-keyword", ("stop",), ["END"]),
    ("unknown-keyword", ("input", 0, "name"), "Ann"),
    ("unknown-keyword", ("input", 3, "type"), "tool_use"),
    ("unknown-keyword", (*USER, 0, "cache_control"), {}),
    ("unknown-keyword", (*USER, 0, "type"), "text"),
    ("content", ("input", 0, "role"), "tool"),
    ("content", ("input", 0, "content"), []),
    ("content", ("input", 7, "content", 0), {"type": "input_text", "text": "x"}),
    ("content", ("input", 7, "phase"), "thinking"),
    ("content", ("input", 6, "output"), ...),
    ("content", ("input", 6, "output"), [{"type": "output_text", "text": "x"}]),
    ("media", (*USER, 1, "image_url"), "data:image/png;base64,???"),
    ("media", (*USER, 1, "image_url"), {"url": "https://a.example"}),
    ("media", (*USER, 1, "file_id"), "file-1"),
    ("media", (*USER, 2, "filename"), ...),
    ("media", (*USER, 3, "file_url"), "file:///etc/passwd"),
    ("item-ids", ("input", 2, "id"), ...),
    ("item-ids", ("input", 3, "id"), "call_1"),
    ("item-ids", ("input", 7, "id"), "msg_" + "1" * 64),
    ("item-ids", ("input", 7, "id"), "msg.1"),
    ("calls", ("input", 3, "arguments"), {}),
    ("calls", ("input", 3, "name"), "maps.find"),
    ("calls", ("input", 3, "call_id"), "call.1"),
    ("pairing", ("input", 6), ...),
    ("pairing", ("input", 3), ...),
    ("pairing", ("input", 5, "type"), "function_call_output"),
    ("pairing", ("input", 4, "call_id"), "call_1"),
    ("reasoning", ("input", 2, "summary"), ...),
    ("reasoning", ("input", 2, "encrypted_content"), "bGxtcHJveHkx"),
    ("reasoning", ("input", 8), {"type": "reasoning", "id": "rs_2", "summary": []}),
    ("tools", ("tools",), [responses_tool(), responses_tool()]),
    ("tools", ("tools", 0), {"type": "function", "function": {"name": "a"}}),
    ("tools", ("tools", 0, "name"), "maps.find"),
    ("tools", ("tools", 0, "type"), "function_tool"),
    ("tools", ("tools", 0, "parameters", "type"), "OBJECT"),
    ("tools", ("tools", 0, "parameters", "additionalProperties"), ...),
    ("tools", ("tools", 1, "format"), {"type": "grammar", "grammar": {"syntax": "lark", "definition": "a"}}),
    ("tools", ("tools", 2, "tools"), [{"type": "web_search"}]),
    ("tools", ("tools", 2, "description"), ...),
    ("tool-choice", ("tool_choice", "name"), "find"),
    ("tool-choice", ("tool_choice",), {"type": "function", "function": {"name": "get_weather"}}),
    ("tool-choice", ("tool_choice",), "any"),
    ("tool-choice", ("tools",), []),
    ("numbers", ("max_output_tokens",), 15),
    ("numbers", ("temperature",), 2.5),
    ("words", ("reasoning", "effort"), "enormous"),
    ("words", ("service_tier",), "standard_only"),
    ("words", ("include", 0), "everything"),
    ("text", ("text", "format"), {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}),
    ("text", ("text", "format"), {**SCHEMA_FORMAT, "strict": True}),
    ("text", ("input",), "Hi"),
    ("stream-options", ("stream",), False),
    ("stream-options", ("stream_options",), {"include_usage": True}),
    ("identity", ("metadata",), {"k" * 65: "v"}),
    ("identity", ("safety_identifier",), "u" * 129),
    ("cache-marks", USER, [MARKED] * 5),
    ("cache-marks", (*USER, 0, "prompt_cache_breakpoint", "ttl"), "5m"),
]


@pytest.mark.parametrize(("rule", "path", "value"), CHANGES)
def test_it_is_refused_by_its_rule(rule: str, path: tuple[Any, ...], value: Any) -> None:
    """One change to a good request, and the rule for it refuses."""
    body = changed(path, value)
    if path in (("input",), ("conversation",)):
        body.pop("instructions")
    if path == ("conversation",):
        body["previous_response_id"] = "resp_1"
    assert refused_by(body) == rule


AROUND: list[Any] = [
    pytest.param(HEADERS, "/responses", "address", id="address"),
    pytest.param({}, "/v1/responses", "credential", id="no-key"),
    pytest.param({**HEADERS, "x-goog-api-key": "k"}, "/v1/responses", "credential", id="foreign-header"),
]


@pytest.mark.parametrize(("headers", "path", "rule"), AROUND)
def test_what_stands_around_the_body_is_judged(headers: dict[str, str], path: str, rule: str) -> None:
    """The address and the key."""
    assert refused_by(BODY, headers, path) == rule


def test_every_rule_has_refused_something() -> None:
    """No rule stands here that nothing trips."""
    tripped = {rule for rule, *_ in CHANGES} | {case.values[2] for case in AROUND}
    assert {rule.name for rule in RESPONSES_RULES} == tripped
