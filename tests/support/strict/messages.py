"""What Anthropic refuses in a Messages request. What a model takes is a table of its own, by the start of its name."""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from llmproxy_asgi.testing import Received
from support.strict.rules import (
    Asked,
    Complaints,
    JSONObject,
    Rule,
    apply,
    is_base64,
    one_of,
    schema_faults,
    subschemas,
    unknown,
    within,
)

OLD, NEW = "2023-06-01", "2026-10-21"

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_KEYS = frozenset(
    {
        "cache_control", "container", "diagnostics", "inference_geo", "max_tokens", "messages", "metadata", "model",
        "output_config", "service_tier", "speed", "stop_sequences", "stream", "system", "temperature", "thinking",
        "tool_choice", "tools", "top_k", "top_p",
    }
)  # fmt: skip
_BETA_KEYS = frozenset({"mcp_servers", "context_management", "compaction", "fallbacks", "thread", "billing_policy"})
_BLOCK_KEYS = {
    "text": {"text", "cache_control", "citations"},
    "image": {"source", "cache_control", "transformations"},
    "document": {"source", "title", "context", "citations", "cache_control"},
    "search_result": {"source", "title", "content", "citations", "cache_control"},
    "tool_use": {"id", "name", "input", "caller", "cache_control", "toolset_name"},
    "tool_result": {"tool_use_id", "content", "is_error", "cache_control"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "server_tool_use": {"id", "name", "input", "caller", "cache_control"},
    "web_search_tool_result": {"tool_use_id", "content", "caller", "cache_control"},
    "container_upload": {"file_id"},
}
_USER = {"text", "image", "document", "search_result", "tool_result", "container_upload"}
_ASSISTANT = {"text", "tool_use", "thinking", "redacted_thinking", "server_tool_use", "web_search_tool_result"}
_BY_ROLE = {"user": _USER, "assistant": _ASSISTANT, "system": {"text"}}
_IN_RESULT = {"text", "image", "document", "search_result"}
_SCHEMA_CUT = frozenset(
    {"minLength", "maxLength", "pattern", "minimum", "maximum", "multipleOf", "minItems", "maxItems", "uniqueItems"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claude:
    """What one family takes."""

    thinking: frozenset[str]
    efforts: frozenset[str]
    sampling: bool
    forced: bool = True
    prefill: bool = False
    system_midway: bool = False
    strict: bool = True


_ALL_EFFORTS = frozenset({"low", "medium", "high", "xhigh", "max"})
_FAMILIES: tuple[tuple[str, Claude], ...] = (
    (
        "claude-3-5-",
        Claude(thinking=frozenset(), efforts=frozenset(), sampling=True, prefill=True, strict=False),
    ),
    (
        "claude-sonnet-4-5",
        Claude(thinking=frozenset({"enabled", "disabled"}), efforts=frozenset(), sampling=True, prefill=True),
    ),
    (
        "claude-opus-4-8",
        Claude(thinking=frozenset({"adaptive"}), efforts=_ALL_EFFORTS, sampling=False, system_midway=True),
    ),
    (
        "claude-opus-5-5",
        Claude(
            thinking=frozenset({"adaptive"}), efforts=_ALL_EFFORTS, sampling=False, forced=False, system_midway=True
        ),
    ),
    (
        "claude-sonnet-5",
        Claude(thinking=frozenset({"adaptive", "disabled"}), efforts=_ALL_EFFORTS, sampling=False, system_midway=True),
    ),
)


def check_messages(received: Received, *, allow: Collection[str] = ()) -> None:
    """Refuse what Anthropic refuses.

    Args:
        received: A request as the upstream got it.
        allow: Names of rules that shall not count.

    Raises:
        Refused: It breaks a rule.
    """
    apply(MESSAGES_RULES, received, allow)


def _family(asked: Asked) -> Claude:
    model = str(asked.body.get("model"))
    return next(found for start, found in _FAMILIES if model.startswith(start))


def _blocks(message: JSONObject) -> list[JSONObject]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _all_blocks(asked: Asked) -> Iterator[JSONObject]:
    """Every block in reading order, those of results included."""
    system = asked.body.get("system")
    for content in [system, *(message.get("content") for message in asked.messages)]:
        for block in content if isinstance(content, list) else []:
            yield block
            inner = block.get("content") if block.get("type") == "tool_result" else None
            yield from inner if isinstance(inner, list) else []


def _thinks(asked: Asked) -> bool:
    return (asked.body.get("thinking") or {}).get("type") in {"enabled", "adaptive"}


def _address(asked: Asked) -> Complaints:
    received = asked.received
    if (received.method, received.path) != ("POST", "/v1/messages"):
        yield f"{received.method} {received.path}"


def _credential(asked: Asked) -> Complaints:
    header = asked.received.header
    keys = [header("x-api-key"), (header("authorization") or "").removeprefix("Bearer ") or None]
    if sum(key is not None for key in keys) != 1 or not any((key or "").startswith("sk-upstream") for key in keys):
        yield "not exactly one key, and ours"
    if header("cookie") is not None:
        yield "a cookie has no business here"


def _version(asked: Asked) -> Complaints:
    if asked.received.header("anthropic-version") not in {OLD, NEW}:
        yield f"anthropic-version is {asked.received.header('anthropic-version')!r}"


def _required(asked: Asked) -> Complaints:
    if not isinstance(asked.body.get("model"), str):
        yield "model"
    if not asked.messages:
        yield "messages"


def _max_tokens(asked: Asked) -> Complaints:
    if "max_tokens" not in asked.body:
        yield "max_tokens is missing"
    yield from within(asked.body.get("max_tokens"), 0, 200_000, "max_tokens")


def _known_keys(asked: Asked) -> Complaints:
    known = _KEYS | (_BETA_KEYS if asked.received.header("anthropic-beta") else frozenset())
    yield from unknown(asked.body, known, "the request")
    for message in asked.messages:
        yield from unknown(message, ("role", "content", "clear_at", "output_config"), "a message")
    for block in _all_blocks(asked):
        known_here = _BLOCK_KEYS.get(block.get("type", ""))
        if known_here is None:
            yield f"a block of type {block.get('type')!r}"
        else:
            yield from unknown(block, known_here | {"type"}, f"a {block['type']} block")


def _roles(asked: Asked) -> Complaints:
    before = None
    for number, message in enumerate(asked.messages):
        role = message.get("role")
        if role not in _BY_ROLE:
            yield f"messages[{number}].role is {role!r}"
        if role == "system" and not _family(asked).system_midway:
            yield "this model takes no system message"
        if role == "system" and before not in {"user", "system"}:
            yield f"messages[{number}]: a system message stands behind a user turn"
        before = role


def _first_turn(asked: Asked) -> Complaints:
    if asked.messages and asked.messages[0].get("role") != "user":
        yield f"the first turn is {asked.messages[0].get('role')!r}"


def _last_turn(asked: Asked) -> Complaints:
    last = asked.messages[-1] if asked.messages else {}
    if last.get("role") == "assistant":
        # A turn that paused within an upstream's own tool is gone on with by any model.
        if not _family(asked).prefill and not any(block.get("type") == "server_tool_use" for block in _blocks(last)):
            yield "this model continues no message of its own"
        content = last.get("content")
        said = content if isinstance(content, str) else (_blocks(last) or [{}])[-1].get("text", "")
        if said != said.rstrip():
            yield "the message to continue ends with white space"


def _content(asked: Asked) -> Complaints:
    for number, message in enumerate(asked.messages):
        content = message.get("content")
        if isinstance(content, str):
            if not content.strip():
                yield f"messages[{number}] is empty"
        elif not _blocks(message):
            yield f"messages[{number}] has no content"
        for block in _blocks(message):
            if block.get("type") not in _BY_ROLE.get(message.get("role", ""), set()):
                yield f"messages[{number}]: a {message.get('role')} message takes no {block.get('type')!r}"
            inner = block.get("content") if block.get("type") == "tool_result" else None
            for below in inner if isinstance(inner, list) else []:
                yield from one_of(below.get("type"), _IN_RESULT, "tool_result.content.type")


def _empty_text(asked: Asked) -> Complaints:
    system = asked.body.get("system")
    if isinstance(system, str) and not system.strip():
        yield "system is empty"
    for block in _all_blocks(asked):
        if block.get("type") == "text" and not str(block.get("text") or "").strip():
            yield "a text block holds no text"


def _media(asked: Asked) -> Complaints:
    for block in _all_blocks(asked):
        if block.get("type") not in {"image", "document"}:
            continue
        source = block.get("source") or {}
        kind = source.get("type")
        if kind == "url":
            if not str(source.get("url", "")).startswith(("https://", "http://")):
                yield f"a {block['type']} at {source.get('url')!r}"
        elif kind == "base64":
            types = _PICTURES if block["type"] == "image" else ("application/pdf",)
            yield from one_of(source.get("media_type") or "", types, f"{block['type']}.source.media_type")
            if not is_base64(source.get("data")):
                yield f"a {block['type']} that is no base64"
        elif kind not in ({"file"} if block["type"] == "image" else {"file", "text", "content"}):
            yield f"a {block['type']} from {kind!r}"


def _call_ids(asked: Asked) -> Complaints:
    seen: set[str] = set()
    for block in _all_blocks(asked):
        if block.get("type") == "tool_use":
            if block.get("id") in seen:
                yield f"two calls share the id {block['id']!r}"
            seen.add(block.get("id", ""))
        for key in ("id", "tool_use_id"):
            if key in block and not _CALL_ID.fullmatch(str(block[key])):
                yield f"the call id {block[key]!r}"


def _calls(asked: Asked) -> Complaints:
    for block in _all_blocks(asked):
        if block.get("type") == "tool_use":
            if not isinstance(block.get("input"), dict):
                yield "a call's input is no object"
            if not _TOOL_NAME.fullmatch(str(block.get("name", ""))):
                yield f"a call of {block.get('name')!r}"


def _pairing(asked: Asked) -> Complaints:
    """Every call is answered in the next user message, before anything else there, and nothing else is answered."""
    waiting: list[str] = []
    for number, message in enumerate(asked.messages):
        blocks = _blocks(message)
        answered = [block["tool_use_id"] for block in blocks if block.get("type") == "tool_result"]
        if sorted(answered) != sorted(waiting):
            yield f"messages[{number}] answers {answered}, not {waiting}"
        if any(block.get("type") == "tool_result" for block in blocks[len(answered) :]):
            yield f"messages[{number}]: results stand behind other content"
        waiting = [block["id"] for block in blocks if block.get("type") == "tool_use"]
    if waiting:
        yield f"nothing answers {waiting}"


def _tools(asked: Asked) -> Complaints:
    names = [tool.get("name") for tool in asked.tools]
    if len(set(names)) < len(names):
        yield f"tools share a name: {names}"
    for tool in asked.tools:
        if tool.get("type", "custom") != "custom":
            continue
        known = ("type", "name", "description", "input_schema", "strict", "cache_control", "defer_loading",
                 "allowed_callers", "eager_input_streaming", "input_examples")  # fmt: skip
        yield from unknown(tool, known, "a tool")
        if not _TOOL_NAME.fullmatch(str(tool.get("name", ""))):
            yield f"a tool named {tool.get('name')!r}"
        schema = tool.get("input_schema")
        yield from schema_faults(schema, f"tools.{tool.get('name')}")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            yield "a tool's input_schema is no object"
        elif {"anyOf", "oneOf", "allOf"} & schema.keys():
            yield "input_schema does not support oneOf, allOf, or anyOf at the top level"
        if tool.get("strict"):
            yield from _schema_limits(schema, f"tools.{tool.get('name')}")
        if tool.get("strict") and not _family(asked).strict:
            yield "this model knows no strict tools"


def _tool_choice(asked: Asked) -> Complaints:
    choice = asked.body.get("tool_choice")
    if choice is None:
        return
    if not asked.tools:
        yield "tool_choice without tools"
    kind = choice.get("type")
    yield from one_of(kind or "", ("auto", "any", "none", "tool"), "tool_choice.type")
    if kind == "none" and "disable_parallel_tool_use" in choice:
        yield "tool_choice none takes nothing beside it"
    if kind == "tool" and choice.get("name") not in {tool.get("name") for tool in asked.tools}:
        yield f"{choice.get('name')!r} is not declared"
    if kind in {"any", "tool"}:
        if _thinks(asked):
            yield "a forced choice with thinking"
        if not _family(asked).forced:
            yield "this model refuses a forced choice"


def _thinking(asked: Asked) -> Complaints:
    thinking, family = asked.body.get("thinking"), _family(asked)
    if thinking is None:
        return
    kind = thinking.get("type")
    if kind not in family.thinking:
        yield f"this model takes no {kind!r} thinking"
    if kind == "enabled":
        budget = thinking.get("budget_tokens", 0)
        if not 1024 <= budget < asked.body.get("max_tokens", 0):
            yield f"a budget of {budget} with max_tokens {asked.body.get('max_tokens')}"
    elif "budget_tokens" in thinking:
        yield "a budget without enabled thinking"
    yield from one_of(thinking.get("display"), ("summarized", "omitted"), "thinking.display")


def _effort(asked: Asked) -> Complaints:
    effort = (asked.body.get("output_config") or {}).get("effort")
    if effort is None:
        return
    if effort not in _family(asked).efforts:
        yield f"this model takes no effort {effort!r}"
    if (asked.body.get("thinking") or {}).get("type") == "enabled":
        yield "an effort beside a budget"


def _lost_thinking(asked: Asked) -> Complaints:
    """A budgeted model continues its own calls only if the thinking before them is sent back."""
    if (asked.body.get("thinking") or {}).get("type") != "enabled" or len(asked.messages) < 2:
        return
    *_, step, results = asked.messages
    if any(block.get("type") == "tool_result" for block in _blocks(results)):
        first = (_blocks(step) or [{}])[0].get("type")
        if first not in {"thinking", "redacted_thinking"}:
            yield f"expected thinking, found {first!r}"


def _signatures(asked: Asked) -> Complaints:
    """Only state that Anthropic made may come back to it; in these tests it starts with `claude-`."""
    for block in _all_blocks(asked):
        for key in ("signature", "data"):
            if block.get("type") in {"thinking", "redacted_thinking"} and key in block:
                state = str(block[key])
                if not state.startswith("claude-"):
                    yield f"invalid {key} in a {block['type']} block: {state[:40]!r}"


def _sampling(asked: Asked) -> Complaints:
    sent = [key for key in ("temperature", "top_p", "top_k") if key in asked.body]
    if not sent:
        return
    if asked.received.header("anthropic-version") == NEW:
        yield f"{sent} with version {NEW}"
    if not _family(asked).sampling:
        yield f"this model takes no {sent}"
    if _thinks(asked):
        yield f"{sent} with thinking"
    yield from within(asked.body.get("temperature"), 0, 1, "temperature")
    yield from within(asked.body.get("top_p"), 0, 1, "top_p")


def _marks(asked: Asked) -> Iterator[JSONObject]:
    for holder in [*asked.tools, *_all_blocks(asked), asked.body]:
        if holder.get("cache_control"):
            yield holder


def _cache_marks(asked: Asked) -> Complaints:
    marked = list(_marks(asked))
    if len(marked) > 4:
        yield f"{len(marked)} cache marks"
    for holder in marked:
        mark = holder["cache_control"]
        yield from one_of(mark.get("type"), ("ephemeral",), "cache_control.type")
        yield from one_of(mark.get("ttl"), ("5m", "1h"), "cache_control.ttl")


def _output_format(asked: Asked) -> Complaints:
    config = asked.body.get("output_config") or {}
    yield from unknown(config, ("effort", "format", "task_budget"), "output_config")
    form = config.get("format")
    if form is not None:
        yield from unknown(form, ("type", "schema"), "output_config.format")
        yield from one_of(form.get("type") or "", ("json_schema",), "output_config.format.type")
        yield from schema_faults(form.get("schema"), "schema")
        yield from _schema_limits(form.get("schema"), "schema")


def _schema_limits(schema: Any, place: str) -> Complaints:
    if not isinstance(schema, dict):
        return
    for key in sorted(_SCHEMA_CUT & schema.keys()):
        yield f"{place} has {key}"
    if "oneOf" in schema:
        yield f"{place} has oneOf"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        yield f"{place} takes other properties"
    for place_below, below in subschemas(schema, place):
        yield from _schema_limits(below, place_below)


def _stops(asked: Asked) -> Complaints:
    stops = asked.body.get("stop_sequences")
    if stops is not None and (not isinstance(stops, list) or any(not str(stop).strip() for stop in stops)):
        yield f"stop_sequences is {stops!r}"


def _words(asked: Asked) -> Complaints:
    yield from unknown(asked.body.get("metadata") or {}, ("user_id",), "metadata")
    yield from one_of(asked.body.get("service_tier"), ("auto", "standard_only"), "service_tier")
    yield from one_of(asked.body.get("speed"), ("standard", "fast"), "speed")


def _newest_version(asked: Asked) -> Complaints:
    """Two more things that the newer version refuses."""
    if asked.received.header("anthropic-version") != NEW:
        return
    for message in asked.messages:
        for block in _blocks(message):
            if message.get("role") == "assistant" and block.get("type") == "document":
                yield "a document in an assistant message"
            if message.get("role") == "user" and block.get("type") == "text" and block.get("citations"):
                yield "citations on a user's text"


_TABLE: tuple[tuple[str, Callable[[Asked], Complaints]], ...] = (
    ("address", _address),
    ("credential", _credential),
    ("version", _version),
    ("required", _required),
    ("max-tokens", _max_tokens),
    ("unknown-keyword", _known_keys),
    ("first-turn", _first_turn),
    ("roles", _roles),
    ("content", _content),
    ("empty-text", _empty_text),
    ("media", _media),
    ("call-ids", _call_ids),
    ("calls", _calls),
    ("pairing", _pairing),
    ("last-turn", _last_turn),
    ("tools", _tools),
    ("tool-choice", _tool_choice),
    ("thinking", _thinking),
    ("effort", _effort),
    ("lost-thinking", _lost_thinking),
    ("signatures", _signatures),
    ("sampling", _sampling),
    ("cache-marks", _cache_marks),
    ("output-format", _output_format),
    ("stops", _stops),
    ("words", _words),
    ("newest-version", _newest_version),
)
MESSAGES_RULES = tuple(Rule(name, judge) for name, judge in _TABLE)
