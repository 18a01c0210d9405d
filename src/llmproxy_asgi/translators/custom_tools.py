"""Free-text tools for upstreams that have none: a function with one string property, unwrapped in the answer.

The grammar of such a tool is described to the model, not enforced.
"""

from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.pairing import arguments_object


def emulated_description(tool: ir.Tool) -> str | None:
    """Return the function's description: the tool's description and its grammar."""
    words = [tool.description] if tool.description else []
    if tool.grammar is not None:
        words.append(f"The input must follow this {tool.grammar.syntax} grammar:\n{tool.grammar.definition}")
    return "\n\n".join(words) or None


def emulated_parameters() -> dict[str, Any]:
    """Return the function's parameters."""
    return {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
        "additionalProperties": False,
    }


def unwrapped_input(arguments: str) -> str:
    """Return the free text in the function's arguments."""
    found = arguments_object(arguments)
    text = found.get("input")
    if type(text) is str and len(found) == 1:
        return text
    return "" if not found else arguments


def wrapped_input(text: str) -> str:
    """Return free text as the function's arguments."""
    return msgspec.json.encode({"input": text}).decode()
