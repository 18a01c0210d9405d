"""Flatten nested functions of Chat in passthrough requests for Responses upstreams."""

import re
from typing import Any

import msgspec

from llmproxy_asgi.translators.raw_json import raw

_MAY_NEST = re.compile(rb'"(?:function|custom|allowed_tools)"\s*:\s*\{').search
_KINDS = ("function", "custom")  # compared, not looked up: a caller's `type` may be an object


def flatten_nested_tools(values: dict[str, msgspec.Raw]) -> None:
    """Flatten nested functions in `tools` and a nested tool choice."""
    tools = values.get("tools")
    if tools is not None and _MAY_NEST(tools):
        declared = msgspec.json.decode(tools)
        if type(declared) is list and any(map(_is_nested, declared)):
            values["tools"] = raw([_flat(tool) for tool in declared])
    choice = values.get("tool_choice")
    if choice is not None and _MAY_NEST(choice):
        chosen = msgspec.json.decode(choice)
        if (flat := _flat_choice(chosen)) is not chosen:
            values["tool_choice"] = raw(flat)


def _flat_choice(choice: Any) -> Any:
    if type(choice) is not dict or choice.get("type") != "allowed_tools":
        return _flat(choice)
    allowed = choice.get("allowed_tools")
    if type(allowed) is not dict:
        return choice
    if type(allowed.get("tools")) is list:
        allowed = {**allowed, "tools": [_flat(tool) for tool in allowed["tools"]]}
    return {"type": "allowed_tools", **allowed}


def _is_nested(tool: Any) -> bool:
    return type(tool) is dict and tool.get("type") in _KINDS and type(tool.get(tool["type"])) is dict


def _flat(tool: Any) -> Any:
    if not _is_nested(tool):
        return tool
    kind: str = tool["type"]
    inner: dict[str, Any] = dict(tool[kind])
    form = inner.get("format")
    if kind == "custom" and type(form) is dict and type(form.get("grammar")) is dict:
        inner["format"] = {"type": "grammar", **form["grammar"]}
    around = {key: value for key, value in tool.items() if key not in {"type", kind}}
    return {"type": kind, **around, **inner}
