"""What Google's callers ask, in its own words."""

from collections.abc import Mapping, Sequence
from typing import Any

from support.pairs.gemini_wires import Called, function_call

STAND_IN = "skip_thought_signature_validator"

JSONObject = dict[str, Any]


def user(*parts: JSONObject | str) -> JSONObject:
    """A content of the user's."""
    return {"role": "user", "parts": [{"text": part} if isinstance(part, str) else part for part in parts]}


def model(*parts: JSONObject | str) -> JSONObject:
    """A content of the model's."""
    return {**user(*parts), "role": "model"}


def declared(name: str, schema: JSONObject, **more: Any) -> JSONObject:
    """A function as Google declares it, and as we send it."""
    return {"name": name, "description": f"Runs {name}.", "parametersJsonSchema": schema, **more}


def functions(*declarations: JSONObject) -> list[JSONObject]:
    """Functions as tools."""
    return [{"functionDeclarations": list(declarations)}]


def function_response(call_id: str, name: str, response: JSONObject, **more: Any) -> JSONObject:
    """A result as a part."""
    return {"functionResponse": {"id": call_id, "name": name, "response": response, **more}}


def gemini_step(calls: Sequence[Called], results: Mapping[str, str]) -> list[JSONObject]:
    """A finished step: the calls, and their results in the order in which they are given.

    No Gemini made these calls, so the first bears what Google documents for that in the place of a signature.
    """
    names = {call.id: call.name for call in calls}
    answered = [function_response(call_id, names[call_id], {"output": text}) for call_id, text in results.items()]
    made = [function_call(call) for call in calls]
    made[0]["thoughtSignature"] = STAND_IN
    return [model(*made), user(*answered)]


def chosen(mode: str, *names: str) -> JSONObject:
    """A choice among the functions, as `toolConfig`."""
    return {"functionCallingConfig": {"mode": mode, **({"allowedFunctionNames": list(names)} if names else {})}}


def spoken(contents: Any) -> list[tuple[str, list[str]]]:
    """The role and the texts of each turn."""
    return [(each["role"], [part["text"] for part in each["parts"] if "text" in part]) for each in contents]
