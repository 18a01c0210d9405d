"""What OpenAI refuses in a Chat Completions request."""

import re
from collections.abc import Callable, Collection

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

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_KEYS = frozenset(
    {
        "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
        "max_tokens", "messages", "metadata", "modalities", "model", "moderation", "n", "parallel_tool_calls",
        "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream",
        "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
        "web_search_options",
    }
)  # fmt: skip
_MESSAGE_KEYS = {
    "developer": {"role", "content", "name"},
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "refusal", "tool_calls", "audio", "function_call"},
    "tool": {"role", "content", "tool_call_id"},
    "function": {"role", "content", "name"},
}
_PARTS = {
    "developer": {"text"},
    "system": {"text"},
    "user": {"text", "image_url", "input_audio", "file"},
    "assistant": {"text", "refusal"},
    "tool": {"text"},
    "function": set(),
}
_PART_KEYS = {
    "text": {"type", "text", "prompt_cache_breakpoint"},
    "image_url": {"type", "image_url", "prompt_cache_breakpoint"},
    "input_audio": {"type", "input_audio", "prompt_cache_breakpoint"},
    "file": {"type", "file", "prompt_cache_breakpoint"},
    "refusal": {"type", "refusal"},
}


def check_chat(received: Received, *, allow: Collection[str] = ()) -> None:
    """Refuse what OpenAI refuses.

    Args:
        received: A request as the upstream got it.
        allow: Names of rules that shall not count.

    Raises:
        Refused: It breaks a rule.
    """
    apply(CHAT_RULES, received, allow)


def _address(asked: Asked) -> Complaints:
    received = asked.received
    if (received.method, received.path, received.query) != ("POST", "/v1/chat/completions", ""):
        yield f"{received.method} {received.path}?{received.query}"


def _credential(asked: Asked) -> Complaints:
    header = asked.received.header
    if not (header("authorization") or "").startswith("Bearer sk-upstream"):
        yield "an unknown key"
    for name in ("x-api-key", "anthropic-version", "anthropic-beta", "cookie"):
        if header(name) is not None:
            yield f"{name} has no business here"


def _known_keys(asked: Asked) -> Complaints:
    yield from unknown(asked.body, _KEYS, "the request")
    for number, message in enumerate(asked.messages):
        known = _MESSAGE_KEYS.get(message.get("role", ""), set())
        yield from unknown(message, known, f"messages[{number}]")


def _required(asked: Asked) -> Complaints:
    if not isinstance(asked.body.get("model"), str) or not asked.body["model"]:
        yield "model"
    if not asked.messages:
        yield "messages"


def _roles(asked: Asked) -> Complaints:
    for number, message in enumerate(asked.messages):
        if message.get("role") not in _MESSAGE_KEYS:
            yield f"messages[{number}].role is {message.get('role')!r}"


def _content(asked: Asked) -> Complaints:
    for number, message in enumerate(asked.messages):
        content, role = message.get("content"), message.get("role", "")
        if isinstance(content, str):
            continue
        if content is None:
            said = ("tool_calls", "function_call", "refusal", "audio")
            if role != "assistant" or not any(message.get(key) for key in said):
                yield f"messages[{number}] says nothing"
            continue
        if not isinstance(content, list) or not content:
            yield f"messages[{number}].content is neither text nor parts"
            continue
        for part in content:
            kind = part.get("type")
            if kind not in _PARTS.get(role, set()):
                yield f"messages[{number}]: a {role} message takes no {kind!r} part"
            else:
                yield from unknown(part, _PART_KEYS[kind], f"messages[{number}].{kind}")


def _parts(asked: Asked) -> list[JSONObject]:
    contents = [message.get("content") for message in asked.messages]
    return [part for content in contents if isinstance(content, list) for part in content]


def _media(asked: Asked) -> Complaints:
    for part in _parts(asked):
        if part["type"] == "image_url":
            yield from _picture(part["image_url"])
        elif part["type"] == "input_audio":
            sound = part["input_audio"]
            yield from one_of(sound.get("format"), ("wav", "mp3"), "input_audio.format")
            if not is_base64(sound.get("data")):
                yield "input_audio.data is no base64"
        elif part["type"] == "file":
            yield from _file(part["file"])


def _picture(image: JSONObject) -> Complaints:
    yield from unknown(image, ("url", "detail"), "image_url")
    yield from one_of(image.get("detail"), ("auto", "low", "high", "original"), "image_url.detail")
    url = image.get("url", "")
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        if not re.fullmatch(r"data:image/(png|jpeg|gif|webp);base64", head) or not is_base64(data):
            yield f"the picture {head!r} cannot be read"
    elif not url.startswith(("https://", "http://")):
        yield f"a picture at {url!r}"


def _file(file: JSONObject) -> Complaints:
    yield from unknown(file, ("file_id", "file_data", "filename"), "file")
    if "file_id" in file:
        return
    head, _, data = str(file.get("file_data", "")).partition(",")
    if head != "data:application/pdf;base64" or not is_base64(data):
        yield f"the file {head!r} cannot be read"
    if not file.get("filename"):
        yield "a file without a name"


def _call_ids(asked: Asked) -> Complaints:
    for message in asked.messages:
        ids = [call.get("id") for call in message.get("tool_calls") or []]
        for call_id in [*ids, *([message.get("tool_call_id")] if message.get("role") == "tool" else [])]:
            if not isinstance(call_id, str) or not _NAME.fullmatch(call_id):
                yield f"the call id {call_id!r}"
        if len(set(ids)) < len(ids):
            yield f"call ids repeat: {ids}"


def _calls(asked: Asked) -> Complaints:
    for message in asked.messages:
        if "tool_calls" in message and not message["tool_calls"]:
            yield "tool_calls is empty"
        for call in message.get("tool_calls") or []:
            kind = call.get("type")
            yield from one_of(kind, ("function", "custom"), "tool_calls.type")
            inner = call.get(kind) or {}
            if not _NAME.fullmatch(str(inner.get("name", ""))):
                yield f"a call of {inner.get('name')!r}"
            if not isinstance(inner.get("arguments" if kind == "function" else "input"), str):
                yield "a call's arguments are no text"


def _pairing(asked: Asked) -> Complaints:
    """Every call is answered by a tool message right behind it, and every tool message answers one."""
    waiting: list[str] = []
    for number, message in enumerate(asked.messages):
        if message.get("role") == "tool":
            if message.get("tool_call_id") not in waiting:
                yield f"messages[{number}] answers no call right before it"
            else:
                waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            yield f"messages[{number}] comes before the results of {waiting}"
        waiting = [call["id"] for call in message.get("tool_calls") or []]
    if waiting:
        yield f"nothing answers {waiting}"


def _tools(asked: Asked) -> Complaints:
    if "tools" in asked.body and not asked.tools:
        yield "tools is empty"
    names = []
    for tool in asked.tools:
        kind = tool.get("type")
        if kind not in {"function", "custom"}:
            yield f"a tool of type {kind!r}"
            continue
        yield from unknown(tool, ("type", kind), "a tool")
        inner = tool.get(kind) or {}
        known = (
            ("name", "description", "parameters", "strict")
            if kind == "function"
            else (
                "name",
                "description",
                "format",
            )
        )
        yield from unknown(inner, known, f"tools.{kind}")
        names.append(inner.get("name"))
        if not _NAME.fullmatch(str(inner.get("name", ""))):
            yield f"a tool named {inner.get('name')!r}"
        if "parameters" in inner:
            yield from schema_faults(inner["parameters"], f"tools.{inner.get('name')}")
            yield from root_faults(inner["parameters"], f"tools.{inner.get('name')}")
    if len(set(names)) < len(names):
        yield f"tools share a name: {names}"


def _tool_choice(asked: Asked) -> Complaints:
    choice = asked.body.get("tool_choice")
    if not asked.tools:
        for key in ("tool_choice", "parallel_tool_calls"):
            if key in asked.body:
                yield f"{key} without tools"
        return
    if isinstance(choice, str) or choice is None:
        yield from one_of(choice, ("none", "auto", "required"), "tool_choice")
        return
    declared = {(tool["type"], tool[tool["type"]]["name"]) for tool in asked.tools}
    allowed = choice.get("allowed_tools")
    if allowed:
        yield from one_of(allowed.get("mode"), ("auto", "required"), "allowed_tools.mode")
    for entry in allowed["tools"] if allowed else [choice]:
        kind = entry.get("type")
        if (kind, (entry.get(kind) or {}).get("name")) not in declared:
            yield f"{entry} is not declared"


def _numbers(asked: Asked) -> Complaints:
    body = asked.body
    yield from within(body.get("temperature"), 0, 2, "temperature")
    yield from within(body.get("top_p"), 0, 1, "top_p")
    yield from within(body.get("frequency_penalty"), -2, 2, "frequency_penalty")
    yield from within(body.get("presence_penalty"), -2, 2, "presence_penalty")
    yield from within(body.get("top_logprobs"), 0, 20, "top_logprobs")
    yield from within(body.get("n"), 1, 128, "n")
    yield from within(body.get("max_tokens"), 1, 10**7, "max_tokens")
    yield from within(body.get("max_completion_tokens"), 1, 10**7, "max_completion_tokens")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        yield "top_logprobs without logprobs"
    if "max_tokens" in body and "max_completion_tokens" in body:
        yield "two limits"


def _words(asked: Asked) -> Complaints:
    body = asked.body
    yield from one_of(body.get("reasoning_effort"), _EFFORTS, "reasoning_effort")
    yield from one_of(body.get("verbosity"), ("low", "medium", "high"), "verbosity")
    tiers = ("auto", "default", "flex", "scale", "priority", "fast")
    yield from one_of(body.get("service_tier"), tiers, "service_tier")


def _stops(asked: Asked) -> Complaints:
    stops = asked.body.get("stop")
    listed = [stops] if isinstance(stops, str) else stops or []
    if len(listed) > 4:
        yield f"{len(listed)} stop sequences"
    if any(not isinstance(stop, str) or not stop for stop in listed):
        yield "an empty stop sequence"


def _stream_options(asked: Asked) -> Complaints:
    if "stream_options" in asked.body:
        if not asked.body.get("stream"):
            yield "stream_options without stream"
        known = ("include_usage", "include_obfuscation")
        yield from unknown(asked.body["stream_options"] or {}, known, "stream_options")


def _response_format(asked: Asked) -> Complaints:
    form = asked.body.get("response_format")
    if form is None:
        return
    yield from one_of(form.get("type"), ("text", "json_object", "json_schema"), "response_format.type")
    if form.get("type") == "json_object" and "json" not in str(asked.messages).lower():
        yield "JSON mode, and no message speaks of JSON"
    if form.get("type") == "json_schema":
        inner = form.get("json_schema") or {}
        yield from unknown(inner, ("name", "schema", "strict", "description"), "json_schema")
        if not _NAME.fullmatch(str(inner.get("name", ""))):
            yield f"a schema named {inner.get('name')!r}"
        yield from schema_faults(inner.get("schema", {}), "json_schema.schema")
        if (inner.get("schema") or {}).get("type") != "object":
            yield "json_schema.schema: schema must be a JSON Schema of 'type: \"object\"'"
        if inner.get("strict"):
            yield from strict_faults(inner.get("schema", {}), "json_schema.schema")


def _strict_tools(asked: Asked) -> Complaints:
    for tool in asked.tools:
        inner = tool.get("function") or {}
        if inner.get("strict"):
            yield from strict_faults(inner.get("parameters", {}), f"tools.{inner.get('name')}")


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
        yield from one_of(mark.get("mode"), ("explicit",), "prompt_cache_breakpoint.mode")
        yield from one_of(mark.get("ttl"), ("30m", "12h"), "prompt_cache_breakpoint.ttl")
    options = asked.body.get("prompt_cache_options") or {}
    yield from one_of(options.get("mode"), ("implicit", "explicit"), "prompt_cache_options.mode")
    yield from one_of(options.get("ttl"), ("30m",), "prompt_cache_options.ttl")


_TABLE: tuple[tuple[str, Callable[[Asked], Complaints]], ...] = (
    ("address", _address),
    ("credential", _credential),
    ("required", _required),
    ("roles", _roles),
    ("unknown-keyword", _known_keys),
    ("content", _content),
    ("media", _media),
    ("call-ids", _call_ids),
    ("calls", _calls),
    ("pairing", _pairing),
    ("tools", _tools),
    ("strict-tools", _strict_tools),
    ("tool-choice", _tool_choice),
    ("numbers", _numbers),
    ("words", _words),
    ("stops", _stops),
    ("stream-options", _stream_options),
    ("response-format", _response_format),
    ("identity", _identity),
    ("cache-marks", _cache_marks),
)
CHAT_RULES = tuple(Rule(name, judge) for name, judge in _TABLE)
