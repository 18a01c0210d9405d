"""The strict fakes themselves: they take what the vendors take, and every rule of theirs refuses something."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from llmproxy_asgi.testing import Received
from support.pairs.asks import PDF, PNG, chat_call, chat_tool, messages_tool, tool_result, tool_use
from support.strict import (
    CHAT_RULES,
    MESSAGES_RULES,
    TEMPLATE_RULES,
    Refused,
    check_chat,
    check_messages,
    check_template,
)

JSONObject = dict[str, Any]

CHAT_BODY: JSONObject = {
    "model": "gpt-5.9",
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [chat_call("call_1"), chat_call("call_2")]},
        {"role": "tool", "tool_call_id": "call_2", "content": "snow"},
        {"role": "tool", "tool_call_id": "call_1", "content": "snow"},
    ],
    "tools": [chat_tool(strict=True)],
    "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    "temperature": 1,
    "reasoning_effort": "low",
    "stop": ["END"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    "metadata": {"a": "b"},
}
MESSAGES_BODY: JSONObject = {
    "model": "claude-sonnet-5",
    "max_tokens": 5000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hi"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "claude-signature"},
                tool_use("toolu_1"),
                tool_use("toolu_2"),
            ],
        },
        {"role": "user", "content": [tool_result("toolu_2", "snow"), tool_result("toolu_1", "snow")]},
    ],
    "tools": [messages_tool(strict=True)],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "string"}}},
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
}
CHAT_HEADERS = {"authorization": "Bearer sk-upstream-1"}
MESSAGES_HEADERS = {"x-api-key": "sk-upstream-1", "anthropic-version": "2026-10-21"}


def received(body: JSONObject | bytes, headers: dict[str, str], path: str) -> Received:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Received(method="POST", path=path, query="", headers=list(headers.items()), body=data, at=0.0, connection=0)


def refused_by(check: Callable[..., None], *request: Any) -> str | None:
    try:
        check(received(*request))
    except Refused as refused:
        return refused.rule
    return None


def test_whole_requests_are_taken() -> None:
    """A request with most of what there is passes every rule."""
    assert refused_by(check_chat, CHAT_BODY, CHAT_HEADERS, "/v1/chat/completions") is None
    assert refused_by(check_messages, MESSAGES_BODY, MESSAGES_HEADERS, "/v1/messages") is None


def change(body: JSONObject, path: tuple[Any, ...], value: Any) -> JSONObject:
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


USER_PARTS = ("messages", 1, "content")
CHAT_CHANGES: list[tuple[str, tuple[Any, ...], Any]] = [
    ("required", ("model",), ...),
    ("required", ("messages",), []),
    ("roles", ("messages", 0, "role"), "wizard"),
    ("unknown-keyword", ("cache_control",), {}),
    ("unknown-keyword", ("messages", 2, "reasoning_content"), "Hm."),
    ("content", ("messages", 0, "content"), None),
    ("content", ("messages", 0, "content"), []),
    ("content", ("messages", 3, "content"), [{"type": "image_url", "image_url": {"url": "https://a.example"}}]),
    ("content", (*USER_PARTS, 0, "cache_control"), {}),
    ("media", (*USER_PARTS, 1, "image_url", "url"), "data:image/png;base64,???"),
    ("media", (*USER_PARTS, 1, "image_url", "url"), "file:///etc/passwd"),
    ("media", (*USER_PARTS, 2, "file", "filename"), ...),
    ("call-ids", ("messages", 2, "tool_calls", 0, "id"), "call.1"),
    ("call-ids", ("messages", 2, "tool_calls", 0, "id"), "call_2"),
    ("calls", ("messages", 2, "tool_calls", 0, "function", "arguments"), {}),
    ("calls", ("messages", 2, "tool_calls", 0, "function", "name"), "a.b"),
    ("pairing", ("messages", 3, "tool_call_id"), "call_9"),
    ("pairing", ("messages", 4), {"role": "user", "content": "Well?"}),
    ("pairing", ("messages", 4), ...),
    ("tools", ("tools", 0, "function", "name"), "a.b"),
    ("tools", ("tools", 0, "function", "parameters", "type"), "OBJECT"),
    ("tools", ("tools",), [chat_tool(), chat_tool()]),
    ("strict-tools", ("tools", 0, "function", "parameters", "additionalProperties"), ...),
    ("strict-tools", ("tools", 0, "function", "parameters", "required"), []),
    ("tool-choice", ("tool_choice", "function", "name"), "other"),
    ("tool-choice", ("tool_choice",), "any"),
    ("tool-choice", ("tools",), ...),
    ("numbers", ("temperature",), 2.5),
    ("numbers", ("top_logprobs",), 3),
    ("words", ("reasoning_effort",), "enormous"),
    ("stops", ("stop",), list("ABCDE")),
    ("stream-options", ("stream",), False),
    ("response-format", ("response_format", "json_schema", "name"), "a b"),
    ("response-format", ("response_format",), {"type": "json_object"}),
    ("response-format", ("response_format", "json_schema", "strict"), True),
    ("identity", ("metadata",), {"k" * 65: "v"}),
    ("cache-marks", (*USER_PARTS, 0, "prompt_cache_breakpoint", "ttl"), "5m"),
    (
        "cache-marks",
        (*USER_PARTS,),
        [{"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}] * 5,
    ),
]
FIRST, STEP, RESULTS = (("messages", number, "content") for number in range(3))
MESSAGES_CHANGES: list[tuple[str, tuple[Any, ...], Any]] = [
    ("required", ("messages",), []),
    ("max-tokens", ("max_tokens",), ...),
    ("unknown-keyword", ("temperature_",), 1),
    ("unknown-keyword", (*FIRST, 0, "prompt_cache_breakpoint"), {}),
    ("unknown-keyword", (*FIRST, 0, "type"), "image_url"),
    ("first-turn", ("messages", 0, "role"), "assistant"),
    ("roles", ("messages", 2, "role"), "tool"),
    ("roles", ("model",), "claude-sonnet-4-5"),
    ("content", (*FIRST,), []),
    ("content", (*FIRST,), [tool_use("toolu_0")]),
    ("empty-text", (*FIRST, 0, "text"), " "),
    ("empty-text", (*RESULTS, 0, "content"), [{"type": "text", "text": ""}]),
    ("media", (*FIRST, 1, "source", "media_type"), "image/bmp"),
    ("media", (*FIRST, 2, "source", "data"), "?"),
    ("call-ids", (*STEP, 1, "id"), "toolu.1"),
    ("call-ids", (*STEP, 1, "id"), "toolu_2"),
    ("calls", (*STEP, 1, "input"), "{}"),
    ("calls", (*STEP, 1, "name"), "a.b"),
    ("pairing", (*RESULTS,), [tool_result("toolu_1", "snow")]),
    ("pairing", (*RESULTS,), [{"type": "text", "text": "Well?"}, *MESSAGES_BODY["messages"][2]["content"]]),
    ("pairing", ("messages", 2), ...),
    ("last-turn", ("messages",), [MESSAGES_BODY["messages"][0], {"role": "assistant", "content": "It"}]),
    ("tools", ("tools", 0, "name"), "a.b"),
    ("tools", ("tools", 0, "input_schema", "type"), "OBJECT"),
    ("tools", ("tools",), [messages_tool(), messages_tool()]),
    ("tool-choice", ("tool_choice",), {"type": "any"}),
    ("tool-choice", ("tool_choice",), {"type": "none", "disable_parallel_tool_use": True}),
    ("tool-choice", ("tools",), ...),
    ("thinking", ("thinking",), {"type": "enabled", "budget_tokens": 2000}),
    ("effort", ("output_config", "effort"), "minimal"),
    ("signatures", (*STEP, 0, "signature"), "bGxtcHJveHkx"),
    ("sampling", ("temperature",), 1),
    ("cache-marks", ("system",), MESSAGES_BODY["system"] * 5),
    ("cache-marks", ("system", 0, "cache_control", "ttl"), "30m"),
    ("output-format", ("output_config", "format", "schema"), {"type": "object"}),
    ("output-format", ("output_config", "format", "schema", "minLength"), 3),
    ("stops", ("stop_sequences",), ["\n"]),
    ("words", ("metadata", "team"), "blue"),
    ("newest-version", (*FIRST, 0, "citations"), [{"type": "char_location"}]),
]


@pytest.mark.parametrize(("rule", "path", "value"), CHAT_CHANGES)
def test_chat_is_refused_by_its_rule(rule: str, path: tuple[Any, ...], value: Any) -> None:
    """One change to a good Chat request, and the rule for it refuses."""
    assert refused_by(check_chat, change(CHAT_BODY, path, value), CHAT_HEADERS, "/v1/chat/completions") == rule


@pytest.mark.parametrize(("rule", "path", "value"), MESSAGES_CHANGES)
def test_messages_are_refused_by_their_rule(rule: str, path: tuple[Any, ...], value: Any) -> None:
    """The same for Messages."""
    changed = change(MESSAGES_BODY, path, value)
    if path == ("model",):
        changed["messages"].insert(1, {"role": "system", "content": "Be brief."})
    assert refused_by(check_messages, changed, MESSAGES_HEADERS, "/v1/messages") == rule


BUDGET = {
    **MESSAGES_BODY,
    "model": "claude-sonnet-4-5",
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {},
}
HEADER_CASES: list[Any] = [
    pytest.param(check_chat, CHAT_BODY, CHAT_HEADERS, "/chat/completions", "address", id="chat-address"),
    pytest.param(check_chat, CHAT_BODY, {}, "/v1/chat/completions", "credential", id="chat-no-key"),
    pytest.param(
        check_chat,
        CHAT_BODY,
        {**CHAT_HEADERS, "x-api-key": "k"},
        "/v1/chat/completions",
        "credential",
        id="chat-foreign-header",
    ),
    pytest.param(check_messages, MESSAGES_BODY, MESSAGES_HEADERS, "/messages", "address", id="messages-address"),
    pytest.param(
        check_messages,
        MESSAGES_BODY,
        {**MESSAGES_HEADERS, "authorization": "Bearer k"},
        "/v1/messages",
        "credential",
        id="messages-two-keys",
    ),
    pytest.param(
        check_messages, MESSAGES_BODY, {"x-api-key": "sk-upstream"}, "/v1/messages", "version", id="messages-version"
    ),
    pytest.param(
        check_messages,
        change(BUDGET, (*STEP, 0), {"type": "text", "text": "Hm."}),
        MESSAGES_HEADERS,
        "/v1/messages",
        "lost-thinking",
        id="messages-lost-thinking",
    ),
    pytest.param(
        check_messages,
        change(BUDGET, ("thinking", "budget_tokens"), 5000),
        MESSAGES_HEADERS,
        "/v1/messages",
        "thinking",
        id="messages-budget-over-limit",
    ),
    pytest.param(check_chat, b'{"a": 1, "a": 2}', CHAT_HEADERS, "/v1/chat/completions", "json", id="repeated-member"),
]


@pytest.mark.parametrize(("check", "body", "headers", "path", "rule"), HEADER_CASES)
def test_what_stands_around_the_body_is_judged(
    check: Callable[..., None], body: Any, headers: dict[str, str], path: str, rule: str
) -> None:
    """Addresses, keys, versions and what one change cannot bring about."""
    assert refused_by(check, body, headers, path) == rule


def test_every_rule_has_refused_something() -> None:
    """No rule stands here that nothing trips."""
    by_header = {case.values[4] for case in HEADER_CASES}
    assert {rule.name for rule in CHAT_RULES} <= {rule for rule, *_ in CHAT_CHANGES} | by_header
    assert {rule.name for rule in MESSAGES_RULES} <= {rule for rule, *_ in MESSAGES_CHANGES} | by_header


@pytest.mark.parametrize(
    ("rule", "messages"),
    [
        ("one-system", [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}]),
        ("one-system", [{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}]),
        ("user-query", [{"role": "system", "content": "a"}]),
        ("alternation", [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        ("text-as-string", [{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
    ],
)
def test_chat_templates_of_open_models_refuse(rule: str, messages: list[JSONObject]) -> None:
    """Each rule of a template refuses its own fault, and a plain conversation is taken."""
    body = {"model": "m", "messages": messages}
    assert refused_by(check_template, body, CHAT_HEADERS, "/v1/chat/completions") == rule
    assert rule in {each.name for each in TEMPLATE_RULES}
    plain = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    check_template(received({"model": "m", "messages": plain}, CHAT_HEADERS, "/v1/chat/completions"))


def test_a_rule_can_be_set_aside() -> None:
    """`allow` names rules that shall not count, for what a passthrough passes on as it came."""
    changed = change(CHAT_BODY, ("later",), 1)
    check_chat(received(changed, CHAT_HEADERS, "/v1/chat/completions"), allow=("unknown-keyword",))
