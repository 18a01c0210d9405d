"""What OpenAI refuses in a Responses request."""

import re
from collections.abc import Callable, Collection, Iterator

from llmproxy_asgi.testing import Received
from support.strict.rules import (
    Asked,
    Complaints,
    JSONObject,
    Rule,
    apply,
    is_base64,
    one_of,
    root_faults,
    schema_faults,
    strict_faults,
    unknown,
    within,
)

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_INCLUDED = (
    "reasoning.encrypted_content", "message.output_text.logprobs", "message.input_image.image_url",
    "web_search_call.results", "web_search_call.action.sources", "file_search_call.results",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs",
)  # fmt: skip
_KEYS = frozenset(
    {
        "access_programs", "background", "context_management", "conversation", "image", "include", "input",
        "instructions", "max_output_tokens", "max_tool_calls", "metadata", "model", "moderation",
        "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "stream",
        "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user",
    }
)  # fmt: skip
_ITEM_KEYS = {
    "message": {"id", "role", "content", "status", "phase"},
    "reasoning": {"id", "summary", "content", "encrypted_content", "status"},
    "function_call": {"id", "call_id", "name", "arguments", "status", "namespace", "caller"},
    "function_call_output": {"id", "call_id", "output", "status", "name", "namespace", "caller"},
    "custom_tool_call": {"id", "call_id", "name", "input", "status", "namespace", "caller"},
    "custom_tool_call_output": {"id", "call_id", "output", "status", "name", "namespace", "caller"},
    "item_reference": {"id"},
}
_OWN_ITEMS = frozenset(
    {
        "web_search_call", "file_search_call", "computer_call", "computer_call_output", "image_generation_call",
        "code_interpreter_call", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output",
        "apply_patch_call", "apply_patch_call_output", "mcp_list_tools", "mcp_approval_request",
        "mcp_approval_response", "mcp_call", "tool_search_call", "tool_search_output", "additional_tools",
        "configuration_update", "compaction", "compaction_trigger", "program", "program_output",
    }
)  # fmt: skip
_PREFIXES = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_"}
_CALLS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
_TOLD = frozenset({"input_text", "input_image", "input_file"})
_SAID = frozenset({"output_text", "refusal"})
_CONTENTS = {"user": _TOLD, "system": _TOLD, "developer": _TOLD, "assistant": _SAID}
_PART_KEYS = {
    "input_text": {"type", "text", "prompt_cache_breakpoint"},
    "input_image": {"type", "image_url", "file_id", "detail", "prompt_cache_breakpoint"},
    "input_file": {"type", "file_id", "file_url", "file_data", "filename", "detail", "prompt_cache_breakpoint"},
    "output_text": {"type", "text", "annotations", "logprobs"},
    "refusal": {"type", "refusal"},
}
_FUNCTION = frozenset(
    {"type", "name", "description", "parameters", "strict", "defer_loading", "output_schema", "allowed_callers",
     "async"}
)  # fmt: skip
_CUSTOM = frozenset({"type", "name", "description", "format", "defer_loading", "allowed_callers"})
_OWN_TOOLS = frozenset(
    {
        "web_search", "web_search_preview", "file_search", "computer", "computer_use_preview", "code_interpreter",
        "image_generation", "mcp", "shell", "local_shell", "apply_patch", "tool_search", "programmatic_tool_calling",
    }
)  # fmt: skip


def check_responses(received: Received, *, allow: Collection[str] = ()) -> None:
    """Refuse what OpenAI refuses.

    Args:
        received: A request as the upstream got it.
        allow: Names of rules that shall not count.

    Raises:
        Refused: It breaks a rule.
    """
    apply(RESPONSES_RULES, received, allow)


def _items(asked: Asked) -> list[JSONObject]:
    """The input's items; a text is none."""
    found = asked.body.get("input")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _kind(item: JSONObject) -> str:
    return str(item.get("type", "message" if "role" in item else None))


def _parts(asked: Asked) -> Iterator[JSONObject]:
    for item in _items(asked):
        for key in ("content", "output"):
            if isinstance(item.get(key), list) and _kind(item) in _ITEM_KEYS and _kind(item) != "reasoning":
                yield from item[key]


def _address(asked: Asked) -> Complaints:
    received = asked.received
    if (received.method, received.path, received.query) != ("POST", "/v1/responses", ""):
        yield f"{received.method} {received.path}?{received.query}"


def _credential(asked: Asked) -> Complaints:
    header = asked.received.header
    if not (header("authorization") or "").startswith("Bearer sk-upstream"):
        yield "an unknown key"
    for name in ("x-api-key", "x-goog-api-key", "anthropic-version", "anthropic-beta", "cookie"):
        if header(name) is not None:
            yield f"{name} has no business here"


def _required(asked: Asked) -> Complaints:
    if not isinstance(asked.body.get("model"), str) or not asked.body["model"]:
        yield "model"
    supplied = any(asked.body.get(key) for key in ("previous_response_id", "prompt", "conversation"))
    if not asked.body.get("input") and not supplied:
        yield "input"
    if asked.body.get("previous_response_id") and asked.body.get("conversation"):
        yield "previous_response_id and conversation exclude each other"


def _known_keys(asked: Asked) -> Complaints:
    yield from unknown(asked.body, _KEYS, "the request")
    for number, item in enumerate(_items(asked)):
        kind = _kind(item)
        if kind in _ITEM_KEYS:
            yield from unknown(item, _ITEM_KEYS[kind] | {"type"}, f"input[{number}]")
        elif kind not in _OWN_ITEMS:
            yield f"input[{number}] is of type {kind!r}"
    for part in _parts(asked):
        kind = part.get("type", "")
        if kind not in _PART_KEYS:
            yield f"a part of type {kind!r}"
        else:
            yield from unknown(part, _PART_KEYS[kind], f"a part of type {kind}")


def _content(asked: Asked) -> Complaints:
    for number, item in enumerate(_items(asked)):
        kind = _kind(item)
        if kind == "message":
            yield from _said(item, f"input[{number}]")
        elif kind in _CALLS.values():
            output = item.get("output")
            if not isinstance(output, str | list):
                yield f"input[{number}] has no output"
            for part in output if isinstance(output, list) else ():
                if part.get("type") not in _TOLD:
                    yield f"input[{number}]: a result takes no {part.get('type')!r}"


def _said(item: JSONObject, place: str) -> Complaints:
    role, content = item.get("role", ""), item.get("content")
    if role not in _CONTENTS:
        yield f"{place}.role is {role!r}"
        return
    yield from one_of(item.get("phase"), ("commentary", "final_answer"), f"{place}.phase")
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        yield f"{place} says nothing"
        return
    for part in content:
        if part.get("type") not in _CONTENTS[role]:
            yield f"{place}: a {role} message takes no {part.get('type')!r}"


def _media(asked: Asked) -> Complaints:
    for part in _parts(asked):
        if part.get("type") == "input_image":
            if len({"image_url", "file_id"} & part.keys()) != 1:
                yield "a picture from nowhere, or from two places"
            yield from one_of(part.get("detail"), ("auto", "low", "high", "original"), "input_image.detail")
            yield from _picture(part.get("image_url", "https://"))
        elif part.get("type") == "input_file":
            if len({"file_data", "file_url", "file_id"} & part.keys()) != 1:
                yield "a file from nowhere, or from two places"
            yield from _file(part)


def _picture(url: object) -> Complaints:
    if not isinstance(url, str):
        yield "image_url is no text"
    elif url.startswith("data:"):
        head, _, data = url.partition(",")
        if not re.fullmatch(r"data:image/(png|jpeg|gif|webp);base64", head) or not is_base64(data):
            yield f"the picture {head!r} cannot be read"
    elif not url.startswith(("https://", "http://")):
        yield f"a picture at {url!r}"


def _file(part: JSONObject) -> Complaints:
    if "file_url" in part and not str(part["file_url"]).startswith(("https://", "http://")):
        yield f"a file at {part['file_url']!r}"
    if "file_data" in part:
        head, _, data = str(part["file_data"]).partition(",")
        if not re.fullmatch(r"data:[a-z]+/[a-z0-9.+-]+;base64", head) or not is_base64(data):
            yield f"the file {head!r} cannot be read"
        if not part.get("filename"):
            yield "a file without a name"


def _item_ids(asked: Asked) -> Complaints:
    """An item's id begins as ids of its kind do; only reasoning must have one."""
    seen: set[str] = set()
    for item in _items(asked):
        kind, found = _kind(item), item.get("id")
        if found is None:
            if kind == "reasoning":
                yield "a reasoning item without its id"
            continue
        if not isinstance(found, str) or not _ID.fullmatch(found):
            yield f"the id {found!r}"
        elif not found.startswith(_PREFIXES.get(kind, "")):
            yield f"the id {found!r} of a {kind}"
        if found in seen:
            yield f"two items share the id {found!r}"
        seen.add(str(found))


def _calls(asked: Asked) -> Complaints:
    for item in _items(asked):
        kind = _kind(item)
        if kind in _CALLS:
            if not _ID.fullmatch(str(item.get("name", ""))):
                yield f"a call of {item.get('name')!r}"
            if not isinstance(item.get("arguments" if kind == "function_call" else "input"), str):
                yield "a call's arguments are no text"
        if (kind in _CALLS or kind in _CALLS.values()) and not _ID.fullmatch(str(item.get("call_id", ""))):
            yield f"the call id {item.get('call_id')!r}"


def _pairing(asked: Asked) -> Complaints:
    """Every call has its output somewhere behind it, every output has its call before it; one of each."""
    open_calls: dict[str, str] = {}
    over: set[str] = set()
    for item in _items(asked):
        kind, call_id = _kind(item), str(item.get("call_id"))
        if kind in _CALLS:
            if call_id in open_calls or call_id in over:
                yield f"two calls share the id {call_id!r}"
            open_calls[call_id] = _CALLS[kind]
        elif kind in _CALLS.values():
            if open_calls.get(call_id) != kind:
                yield f"no tool call found for {kind} with call_id {call_id}"
            else:
                over.add(call_id)
                del open_calls[call_id]
    for call_id in open_calls:
        yield f"no tool output found for the call {call_id}"


def _reasoning(asked: Asked) -> Complaints:
    """Reasoning has a summary, maybe empty, and stands right before what it led to.

    Only state that OpenAI made may come back to it; in these tests it starts with `openai-`.
    """
    items = _items(asked)
    for number, item in enumerate(items):
        if _kind(item) != "reasoning":
            continue
        if not isinstance(item.get("summary"), list):
            yield f"input[{number}].summary is missing"
        state = item.get("encrypted_content")
        if state is not None and not str(state).startswith("openai-"):
            yield f"invalid_encrypted_content: {str(state)[:40]!r}"
        behind = next((each for each in items[number + 1 :] if _kind(each) != "reasoning"), {})
        made = behind.get("role") == "assistant" if _kind(behind) == "message" else _kind(behind).endswith("_call")
        if not made:
            yield f"input[{number}]: reasoning was provided without its required following item"


def _tools(asked: Asked) -> Complaints:
    if "tools" in asked.body and not isinstance(asked.body["tools"], list):
        yield "tools is no list"
        return
    yield from _declared(asked.tools)
    for tool in asked.tools:
        if tool.get("type") == "namespace":
            yield from unknown(tool, ("type", "name", "description", "tools"), "a namespace")
            if not _ID.fullmatch(str(tool.get("name", ""))) or not tool.get("description"):
                yield "a namespace has a name and a description"
            if any(each.get("type") not in {"function", "custom"} for each in tool.get("tools") or [{}]):
                yield "a namespace holds functions and custom tools, at least one"
            yield from _declared(tool.get("tools") or [])


def _declared(tools: list[JSONObject]) -> Complaints:
    names = [tool.get("name") for tool in tools if tool.get("type") in {"function", "custom", "namespace"}]
    if len(set(names)) < len(names):
        yield f"tools share a name: {names}"
    for tool in tools:
        kind = tool.get("type")
        if kind in {"function", "custom"}:
            yield from unknown(tool, _FUNCTION if kind == "function" else _CUSTOM, f"a {kind} tool")
            if not _ID.fullmatch(str(tool.get("name", ""))):
                yield f"a tool named {tool.get('name')!r}"
        elif kind != "namespace" and kind not in _OWN_TOOLS:
            yield f"a tool of type {kind!r}"
        if kind == "function":
            yield from _parameters(tool)
        form = tool.get("format") if kind == "custom" else None
        if form is not None:
            yield from one_of(form.get("type") or "", ("text", "grammar"), "format.type")
            if form.get("type") == "grammar":
                yield from one_of(form.get("syntax") or "", ("lark", "regex"), "format.syntax")
                yield from unknown(form, ("type", "syntax", "definition"), "format")


def _parameters(tool: JSONObject) -> Complaints:
    place = f"tools.{tool.get('name')}"
    if "strict" in tool and not isinstance(tool["strict"], bool | None):
        yield f"{place}.strict is {tool['strict']!r}"
    parameters = tool.get("parameters")
    if parameters is None:
        return
    yield from schema_faults(parameters, place)
    yield from root_faults(parameters, place)
    if tool.get("strict"):
        yield from strict_faults(parameters, place)


def _tool_choice(asked: Asked) -> Complaints:
    choice = asked.body.get("tool_choice")
    if choice is None:
        return
    if not asked.tools:
        yield "tool_choice without tools"
        return
    if isinstance(choice, str):
        yield from one_of(choice, ("none", "auto", "required"), "tool_choice")
        return
    spaces = {tool.get("name"): tool for tool in asked.tools if tool.get("type") == "namespace"}
    allowed = choice.get("type") == "allowed_tools"
    if allowed:
        yield from one_of(choice.get("mode") or "", ("auto", "required"), "tool_choice.mode")
        yield from unknown(choice, ("type", "mode", "tools"), "tool_choice")
    for entry in choice.get("tools") or [] if allowed else [choice]:
        if entry.get("type") not in {"function", "custom"}:
            yield from one_of(entry.get("type") or "", _OWN_TOOLS, "tool_choice.type")
            continue
        space = entry.get("namespace")
        declared = asked.tools if space is None else spaces.get(space, {}).get("tools", [])
        if (entry["type"], entry.get("name")) not in {(tool.get("type"), tool.get("name")) for tool in declared}:
            yield f"{entry} is not declared"


def _numbers(asked: Asked) -> Complaints:
    body = asked.body
    yield from within(body.get("temperature"), 0, 2, "temperature")
    yield from within(body.get("top_p"), 0, 1, "top_p")
    yield from within(body.get("top_logprobs"), 0, 20, "top_logprobs")
    yield from within(body.get("max_output_tokens"), 16, 10**7, "max_output_tokens")
    yield from within(body.get("max_tool_calls"), 1, 10**4, "max_tool_calls")


def _words(asked: Asked) -> Complaints:
    body = asked.body
    reasoning = body.get("reasoning") or {}
    yield from unknown(reasoning, ("effort", "summary", "context", "mode", "generate_summary"), "reasoning")
    yield from one_of(reasoning.get("effort"), _EFFORTS, "reasoning.effort")
    yield from one_of(reasoning.get("summary"), ("auto", "concise", "detailed"), "reasoning.summary")
    yield from one_of(body.get("truncation"), ("auto", "disabled"), "truncation")
    tiers = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
    yield from one_of(body.get("service_tier"), tiers, "service_tier")
    for each in body.get("include") or ():
        yield from one_of(each, _INCLUDED, "include")


def _text(asked: Asked) -> Complaints:
    text = asked.body.get("text") or {}
    yield from unknown(text, ("format", "verbosity"), "text")
    yield from one_of(text.get("verbosity"), ("low", "medium", "high"), "text.verbosity")
    form = text.get("format") or {"type": "text"}
    yield from one_of(form.get("type") or "", ("text", "json_object", "json_schema"), "text.format.type")
    told = f"{asked.body.get('instructions')} {asked.body.get('input')}".lower()
    if form.get("type") == "json_object" and "json" not in told:
        yield "JSON mode without the word JSON in the messages"
    if form.get("type") == "json_schema":
        yield from unknown(form, ("type", "name", "schema", "strict", "description"), "text.format")
        if not _ID.fullmatch(str(form.get("name", ""))):
            yield f"a schema named {form.get('name')!r}"
        yield from schema_faults(form.get("schema"), "text.format.schema")
        if (form.get("schema") or {}).get("type") != "object":
            yield "text.format.schema: schema must be a JSON Schema of 'type: \"object\"'"
        if form.get("strict"):
            yield from strict_faults(form.get("schema"), "text.format.schema")


def _stream_options(asked: Asked) -> Complaints:
    if "stream_options" in asked.body:
        if not asked.body.get("stream"):
            yield "stream_options without stream"
        yield from unknown(asked.body["stream_options"] or {}, ("include_obfuscation",), "stream_options")


def _identity(asked: Asked) -> Complaints:
    metadata = asked.body.get("metadata") or {}
    if len(metadata) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
        yield "metadata is too large"
    if len(asked.body.get("safety_identifier") or "") > 128:
        yield "safety_identifier is too long"


def _cache_marks(asked: Asked) -> Complaints:
    marks = [part["prompt_cache_breakpoint"] for part in _parts(asked) if "prompt_cache_breakpoint" in part]
    if len(marks) > 4:
        yield f"{len(marks)} breakpoints"
    for mark in marks:
        yield from one_of(mark.get("mode") or "", ("explicit",), "prompt_cache_breakpoint.mode")
        yield from one_of(mark.get("ttl"), ("30m", "12h"), "prompt_cache_breakpoint.ttl")
    options = asked.body.get("prompt_cache_options") or {}
    yield from one_of(options.get("mode"), ("implicit", "explicit"), "prompt_cache_options.mode")
    yield from one_of(options.get("ttl"), ("30m", "12h"), "prompt_cache_options.ttl")


_TABLE: tuple[tuple[str, Callable[[Asked], Complaints]], ...] = (
    ("address", _address),
    ("credential", _credential),
    ("required", _required),
    ("unknown-keyword", _known_keys),
    ("content", _content),
    ("media", _media),
    ("item-ids", _item_ids),
    ("calls", _calls),
    ("pairing", _pairing),
    ("reasoning", _reasoning),
    ("tools", _tools),
    ("tool-choice", _tool_choice),
    ("numbers", _numbers),
    ("words", _words),
    ("text", _text),
    ("stream-options", _stream_options),
    ("identity", _identity),
    ("cache-marks", _cache_marks),
)
RESPONSES_RULES = tuple(Rule(name, judge) for name, judge in _TABLE)
