"""What callers ask, in each protocol's own words: the same question twice, written out."""

import json
from typing import Any

from support.pairs import gemini_asks
from support.pairs.wires import CHAT, GEMINI, MESSAGES, RESPONSES, Call

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = "JVBERi0xLjQKJSBhIHNtYWxsIGZpbGUK"

WEATHER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
NOW_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}

QUESTION: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "How is the weather?"}]},
    # What is kept gets a name of its own each time; the same question shall give the same bytes.
    RESPONSES: {"input": [{"role": "user", "content": "How is the weather?"}], "store": False},
    MESSAGES: {"messages": [{"role": "user", "content": "How is the weather?"}]},
    GEMINI: {"contents": [{"role": "user", "parts": [{"text": "How is the weather?"}]}]},
}
TURNS = {CHAT: "messages", RESPONSES: "input", MESSAGES: "messages", GEMINI: "contents"}
"""Under which name each protocol has its conversation."""


def begun(protocol: str) -> list[dict[str, Any]]:
    """The question as the turns of a conversation that will go on."""
    return list(QUESTION[protocol][TURNS[protocol]])


def conversation(protocol: str, turns: list[Any]) -> dict[str, Any]:
    """These turns as what a caller asks."""
    return {TURNS[protocol]: turns}


def chat_tool(name: str = "get_weather", schema: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A tool as Chat declares it."""
    function = {"name": name, "description": f"Runs {name}.", "parameters": schema or WEATHER_SCHEMA, **more}
    return {"type": "function", "function": function}


def responses_tool(name: str = "get_weather", schema: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A tool as Responses declares it."""
    declared = {"type": "function", "name": name, "description": f"Runs {name}.", "strict": False}
    return {**declared, "parameters": schema or WEATHER_SCHEMA, **more}


def messages_tool(name: str = "get_weather", schema: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A tool as Messages declares it."""
    return {"name": name, "description": f"Runs {name}.", "input_schema": schema or WEATHER_SCHEMA, **more}


def tools(protocol: str, *names: str) -> list[dict[str, Any]]:
    """Tools of these names."""
    if protocol == GEMINI:
        return gemini_asks.functions(*(gemini_asks.declared(name, WEATHER_SCHEMA) for name in names))
    make = {CHAT: chat_tool, RESPONSES: responses_tool, MESSAGES: messages_tool}[protocol]
    return [make(name) for name in names]


def chat_call(call_id: str, name: str = "get_weather", arguments: str = '{"city":"Oslo"}') -> dict[str, Any]:
    """A call in an assistant message of Chat's."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_use(call_id: str, name: str = "get_weather", **given: Any) -> dict[str, Any]:
    """A call in an assistant message of Messages'."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": given or {"city": "Oslo"}}


def tool_result(call_id: str, content: Any, **more: Any) -> dict[str, Any]:
    """A result in a user message of Messages'."""
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def response_call(call_id: str, name: str = "get_weather", arguments: str = '{"city":"Oslo"}') -> dict[str, Any]:
    """A call among the items of Responses'."""
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def response_output(call_id: str, output: Any) -> dict[str, Any]:
    """A result among the items of Responses'."""
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def step(protocol: str, calls: list[Call], results: dict[str, str]) -> list[dict[str, Any]]:
    """A finished step: the calls, and their results in the order in which they are given."""
    if protocol == GEMINI:
        return gemini_asks.gemini_step(calls, results)
    if protocol == RESPONSES:
        return [
            *(response_call(call.id, call.name, call.arguments) for call in calls),
            *(response_output(call_id, text) for call_id, text in results.items()),
        ]
    if protocol == CHAT:
        made = [chat_call(call.id, call.name, call.arguments) for call in calls]
        return [
            {"role": "assistant", "content": None, "tool_calls": made},
            *({"role": "tool", "tool_call_id": call_id, "content": text} for call_id, text in results.items()),
        ]
    return [
        {"role": "assistant", "content": [_use(call) for call in calls]},
        {"role": "user", "content": [tool_result(call_id, text) for call_id, text in results.items()]},
    ]


def _use(call: Call) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}


def counting(client: str, *, stream: bool) -> dict[str, Any]:
    """What a caller adds to see usage."""
    return {"stream_options": {"include_usage": True}} if client == CHAT and stream else {}
