"""Functions written flat, as Responses has them, in a body that goes to a Chat upstream as it is: they are nested."""

import re
from typing import Any

import msgspec

from llmproxy_asgi.translators.members import raw

_NESTED = re.compile(
    rb"""\[\s*(?:\]|\{\s*(?:"type"\s*:\s*"(?:function|custom)"\s*,\s*)?"(?:function|custom)"\s*:\s*\{)"""
)
"""How a list of tools begins where the first of them is nested, as nearly always: no more of it is read."""
_KINDS = ("function", "custom")  # compared, not looked up: a caller's `type` may be an object


def nest_flat_tools(values: dict[str, msgspec.Raw]) -> None:
    """Write flat functions of `tools`, and a flat choice of one, in the form that Chat upstreams take."""
    tools = values.get("tools")
    if tools is None or _NESTED.match(memoryview(tools)):
        return
    declared = msgspec.json.decode(tools)
    if type(declared) is not list or not any(map(_is_flat, declared)):
        return
    values["tools"] = raw([_nested(tool) for tool in declared])
    if "tool_choice" in values:
        choice = msgspec.json.decode(values["tool_choice"])
        if type(choice) is dict and choice.get("type") == "allowed_tools" and "allowed_tools" not in choice:
            allowed = {key: value for key, value in choice.items() if key != "type"}
            if type(allowed.get("tools")) is list:
                allowed["tools"] = [_nested(tool) for tool in allowed["tools"]]
            choice = {"type": "allowed_tools", "allowed_tools": allowed}
        values["tool_choice"] = raw(_nested(choice))


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
