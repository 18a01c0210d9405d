"""Encode requests of other protocols for a Messages upstream."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from llmproxy_asgi.conversation import (
    CacheMark,
    CacheOptions,
    Citation,
    Grammar,
    InlineData,
    Link,
    Media,
    Message,
    Opaque,
    OutputFormat,
    PlainText,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Sampling,
    Seal,
    ServerToolCall,
    ServiceTier,
    StoredFile,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from llmproxy_asgi.errors import BadRequest, Unsupported
from llmproxy_asgi.translators.anthropic_messages import capabilities_of
from llmproxy_asgi.translators.anthropic_messages.reasoning import UNSIGNED
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.seals import wrap
from support.wires.messages import INBOUND, OUTBOUND, encoded, opened, request, upstream

PNG = "iVBORw0KGgoAAAANSUhEUg=="
JPEG = "/9j/4AAQSkZJRgABAQAAAQABAAD="


def user(*texts: str) -> Message:
    return Message(role="user", parts=tuple(Text(text=text) for text in texts))


def system(text: str, authority: str = "system") -> Message:
    return Message(
        role="system", authority="developer" if authority == "developer" else "system", parts=(Text(text=text),)
    )


def assistant(*parts: Any) -> Message:
    return Message(role="assistant", parts=parts)


def call(call_id: str, name: str = "f", arguments: str = "{}") -> ToolCall:
    return ToolCall(call_id=call_id, name=name, arguments=arguments)


def results(*ids: str) -> Message:
    return Message(role="tool", parts=tuple(ToolResult(call_id=i, content=(Text(text=f"r-{i}"),)) for i in ids))


def text(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": one} for one in texts]


def sent(*messages: Message, to: Upstream | None = None, **fields: Any) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the encoded messages and the warnings."""
    body, upstream_request = encoded(request(*messages, **fields), to)
    return body["messages"], upstream_request.warnings


def refused(*messages: Message, to: Upstream | None = None, **fields: Any) -> str | None:
    with pytest.raises(Unsupported) as caught:
        encoded(request(*messages, **fields), to)
    return caught.value.param


def model(name: str) -> Upstream:
    return Upstream(
        provider="claude", model=name, client_model="asked", issuer="anthropic", capabilities=capabilities_of(name)
    )


OLD, BUDGET, BOTH, FIVE, NEWEST = map(
    model,
    [
        "claude-3-5-haiku-20241022",
        "claude-sonnet-4-5-20250929",
        "claude-opus-4-6",
        "claude-sonnet-5",
        "claude-opus-5-5",
    ],
)


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plain_question() -> None:
    """Send model, limit and message with the latest version; encode the same bytes each time."""
    body, upstream_request = encoded(request(max_output_tokens=50))
    assert body == {
        "model": "claude-upstream-1",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": text("Hi")}],
    }
    assert upstream_request.headers == (("anthropic-version", "2026-10-21"),)
    assert upstream_request.warnings == ()
    assert OUTBOUND.encode(request(max_output_tokens=50), upstream()) == upstream_request


def test_leading_instructions_are_separate_texts() -> None:
    """Send leading system and developer messages as separate texts in `system`, in order."""
    body, _ = encoded(request(system("a"), system("b", "developer"), system("c"), user("Hi")))
    assert body["system"] == text("a", "b", "c")
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_a_system_message_stays_in_the_middle() -> None:
    """Keep a system message after a user message in place if the model supports it."""
    turns, warnings = sent(user("a"), system("s"), assistant(Text(text="b")), user("c"), to=FIVE)
    assert [turn["role"] for turn in turns] == ["user", "system", "assistant", "user"]
    assert turns[1]["content"] == text("s")
    assert warnings == ()


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([user("a"), assistant(Text(text="b")), system("s"), user("c")], ["a", "b", "s c"]),
        ([user("a"), system("s"), assistant(Text(text="b")), user("c")], ["a s", "b", "c"]),
        ([user("a"), assistant(Text(text="b")), system("s")], ["a", "b", "s"]),
        ([user("a"), system("s")], ["a s"]),
        (
            [user("a"), assistant(Text(text="b")), system("s"), assistant(Text(text="c")), user("d")],
            ["a", "b", "s", "c", "d"],
        ),
    ],
)
def test_an_old_model_gets_it_from_the_user(turns: Sequence[Message], expected: list[str]) -> None:
    """Otherwise send it as a text of the next user message, with a warning."""
    written, warnings = sent(*turns, to=OLD)
    assert [" ".join(part["text"] for part in turn["content"]) for turn in written] == expected
    assert warnings == ("downgraded:system_message",)


def test_results_stay_first() -> None:
    """Send an instruction between calls and results after the results."""
    turns, _ = sent(user("a"), assistant(call("1")), system("s"), results("1"), user("b"), to=OLD)
    assert [part["type"] for part in turns[2]["content"]] == ["tool_result", "text", "text"]


def test_adjacent_messages_of_one_role_are_merged() -> None:
    """Append the parts of adjacent messages without joining texts."""
    turns, _ = sent(user("a"), user("b"), assistant(Text(text="c")), assistant(Text(text="d")), user("e"))
    assert [[part["text"] for part in turn["content"]] for turn in turns] == [["a", "b"], ["c", "d"], ["e"]]


def test_the_first_message_is_the_users() -> None:
    """Insert a first user message if the conversation starts with the model, with a warning."""
    turns, warnings = sent(assistant(Text(text="a")), user("b"))
    assert turns[0] == {"role": "user", "content": text(".")}
    assert warnings == ("emulated:first_user_turn",)


def test_no_empty_text() -> None:
    """Omit empty and blank texts, and messages that have nothing else."""
    turns, _ = sent(
        user("a"), assistant(Text(text=""), call("1")), results("1"), assistant(Text(text=" \n")), user("b", "")
    )
    assert [[part["type"] for part in turn["content"]] for turn in turns] == [
        ["text"],
        ["tool_use"],
        ["tool_result", "text"],
    ]


def test_a_trailing_assistant_message() -> None:
    """Send a trailing assistant message to a model that continues it, else refuse it with a 400."""
    assert refused(user("a"), assistant(Text(text="b")), to=FIVE) == "messages"
    assert sent(user("a"), assistant(Text(text="b")), to=OLD)[0][-1]["role"] == "assistant"
    assert refused(user("a"), assistant(call("1")), to=OLD) == "messages"


def test_instructions_alone_get_a_user_message() -> None:
    """Insert a user message into a conversation of instructions only, with a warning."""
    body, upstream_request = encoded(request(system("a"), system("b")))
    assert body["system"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "."}]}]
    assert upstream_request.warnings == ("emulated:first_user_turn",)


def test_a_blank_conversation_is_refused() -> None:
    """Refuse a conversation of blank instructions only."""
    assert refused(system(" ")) == "messages"


def test_names_of_participants_are_said_to_be_lost() -> None:
    """Drop participants' names with a warning."""
    _, warnings = sent(Message(role="user", name="ann", parts=(Text(text="Hi"),)))
    assert warnings == ("dropped:name",)


# ── calls and results ────────────────────────────────────────────────────────────────────────────────────────────────


def test_results_in_the_order_of_their_calls() -> None:
    """Send three parallel results, in any order, as one user message: results first, then text."""
    turns, _ = sent(user("a"), assistant(call("1"), call("2"), call("3")), results("3"), results("1", "2"), user("b"))
    last = turns[-1]["content"]
    assert [part.get("tool_use_id") for part in last] == ["1", "2", "3", None]


def test_orphans() -> None:
    """Add an error result to an unanswered call; refuse a result without a call with a 400."""
    turns, warnings = sent(user("a"), assistant(call("1")), user("b"))
    (result, said) = turns[-1]["content"]
    assert (result["tool_use_id"], result["is_error"], said["text"]) == ("1", True, "b")
    assert warnings == ("emulated:tool_result",)
    with pytest.raises(BadRequest):
        encoded(request(user("a"), results("9")))


def test_ids_are_made_legal() -> None:
    """Derive valid ids for calls and results, and record the mapping back."""
    given = "functions.f:0/" + "x" * 80
    body, upstream_request = encoded(request(user("a"), assistant(call(given)), results(given)))
    used, answered = body["messages"][1]["content"][0]["id"], body["messages"][2]["content"][0]["tool_use_id"]
    assert used == answered != given
    assert len(used) <= 64
    assert upstream_request.call_ids == {used: given}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", "{}"), ('{"b": 1.0}', '{"b": 1.0}'), ("[1]", '{"value":[1]}'), ("oops", '{"_raw":"oops"}')],
)
def test_arguments_are_objects(arguments: str, expected: str) -> None:
    """Keep the spelling of an arguments object, and wrap any other value in one."""
    body = OUTBOUND.encode(request(user("a"), assistant(call("1", arguments=arguments)), results("1")), upstream()).body
    assert b'"input":' + expected.encode() in body


def test_results_keep_errors_and_media() -> None:
    """Send a result's error flag, texts and images natively."""
    picture = Media(kind="image", source=InlineData(data=PNG), media_type="image/png")
    result = ToolResult(call_id="1", content=(Text(text="see"), picture), is_error=True)
    turns, _ = sent(user("a"), assistant(call("1")), Message(role="tool", parts=(result,)))
    (block,) = turns[-1]["content"]
    assert block["is_error"] is True
    assert [part["type"] for part in block["content"]] == ["text", "image"]


# ── media ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def media(**fields: Any) -> Message:
    return Message(role="user", parts=(Media(**fields),))


def block_of(**fields: Any) -> dict[str, Any]:
    part: dict[str, Any] = sent(media(**fields))[0][0]["content"][0]
    return part


def test_images() -> None:
    """Send inline images with their real type, and URLs as URLs."""
    source = block_of(kind="image", source=InlineData(data=JPEG), media_type="image/png")["source"]
    assert source == {"type": "base64", "media_type": "image/jpeg", "data": JPEG}
    linked = block_of(kind="image", source=Link(url="https://example.org/a.png"), detail="high")
    assert linked == {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "image", "source": InlineData(data="Qk0="), "media_type": "image/bmp"},
        {"kind": "image", "source": StoredFile(protocol="openai-chat", id="file-1")},
        {"kind": "document", "source": InlineData(data="UEsDBA=="), "media_type": "application/msword"},
        {"kind": "audio", "source": InlineData(data="UklGRg=="), "media_type": "audio/wav"},
        {"kind": "video", "source": Link(url="https://example.org/v")},
    ],
    ids=["bitmap", "foreign file", "word", "audio", "video"],
)
def test_unsupported_media_is_refused(fields: dict[str, Any]) -> None:
    """Refuse unsupported media and files of other vendors with a 400."""
    assert refused(media(**fields)) == "messages"


def test_documents() -> None:
    """Send inline and linked PDFs, and plain text of both forms; use the file's name as title."""
    inline = block_of(kind="document", source=InlineData(data="JVBERi0xLjc="), name="a.pdf")
    assert inline["source"] == {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjc="}
    assert inline["title"] == "a.pdf"
    linked = block_of(kind="document", source=Link(url="https://example.org/a.pdf"))
    assert linked["source"] == {"type": "url", "url": "https://example.org/a.pdf"}
    said = {"type": "text", "media_type": "text/plain", "data": "Grüße"}
    assert block_of(kind="document", source=PlainText(text="Grüße"))["source"] == said
    as_data = InlineData(data="R3LDvMOfZQ==")
    assert block_of(kind="document", source=as_data, media_type="text/markdown")["source"] == said


# ── reasoning in history ─────────────────────────────────────────────────────────────────────────────────────────────


def signed(**fields: Any) -> Seal:
    return Seal(**{"issuer": "anthropic", "kind": "signature", "data": "sig", **fields})


def test_state_of_this_upstream_is_native_again() -> None:
    """Send thinking that this upstream sealed unchanged before its call."""
    thought = Reasoning(text="Hm.", seals=(signed(),))
    hidden = Reasoning(redacted=True, seals=(signed(kind="redacted", data="blob"),))
    turns, warnings = sent(user("a"), assistant(thought, hidden, call("1")), results("1"))
    assert turns[1]["content"][:2] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
        {"type": "redacted_thinking", "data": "blob"},
    ]
    assert warnings == ()


@pytest.mark.parametrize(
    "part",
    [
        Reasoning(text="secret"),
        Reasoning(text="secret", seals=(signed(issuer="openai", kind="encrypted"),)),
        Reasoning(text="secret", seals=(signed(model="another-model"),)),
    ],
    ids=["unsigned", "foreign", "other model"],
)
def test_other_state_is_dropped_and_never_shown(part: Reasoning) -> None:
    """Drop reasoning that this upstream can't verify, including its text, with a warning."""
    body, upstream_request = encoded(request(user("a"), assistant(part, Text(text="b")), user("c")))
    assert "secret" not in json.dumps(body)
    assert upstream_request.warnings == ("dropped:reasoning",)


def test_seals_on_other_parts_are_dropped() -> None:
    """Drop another vendor's state on a call, and keep the call."""
    sealed = ToolCall(call_id="1", name="f", seals=(signed(issuer="gemini"),))
    turns, warnings = sent(user("a"), assistant(sealed), results("1"))
    assert turns[1]["content"][0]["type"] == "tool_use"
    assert warnings == ("dropped:reasoning",)


def test_a_budget_is_dropped_without_earlier_thinking() -> None:
    """Drop the budget in a tool loop without thinking, which such models would refuse."""
    turns = (user("a"), assistant(call("1")), results("1"))
    body, upstream_request = encoded(request(*turns, reasoning=ReasoningOptions(effort="high")), BUDGET)
    assert "thinking" not in body
    assert "dropped:reasoning_effort" in upstream_request.warnings
    fresh, _ = encoded(request(user("a"), reasoning=ReasoningOptions(effort="high")), BUDGET)
    assert fresh["thinking"]["type"] == "enabled"


def test_other_parts_in_history() -> None:
    """Send refusals as text; drop other vendors' citations and parts with a warning."""
    cited = Text(text="b", citations=(Citation(url="https://example.org"),))
    foreign = Opaque(protocol="openai-responses", kind="computer_call", data={})
    search = ServerToolCall(call_id="s", tool="web_search")
    turns, warnings = sent(user("a"), assistant(Refusal(text="No."), cited, foreign, search), user("c"))
    assert turns[1]["content"] == text("No.", "b")
    assert warnings == ("dropped:computer_call", "dropped:web_search")
    compacted = Opaque(protocol="openai-responses", kind="compaction", data={})
    assert refused(user("a"), assistant(compacted), user("b")) == "messages"


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────

F, G = Tool(name="f", parameters={"type": "object"}), Tool(name="g")


def tooled(
    *tools: Tool, choice: ToolChoice | None = None, to: Upstream | None = None, **fields: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    body, upstream_request = encoded(request(tools=tools, tool_choice=choice or ToolChoice(), **fields), to)
    return body, upstream_request.warnings


def test_tools_are_declared() -> None:
    """Send schema, description and strictness; a missing schema is an empty object."""
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    strict = Tool(name="f", description="d", parameters=closed, strict=True, deferred=True)
    body, warnings = tooled(strict, G)
    assert body["tools"] == [
        {"name": "f", "description": "d", "input_schema": closed, "strict": True},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tool_choice" not in body
    assert warnings == ()


def test_unsupported_strictness_is_a_warning() -> None:
    """Drop `strict` for a model without it, with a warning."""
    assert tooled(Tool(name="f", strict=True), to=OLD)[1] == ("dropped:strict",)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice(mode="auto", given=True), {"type": "auto"}),
        (ToolChoice(mode="none", given=True), {"type": "none"}),
        (ToolChoice(mode="required", given=True), {"type": "any"}),
        (ToolChoice(mode="required", only=("g",), given=True), {"type": "tool", "name": "g"}),
        (ToolChoice(parallel=False), {"type": "auto", "disable_parallel_tool_use": True}),
        (
            ToolChoice(mode="required", only=("g",), parallel=False, given=True),
            {"type": "tool", "name": "g", "disable_parallel_tool_use": True},
        ),
        (ToolChoice(mode="none", parallel=False, given=True), {"type": "none"}),
    ],
)
def test_tool_choice(choice: ToolChoice, expected: dict[str, Any]) -> None:
    """Encode each tool choice and declare all tools."""
    body, warnings = tooled(F, G, choice=choice)
    assert body["tool_choice"] == expected
    assert len(body["tools"]) == 2
    assert warnings == ()


def test_without_tools_there_is_no_choice() -> None:
    """Omit a choice without tools."""
    body, _ = tooled(choice=ToolChoice(mode="none", parallel=False, given=True))
    assert "tool_choice" not in body
    assert "tools" not in body


@pytest.mark.parametrize(
    ("to", "reasoning"),
    [(NEWEST, None), (FIVE, "high"), (BUDGET, "high")],
    ids=["never forced", "effort", "budget"],
)
def test_forcing_is_weakened(to: Upstream, reasoning: Any) -> None:
    """Let a model that can't be forced choose among the named tools, with a warning."""
    choice = ToolChoice(mode="required", only=("g",), given=True)
    body, warnings = tooled(F, G, choice=choice, to=to, reasoning=ReasoningOptions(effort=reasoning))
    assert body["tool_choice"] == {"type": "auto"}
    assert [tool["name"] for tool in body["tools"]] == ["g"]
    assert warnings == ("downgraded:tool_choice",)


def test_an_allowed_list_leaves_the_others_out() -> None:
    """Declare only the allowed tools, with auto or any."""
    third = Tool(name="h")
    body, warnings = tooled(F, G, third, choice=ToolChoice(mode="required", only=("f", "h"), given=True))
    assert ([tool["name"] for tool in body["tools"]], body["tool_choice"]) == (["f", "h"], {"type": "any"})
    assert warnings == ("downgraded:tool_choice",)
    with pytest.raises(Unsupported):
        tooled(F, choice=ToolChoice(only=("x", "y"), given=True))


def test_a_list_of_all_tools_is_no_list() -> None:
    """Encode a list of all tools as the plain mode, without a loss."""
    body, warnings = tooled(F, G, choice=ToolChoice(mode="required", only=("g", "f"), given=True))
    assert (body["tool_choice"], len(body["tools"]), warnings) == ({"type": "any"}, 2, ())


def test_free_text_tools_are_emulated() -> None:
    """Send a free-text tool as a function with one string and its grammar as description, also in history."""
    patch = Tool(
        name="patch", kind="custom", description="Edit.", grammar=Grammar(syntax="lark", definition="start: x")
    )
    made = ToolCall(call_id="1", name="patch", kind="custom", arguments="*** a\nb")
    body, upstream_request = encoded(request(user("a"), assistant(made), results("1"), tools=(patch,)))
    (tool,) = body["tools"]
    assert tool["input_schema"]["required"] == ["input"]
    assert "start: x" in tool["description"]
    assert body["messages"][1]["content"][0]["input"] == {"input": "*** a\nb"}
    assert upstream_request.emulated == {"patch"}
    assert upstream_request.warnings == ("emulated:custom_tool",)


def test_names_are_made_legal() -> None:
    """Rewrite invalid names and namespaces in tools, history and choice, and record the mapping back."""
    dotted = Tool(name="ns.read")
    spaced = Tool(name="read", namespace="files")
    history = (user("a"), assistant(call("1", "ns.read")), results("1"))
    body, upstream_request = encoded(
        request(
            *history, tools=(dotted, spaced), tool_choice=ToolChoice(mode="required", only=("ns.read",), given=True)
        )
    )
    first, second = (tool["name"] for tool in body["tools"])
    assert body["messages"][1]["content"][0]["name"] == first == body["tool_choice"]["name"]
    assert second == "files__read"
    assert upstream_request.names == {first: "ns.read", "files__read": "read"}


def test_server_tools() -> None:
    """Map web search, warn about its unknown settings, and refuse an unknown tool with a 400."""
    search = Tool(
        name="web_search", kind="server", settings={"allowed_domains": ["a.org"], "search_context_size": "low"}
    )
    body, warnings = tooled(search)
    assert body["tools"] == [{"type": "web_search_20250305", "name": "web_search", "allowed_domains": ["a.org"]}]
    assert warnings == ("dropped:search_context_size",)
    with pytest.raises(Unsupported) as caught:
        tooled(Tool(name="code_interpreter", kind="server"))
    assert caught.value.param == "tools"


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("to", "wish", "thinking", "effort", "warnings"),
    [
        (FIVE, {}, None, None, ()),
        (FIVE, {"effort": "none"}, {"type": "disabled"}, None, ()),
        (FIVE, {"effort": "minimal"}, {"type": "adaptive"}, "low", ("clamped:reasoning_effort",)),
        (FIVE, {"effort": "low"}, {"type": "adaptive"}, "low", ()),
        (FIVE, {"effort": "xhigh"}, {"type": "adaptive"}, "xhigh", ()),
        (FIVE, {"budget_tokens": 10_000}, {"type": "adaptive"}, "medium", ()),
        (FIVE, {"budget_tokens": -1}, {"type": "adaptive"}, None, ()),
        (FIVE, {"budget_tokens": 0}, {"type": "disabled"}, None, ()),
        (FIVE, {"effort": "max", "visible": "summary"}, {"type": "adaptive", "display": "summarized"}, "max", ()),
        (FIVE, {"visible": "hidden"}, None, None, ()),
        (NEWEST, {"effort": "none"}, None, "low", ("clamped:reasoning_effort",)),
        (BOTH, {"effort": "xhigh"}, {"type": "adaptive"}, "high", ("clamped:reasoning_effort",)),
        (BOTH, {"budget_tokens": 2048}, {"type": "enabled", "budget_tokens": 2048}, None, ()),
        (BUDGET, {"effort": "none"}, {"type": "disabled"}, None, ()),
        (BUDGET, {"effort": "low"}, {"type": "enabled", "budget_tokens": 1024}, None, ()),
        (BUDGET, {"effort": "medium"}, {"type": "enabled", "budget_tokens": 8192}, None, ()),
        (BUDGET, {"effort": "high"}, {"type": "enabled", "budget_tokens": 24_576}, None, ()),
        (BUDGET, {"effort": "max"}, {"type": "enabled", "budget_tokens": 48_000}, None, ()),
        (
            BUDGET,
            {"budget_tokens": 500},
            {"type": "enabled", "budget_tokens": 1024},
            None,
            ("clamped:reasoning_effort",),
        ),
        (OLD, {"effort": "high"}, None, None, ("dropped:reasoning_effort",)),
        (OLD, {"effort": "none"}, None, None, ()),
    ],
)
def test_reasoning(
    to: Upstream, wish: dict[str, Any], thinking: object, effort: str | None, warnings: tuple[str, ...]
) -> None:
    """Encode reasoning as an effort or a budget, never both; nothing if not requested."""
    body, upstream_request = encoded(request(reasoning=ReasoningOptions(**wish)), to)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    assert upstream_request.warnings == warnings


@pytest.mark.parametrize(
    ("limit", "budget", "warning"),
    [(4000, 3999, "clamped:reasoning_effort"), (1000, None, "dropped:reasoning_effort")],
)
def test_a_budget_stays_below_the_limit(limit: int, budget: int | None, warning: str) -> None:
    """Keep a budget below max_tokens; send none if too little is left."""
    body, upstream_request = encoded(
        request(max_output_tokens=limit, reasoning=ReasoningOptions(effort="high")), BUDGET
    )
    assert body.get("thinking", {}).get("budget_tokens") == budget
    assert upstream_request.warnings == (warning,)


def test_readable_reasoning_is_requested_for_clients_that_show_it() -> None:
    """Request summaries for protocols whose clients always show reasoning."""
    body, _ = encoded(request(protocol="openai-chat", reasoning=ReasoningOptions(effort="low")), FIVE)
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("capabilities", "wanted", "expected", "warnings"),
    [
        ({}, None, 32_000, ()),
        ({"max_output_tokens": 8192}, None, 8192, ()),
        ({"default_max_output_tokens": 9000}, None, 9000, ()),
        ({"max_output_tokens": 8192}, 100_000, 8192, ("clamped:max_tokens",)),
        ({"max_output_tokens": 8192}, 5, 5, ()),
    ],
)
def test_the_limit(capabilities: dict[str, Any], wanted: int | None, expected: int, warnings: tuple[str, ...]) -> None:
    """Send the model's own limit by default, and clamp higher limits."""
    body, upstream_request = encoded(request(max_output_tokens=wanted), upstream(**capabilities))
    assert (body["max_tokens"], upstream_request.warnings) == (expected, warnings)


def test_sampling() -> None:
    """Clamp sampling for old models with the first version, drop it for newer ones, with a warning."""
    hot = Sampling(temperature=1.5, top_k=3)
    body, upstream_request = encoded(request(sampling=hot), OLD)
    assert (body["temperature"], body["top_k"]) == (1.0, 3)
    assert dict(upstream_request.headers)["anthropic-version"] == "2023-06-01"
    assert upstream_request.warnings == ("clamped:temperature",)
    body, upstream_request = encoded(request(sampling=hot), FIVE)
    assert "temperature" not in body
    assert dict(upstream_request.headers)["anthropic-version"] == "2026-10-21"
    assert upstream_request.warnings == ("dropped:temperature", "dropped:top_k")
    both = encoded(request(sampling=Sampling(temperature=0.5, top_p=0.5)), OLD)
    assert ("top_p" in both[0], both[1].warnings) == (False, ("dropped:top_p",))


def test_unsupported_options_are_warnings() -> None:
    """Drop seeds, penalties, biases and log probabilities, each with a warning."""
    wish = Sampling(seed=1, frequency_penalty=0.1, presence_penalty=0.1, logit_bias={"1": 1.0}, logprobs=0)
    expected = {f"dropped:{key}" for key in ("seed", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs")}
    assert set(encoded(request(sampling=wish))[1].warnings) == expected


def test_stops() -> None:
    """Send stop sequences; apply those of white space only, which Anthropic refuses, in the gateway."""
    body, upstream_request = encoded(request(stop=("END", "\n", "")))
    assert (body["stop_sequences"], upstream_request.stop, upstream_request.warnings) == (
        ["END"],
        ("\n",),
        ("emulated:stop",),
    )
    body, upstream_request = encoded(request(stop=("END",)), upstream(stops=False))
    assert ("stop_sequences" in body, upstream_request.stop) == (False, ("END",))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"candidates": 2}, "n"),
        ({"output": OutputFormat(modalities=("text", "audio"))}, "modalities"),
        ({"continues": "resp_1"}, "previous_response_id"),
    ],
)
def test_options_that_change_the_response_are_refused(fields: dict[str, Any], param: str) -> None:
    """Refuse several candidates, audio and stored responses with a 400 that names the field."""
    assert refused(**fields) == param


def test_a_schema() -> None:
    """Close objects at every depth; move keywords that Anthropic refuses into the description, with a warning."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "minimum": {"type": "integer", "minimum": 1},
            "list": {"type": "array", "items": {"$ref": "#/$defs/x"}},
        },
        "$defs": {"x": {"type": ["object", "null"], "properties": {"a": {"type": "string"}}}},
    }
    body, upstream_request = encoded(request(output=OutputFormat(kind="json_schema", schema=schema)))
    assert body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {
                "minimum": {"type": "integer", "description": "{minimum: 1}"},
                "list": {"type": "array", "items": {"$ref": "#/$defs/x"}},
            },
            "$defs": {
                "x": {
                    "anyOf": [
                        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
                        {"type": "null"},
                    ]
                }
            },
            "additionalProperties": False,
        },
    }
    assert upstream_request.warnings == ("dropped:response_format.minimum",)


def test_json_by_instruction() -> None:
    """Request JSON by an instruction, for JSON mode and for schemas that the model doesn't support."""
    body, upstream_request = encoded(request(system("Be brief."), user("Hi"), output=OutputFormat(kind="json")))
    assert body["system"][0]["text"] == "Be brief."
    assert "JSON" in body["system"][1]["text"]
    assert upstream_request.warnings == ("emulated:response_format",)
    wanted = OutputFormat(kind="json_schema", schema={"type": "object", "title": "Thing"})
    body, upstream_request = encoded(request(output=wanted), OLD)
    assert "Thing" in body["system"][0]["text"]
    assert upstream_request.warnings == ("emulated:response_format",)


def test_cache_marks() -> None:
    """Map lifetimes; keep the last marks if there are too many, with a warning."""
    mark = CacheMark(lifetime="30m")
    tool = Tool(name="f", cache_mark=mark)
    lead = Message(role="system", authority="system", parts=(Text(text="s", cache_mark=CacheMark()),))
    said = Message(role="user", parts=tuple(Text(text=str(n), cache_mark=CacheMark(lifetime="5m")) for n in range(4)))
    body, upstream_request = encoded(request(lead, said, tools=(tool,)))
    assert "cache_control" not in body["tools"][0]
    assert "cache_control" not in body["system"][0]
    assert [part["cache_control"]["ttl"] for part in body["messages"][0]["content"]] == ["5m"] * 4
    assert upstream_request.warnings == ("clamped:cache_breakpoints",)
    body, upstream_request = encoded(request(lead, user("Hi"), tools=(tool,), cache=CacheOptions(automatic=True)))
    assert body["tools"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert body["system"][0]["cache_control"] == body["cache_control"] == {"type": "ephemeral"}
    assert upstream_request.warnings == ()
    body, _ = encoded(request(said), upstream(cache_marks=False))
    assert "cache_control" not in json.dumps(body)


@pytest.mark.parametrize(
    ("tier", "fields", "warnings"),
    [
        (ServiceTier.AUTO, {}, ()),
        (ServiceTier.STANDARD, {"service_tier": "standard_only"}, ()),
        (ServiceTier.PRIORITY, {"speed": "fast"}, ()),
        (ServiceTier.FLEX, {}, ("dropped:service_tier",)),
    ],
)
def test_service_tiers(tier: ServiceTier, fields: dict[str, str], warnings: tuple[str, ...]) -> None:
    """Encode each tier in its field, or warn."""
    body, upstream_request = encoded(request(service_tier=tier))
    assert {key: body[key] for key in ("service_tier", "speed") if key in body} == fields
    assert upstream_request.warnings == warnings


def test_the_end_user() -> None:
    """Send the end user, but not the caller's metadata."""
    body, upstream_request = encoded(request(end_user="u-1", metadata={"a": "b"}))
    assert body["metadata"] == {"user_id": "u-1"}
    assert upstream_request.warnings == ()


# ── the same protocol ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_passed_request_keeps_every_value() -> None:
    """Keep values, order and spelling; change only the model's name, also if absent."""
    turns = b'[ {"role":"user","content":"\\u00fc 1.50"} ]'
    body = b'{"max_tokens":9,"messages":%b,"model":"asked","new":{"b":1e3,"a":[]}}' % turns
    upstream_request = OUTBOUND.passthrough_request(INBOUND.open(body, headers={}), upstream())
    assert upstream_request.body == body.replace(b'"asked"', b'"claude-upstream-1"')
    nameless = opened({"model": ...})
    assert json.loads(OUTBOUND.passthrough_request(nameless, upstream()).body)["model"] == "claude-upstream-1"


def test_a_passed_request_keeps_its_headers() -> None:
    """Pass the caller's version and betas; the default is the first version."""
    named = OUTBOUND.passthrough_request(opened(anthropic_version="2026-10-21", anthropic_beta="a,b"), upstream())
    assert named.headers == (("anthropic-version", "2026-10-21"), ("anthropic-beta", "a,b"))
    assert OUTBOUND.passthrough_request(opened(), upstream()).headers == (("anthropic-version", "2023-06-01"),)


def test_wrapped_state_only_reaches_its_issuer() -> None:
    """Remove another upstream's state from a passed conversation."""
    foreign = wrap(Seal(issuer="openai", kind="encrypted", data="blob"))
    own = wrap(signed(issuer="bedrock"))
    turns = [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "x", "signature": foreign},
                {"type": "thinking", "thinking": "y", "signature": UNSIGNED},
                {"type": "thinking", "thinking": "z", "signature": own},
                {"type": "thinking", "thinking": "n", "signature": "native"},
                {"type": "text", "text": "b"},
            ],
        },
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": foreign}]},
        {"role": "user", "content": "c"},
    ]
    upstream_request = OUTBOUND.passthrough_request(opened({"messages": turns}), upstream(issuer="bedrock"))
    written = json.loads(upstream_request.body)["messages"]
    assert [turn["role"] for turn in written] == ["user", "assistant", "user"]
    assert [part.get("signature") for part in written[1]["content"]] == ["sig", "native", None]
    assert upstream_request.warnings == ("dropped:reasoning",)


def test_user_parts_of_another_vendor_are_refused() -> None:
    """Refuse a user part that only another vendor supports with a 400: the model wouldn't see it."""
    assert refused(Message(role="user", parts=(Opaque(protocol="gemini", kind="fileData", data={}),))) == "messages"


def test_repeated_ids_become_unique() -> None:
    """Give repeated call ids of clients that count per step a unique id each."""
    step = (assistant(call("call_0")), results("call_0"))
    body, upstream_request = encoded(request(user("a"), *step, *step))
    used = [part["id"] for turn in body["messages"] for part in turn["content"] if part["type"] == "tool_use"]
    answered = [part["tool_use_id"] for turn in body["messages"] for part in turn["content"] if "tool_use_id" in part]
    assert used == answered
    assert len(set(used)) == 2
    assert upstream_request.call_ids == {used[1]: "call_0"}


def test_repeated_ids_within_a_step_become_unique() -> None:
    """Match parallel calls with one id to their own results: some servers use the function's name as id."""
    step = (assistant(call("f"), call("f")), results("f", "f"))
    body, upstream_request = encoded(request(user("a"), *step, *step))
    used = [part["id"] for turn in body["messages"] for part in turn["content"] if part["type"] == "tool_use"]
    answered = [part["tool_use_id"] for turn in body["messages"] for part in turn["content"] if "tool_use_id" in part]
    assert used == answered
    assert len(set(used)) == 4
    assert set(upstream_request.call_ids.values()) == {"f"}


def test_an_error_result_is_never_empty() -> None:
    """Add text to an empty error result, which Anthropic would refuse."""
    result = Message(role="tool", parts=(ToolResult(call_id="1", is_error=True),))
    turns, _ = sent(user("a"), assistant(call("1")), result)
    assert turns[-1]["content"][0]["content"] == text("[no result]")


def test_the_same_protocol_through_the_full_codec() -> None:
    """Keep a request's meaning through decoding and encoding, as for a hook that edits it."""
    mark = {"type": "ephemeral", "ttl": "1h"}
    body = {
        "model": "asked",
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "s", "cache_control": mark}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "file", "file_id": "file_1"}, "transformations": [{"a": 1}]},
                    {"type": "document", "source": {"type": "url", "url": "https://example.org"}, "title": "T"},
                    {
                        "type": "search_result",
                        "source": "https://example.org",
                        "title": "T",
                        "content": [{"type": "text", "text": "found"}],
                    },
                    {"type": "container_upload", "file_id": "file_2"},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "blob"},
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
                    {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                    {
                        "type": "text",
                        "text": "b",
                        "citations": [{"type": "char_location", "cited_text": "b", "document_index": 0}],
                    },
                    {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}, "caller": {"type": "direct"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "a",
                        "content": [{"type": "tool_reference", "tool_name": "f"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "c"},
                ],
            },
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}], "clear_at": "never"},
        ],
        "tools": [
            {"name": "f", "input_schema": {"type": "object"}, "strict": True, "defer_loading": True, "new": 1},
            {"type": "web_search_20260318", "name": "web_search", "max_uses": 1, "cache_control": mark},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "adaptive", "display": "omitted", "block_binding": {"a": 1}},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "string"}}, "new": 1},
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u", "new": 1},
        "service_tier": "standard_only",
        "cache_control": {"type": "ephemeral"},
        "container": "c_1",
        "stream": True,
    }
    inbound_request = opened(body, anthropic_version="2026-10-21", anthropic_beta="a")
    upstream_request = OUTBOUND.encode(INBOUND.decode(inbound_request), FIVE)
    assert json.loads(upstream_request.body) == {**body, "model": "claude-sonnet-5"}
    assert upstream_request.headers == (("anthropic-version", "2026-10-21"), ("anthropic-beta", "a"))
    assert upstream_request.warnings == ()
