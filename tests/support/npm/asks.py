"""The same question in each SDK's own words, and the words each has for how an answer ended."""

from typing import Any

from support.pairs.wires import CHAT, GEMINI, MESSAGES, RESPONSES

PROTOCOLS = (CHAT, RESPONSES, MESSAGES, GEMINI)

QUESTION = "How is the weather?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

STOPPED = {CHAT: "stop", RESPONSES: "completed", MESSAGES: "end_turn", GEMINI: "STOP"}
CALLED = {CHAT: "tool_calls", RESPONSES: "completed", MESSAGES: "tool_use", GEMINI: "STOP"}
FULL = {CHAT: "length", RESPONSES: "max_output_tokens", MESSAGES: "max_tokens", GEMINI: "MAX_TOKENS"}

_ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": QUESTION}], "stream_options": {"include_usage": True}},
    RESPONSES: {"input": QUESTION},
    MESSAGES: {"messages": [{"role": "user", "content": QUESTION}]},
    GEMINI: {"contents": QUESTION},
}
_FUNCTION = {"name": "get_weather", "description": "Tells the weather."}
_TOOL: dict[str, dict[str, Any]] = {
    CHAT: {"tools": [{"type": "function", "function": {**_FUNCTION, "parameters": SCHEMA}}]},
    RESPONSES: {"tools": [{"type": "function", **_FUNCTION, "parameters": SCHEMA, "strict": False}]},
    MESSAGES: {"tools": [{**_FUNCTION, "input_schema": SCHEMA}]},
    GEMINI: {"config": {"tools": [{"functionDeclarations": [{**_FUNCTION, "parametersJsonSchema": SCHEMA}]}]}},
}


def asked(protocol: str, model: str, *, tool: bool = False) -> dict[str, Any]:
    """The question, with a tool if it is to have one."""
    return {"model": model, **_ASKED[protocol], **(_TOOL[protocol] if tool else {})}
