"""Nest flat functions of Responses in passthrough requests for Chat upstreams."""

import re
from typing import Any

import msgspec

from llmproxy_asgi.translators.raw_json import raw
from llmproxy_asgi.wire.json_body import elements

_NESTED = re.compile(rb"""\{\s*(?:"type"\s*:\s*"(?:function|custom)"\s*,\s*)?"(?:function|custom)"\s*:\s*\{""")
"""The usual beginning of a nested tool."""
_KINDS = ("function", "custom")  # compared, not looked up: a caller's `type` may be an object
_ARRAY, _OBJECT = b"[{"


def nest_flat_tools(values: dict[str, msgspec.Raw]) -> None:
    """Nest flat functions in `tools` and a flat tool choice."""
    tools = values.get("tools")
    if tools is None:
        return
    if memoryview(tools)[0] == _ARRAY and not all(_NESTED.match(memoryview(each)) for each in elements(tools)):
        declared = msgspec.json.decode(tools)
        if any(map(_is_flat, declared)):
            values["tools"] = raw([_nested(tool) for tool in declared])
    choice = values.get("tool_choice")
    if choice is not None and memoryview(choice)[0] == _OBJECT:
        chosen = msgspec.json.decode(choice)
        if (nested := _nested_choice(chosen)) is not chosen:
            values["tool_choice"] = raw(nested)


def _nested_choice(choice: dict[str, Any]) -> Any:
    if choice.get("type") != "allowed_tools" or "allowed_tools" in choice:
        return _nested(choice)
    allowed = {key: value for key, value in choice.items() if key != "type"}
    if type(allowed.get("tools")) is list:
        allowed["tools"] = [_nested(tool) for tool in allowed["tools"]]
    return {"type": "allowed_tools", "allowed_tools": allowed}


def _is_flat(tool: Any) -> bool:
    return type(tool) is dict and tool.get("type") in _KINDS and tool["type"] not in tool and "name" in tool


def _nested(tool: Any) -> Any:
    if not _is_flat(tool):
        return tool
    kind: str = tool["type"]
    inner = {key: value for key, value in tool.items() if key != "type"}
    form = inner.get("format")
    if kind == "custom" and type(form) is dict and form.get("type") == "grammar" and "grammar" not in form:
        rules = {key: value for key, value in form.items() if key != "type"}
        inner["format"] = {"type": "grammar", "grammar": rules}
    return {"type": kind, kind: inner}
