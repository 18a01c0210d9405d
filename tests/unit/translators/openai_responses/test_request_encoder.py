"""Requests of other protocols, as they go to an upstream that speaks Responses."""

from typing import Any

import msgspec
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
    Part,
    PlainText,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
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
from support.wires.openai_responses import OUTBOUND, decoded, encoded, upstream

OWN = "openai-responses"
HELLO = Message(role="user", parts=(Text(text="Hello"),))
STATE = Seal(issuer="openai", kind="encrypted", data="blob==", item_id="rs_1")
FOREIGN = Seal(issuer="anthropic", kind="signature", data="sig")


def request(*messages: Message, protocol: str = "openai-chat", **fields: Any) -> Request:
    """A request of another protocol."""
    return Request(protocol=protocol, model="smart", messages=messages or (HELLO,), **fields)


def items(*messages: Message, protocol: str = "openai-chat", **options: Any) -> list[dict[str, Any]]:
    """The items that these messages become."""
    found: list[dict[str, Any]] = encoded(request(*messages, protocol=protocol), **options)[0]["input"]
    return found


def sent(**fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a request with these fields becomes, and the warnings."""
    return encoded(request(**fields))


def refused(made: Request, **options: Any) -> BadRequest:
    """Why a request cannot go."""
    with pytest.raises(BadRequest) as caught:
        OUTBOUND.encode(made, upstream(**options))
    return caught.value


def step(*parts: Part, **fields: Any) -> Message:
    """A turn of the model."""
    return Message(role="assistant", parts=parts, **fields)


def given_back(*results: ToolResult) -> Message:
    """What tools gave back."""
    return Message(role="tool", parts=results)


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_plainest_request() -> None:
    """A question is one message; nothing is stored at the vendor; no other field is sent."""
    assert sent() == (
        {
            "model": "big-1",
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
            "store": False,
        },
        (),
    )


@pytest.mark.parametrize("protocol", ["anthropic-messages", "gemini"])
def test_one_system_becomes_instructions(protocol: str) -> None:
    """The one system of protocols that have one is `instructions`; with a mark or as several parts it stays items."""
    system = Message(role="system", authority="system", parts=(Text(text="Be brief."),))
    body, _ = encoded(request(system, HELLO, protocol=protocol))
    assert body["instructions"] == "Be brief."
    assert len(body["input"]) == 1
    marked = Message(role="system", authority="system", parts=(Text(text="a", cache_mark=CacheMark()),))
    body, _ = encoded(request(marked, HELLO, protocol=protocol))
    assert "instructions" not in body
    assert body["input"][0]["role"] == "system"


def test_systems_of_chat_are_leading_items() -> None:
    """System and developer keep their words; midway they keep their place."""
    found = items(
        Message(role="system", authority="system", parts=(Text(text="S"),)),
        Message(role="system", authority="developer", parts=(Text(text="D"),)),
        HELLO,
        Message(role="system", authority="developer", parts=(Text(text="M"),)),
    )
    assert [item["role"] for item in found] == ["system", "developer", "user", "developer"]


def test_a_server_without_developers_reads_system() -> None:
    """A server without the developer role gets system; one without later system messages gets user."""
    system = Message(role="system", authority="developer", parts=(Text(text="D"),))
    assert items(system, HELLO, developer_role=False)[0]["role"] == "system"
    body, warnings = encoded(request(HELLO, system), system_midway=False)
    assert [(item["role"], [part["text"] for part in item["content"]]) for item in body["input"]] == [
        ("user", ["Hello", "D"])
    ]
    assert warnings == ("downgraded:system_message",)


def test_a_server_with_one_system_message_reads_it_in_instructions() -> None:
    """Leading instructions of any kind, and the line that asks for JSON, are one string and nothing else."""
    made = decoded(
        instructions="I",
        input=[{"role": "developer", "content": "D"}, {"role": "user", "content": "U"}],
        text={"format": {"type": "json_object"}},
    )
    body, warnings = encoded(made, several_system=False, json_mode=False, developer_role=False)
    assert body["instructions"].startswith("I\n\nD\n\nAnswer with one JSON object")
    assert [item["role"] for item in body["input"]] == ["user"]
    assert warnings == ("moved:system_message", "emulated:response_format")


def test_own_instructions_go_back() -> None:
    """Instructions of a caller of this protocol are instructions again, before developer items."""
    made = decoded(instructions="I", input=[{"role": "developer", "content": "D"}, {"role": "user", "content": "U"}])
    body, _ = encoded(made)
    assert body["instructions"] == "I"
    assert [item["role"] for item in body["input"]] == ["developer", "user"]


def test_names_are_dropped_and_a_trailing_beginning_is_refused() -> None:
    """This protocol has no names of people, and never continues a message."""
    named = Message(role="user", name="Ann", parts=(Text(text="a"),))
    assert encoded(request(named))[1] == ("dropped:name",)
    assert refused(request(HELLO, step(Text(text="It is")))).param == "messages"


def test_phases_and_ids_go_back() -> None:
    """What an earlier answer said goes back with its id and phase; neighbours of one message stay together."""
    made = decoded(
        input=[
            {"role": "user", "content": "U"},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "phase": "commentary",
                "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}],
            },
            {"type": "message", "id": "bad id", "role": "assistant", "phase": "final_answer", "content": "c"},
            {"role": "user", "content": "V"},
        ]
    )
    first, second = encoded(made)[0]["input"][1:3]
    assert (first["id"], first["phase"], [each["text"] for each in first["content"]]) == (
        "msg_1",
        "commentary",
        ["a", "b"],
    )
    assert "id" not in second
    assert second["phase"] == "final_answer"


def test_answers_of_others_are_easy_messages() -> None:
    """Words, citations and refusals of earlier turns go as output."""
    cited = Text(text="See.", citations=(Citation(url="https://x", start=0, end=4),))
    found = items(HELLO, step(cited, Refusal(text="no")), HELLO)[1]
    assert "id" not in found
    text, refusal = found["content"]
    assert text["annotations"][0]["url"] == "https://x"
    assert refusal == {"type": "refusal", "refusal": "no"}


# ── calls and results ────────────────────────────────────────────────────────────────────────────────────────────────


def test_calls_and_results_pair_up() -> None:
    """Results stand behind their calls in their order; ids that the vendor would refuse are derived from themselves."""
    calls = (
        ToolCall(call_id="a.b", name="f", arguments='{"x": 1.10}'),
        ToolCall(call_id="c2", name="p", kind="custom", arguments="free"),
    )
    results = (
        ToolResult(call_id="c2", content=(Text(text="two"),)),
        ToolResult(call_id="a.b", content=(Text(text="one"),)),
    )
    upstream_request = OUTBOUND.encode(request(HELLO, step(*calls), given_back(*results)), upstream())
    _, call, custom, first, second = msgspec.json.decode(upstream_request.body)["input"]
    assert call == {"type": "function_call", "call_id": call["call_id"], "name": "f", "arguments": '{"x": 1.10}'}
    assert upstream_request.call_ids == {call["call_id"]: "a.b"}
    assert custom == {"type": "custom_tool_call", "call_id": "c2", "name": "p", "input": "free"}
    assert first == {"type": "function_call_output", "call_id": call["call_id"], "output": "one"}
    assert second == {"type": "custom_tool_call_output", "call_id": "c2", "output": "two"}


def test_orphans() -> None:
    """A call that was never answered gets a result that says so; a result without a call is refused."""
    body, warnings = encoded(request(HELLO, step(ToolCall(call_id="c", name="f")), HELLO))
    assert body["input"][2] == {"type": "function_call_output", "call_id": "c", "output": "[tool error] [no result]"}
    assert warnings == ("emulated:tool_result",)
    assert refused(request(HELLO, given_back(ToolResult(call_id="x")))).param == "messages"


def test_results_may_hold_pictures() -> None:
    """Texts and images of a result are parts; an error is text; an empty result is an empty string."""
    picture = Media(kind="image", source=InlineData(data="iVBORw0KGgo="), media_type="image/png")
    calls = tuple(ToolCall(call_id=f"c{n}", name="f") for n in range(4))
    results = (
        ToolResult(call_id="c0", content=(Text(text="a"), picture)),
        ToolResult(call_id="c1", content=(Text(text="b"),), is_error=True),
        ToolResult(call_id="c2", content=(picture,), is_error=True),
        ToolResult(call_id="c3"),
    )
    outputs = [item["output"] for item in items(HELLO, step(*calls), given_back(*results))[-4:]]
    image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"}
    assert outputs[0] == [{"type": "input_text", "text": "a"}, image]
    assert outputs[1] == "[tool error] b"
    assert outputs[2] == [{"type": "input_text", "text": "[tool error]"}, image]
    assert outputs[3] == ""


def test_illegal_item_ids_are_left_out() -> None:
    """Only ids of the kind's own form are sent."""
    made = decoded(
        input=[
            {"role": "user", "content": "U"},
            {"type": "function_call", "id": "call_1", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "id": "ctc_" + "x" * 70, "call_id": "d", "name": "p", "input": ""},
            {"type": "function_call", "id": "fc_1", "call_id": "e", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
            {"type": "custom_tool_call_output", "call_id": "d", "output": "2"},
            {"type": "function_call_output", "call_id": "e", "output": "3"},
        ]
    )
    assert [item.get("id") for item in encoded(made)[0]["input"][1:4]] == [None, None, "fc_1"]


# ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_own_reasoning_goes_back_before_what_it_led_to() -> None:
    """State of this issuer is its item again, with its id and summary; the vendor is asked for more of it."""
    thought = Reasoning(
        text="a\n\nb", style="summary", id="rs_1", seals=(STATE,), extras={OWN: {"summary": ["a", "b"]}}
    )
    messages = (HELLO, step(thought, ToolCall(call_id="c", name="f", id="fc_1")), given_back(ToolResult(call_id="c")))
    body, warnings = encoded(request(*messages))
    assert body["input"][1] == {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}],
        "encrypted_content": "blob==",
    }
    assert body["input"][2]["id"] == "fc_1"
    assert body["include"] == ["reasoning.encrypted_content"]
    assert warnings == ()
    assert OUTBOUND.replays_reasoning(OUTBOUND.encode(request(*messages), upstream()).body)
    assert not OUTBOUND.replays_reasoning(OUTBOUND.encode(request(), upstream()).body)


def test_foreign_reasoning_goes_and_takes_ids_along() -> None:
    """What another vendor made is dropped, never shown as text; its followers go without the ids that would miss it."""
    call = ToolCall(call_id="c", name="f", id="fc_1")
    body, warnings = encoded(
        request(HELLO, step(Reasoning(text="secret", seals=(FOREIGN,)), call), given_back(ToolResult(call_id="c")))
    )
    assert [item["type"] for item in body["input"]] == ["message", "function_call", "function_call_output"]
    assert "id" not in body["input"][1]
    assert "secret" not in str(body)
    assert warnings == ("dropped:reasoning",)
    assert "include" not in body


def test_reasoning_without_its_follower_goes() -> None:
    """A thought at the end of a turn led to nothing that is left, and alone it is refused."""
    body, warnings = encoded(request(HELLO, step(Text(text="a"), Reasoning(id="rs_1", seals=(STATE,))), HELLO))
    assert [item["type"] for item in body["input"]] == ["message", "message", "message"]
    assert warnings == ("dropped:reasoning",)


def test_reasoning_of_another_account_goes() -> None:
    """State is bound to the route that made it."""
    body, warnings = encoded(request(HELLO, step(Reasoning(seals=(STATE,)), Text(text="a")), HELLO), issuer="my-azure")
    assert [item["type"] for item in body["input"]] == ["message", "message", "message"]
    assert warnings == ("dropped:reasoning",)


def test_readable_reasoning_goes_where_it_is_taken() -> None:
    """A server that reads its own reasoning back gets it as content; an id is made for it, the same each time."""
    thought = Reasoning(text="hm")
    found = items(HELLO, step(thought, Text(text="a")), HELLO, reasoning_content=True)[1]
    assert found["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert found["id"].startswith("rs_")
    assert found == items(HELLO, step(thought, Text(text="a")), HELLO, reasoning_content=True)[1]


def test_seals_of_calls_are_dropped_with_a_word() -> None:
    """This vendor seals nothing but reasoning."""
    call = ToolCall(call_id="c", name="f", seals=(FOREIGN,))
    assert encoded(request(HELLO, step(call), given_back(ToolResult(call_id="c"))))[1] == ("dropped:reasoning",)


@pytest.mark.parametrize(
    ("options", "protocol", "found", "includes"),
    [
        (ReasoningOptions(), "openai-chat", None, False),
        (ReasoningOptions(effort="high"), "openai-chat", {"effort": "high", "summary": "auto"}, True),
        (ReasoningOptions(effort="none"), "openai-chat", {"effort": "none"}, False),
        (ReasoningOptions(effort="low"), "anthropic-messages", {"effort": "low"}, True),
        (
            ReasoningOptions(budget_tokens=10_000, visible="full"),
            "anthropic-messages",
            {"effort": "medium", "summary": "auto"},
            True,
        ),
        (ReasoningOptions(visible="summary"), "gemini", {"summary": "auto"}, True),
        (ReasoningOptions(effort="high", visible="hidden"), "openai-chat", {"effort": "high"}, True),
        (ReasoningOptions(budget_tokens=-1), "gemini", None, False),
    ],
)
def test_reasoning_is_asked_for(
    options: ReasoningOptions, protocol: str, found: dict[str, str] | None, *, includes: bool
) -> None:
    """Effort and summary follow what the caller asked, and what its protocol shows; nothing is invented."""
    body, _ = encoded(request(protocol=protocol, reasoning=options))
    assert body.get("reasoning") == found
    assert ("include" in body) is includes


def test_efforts_that_a_model_lacks() -> None:
    """The nearest lower rung is taken; a model without any takes none, and no summary either."""
    high = request(reasoning=ReasoningOptions(effort="max", visible="summary"))
    body, warnings = encoded(high, efforts=("low", "high"))
    assert body["reasoning"]["effort"] == "high"
    assert warnings == ("clamped:reasoning_effort",)
    body, warnings = encoded(high, efforts=())
    assert "reasoning" not in body
    assert warnings == ("dropped:reasoning_effort",)


# ── media ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def shown(part: Part, *, protocol: str = "openai-chat", **options: Any) -> dict[str, Any]:
    """What a part of the user's becomes."""
    found: dict[str, Any] = items(Message(role="user", parts=(part,)), protocol=protocol, **options)[0]["content"][0]
    return found


def test_pictures_and_documents() -> None:
    """URLs and data are unchanged; a PDF may be a URL; plain text follows its title."""
    assert shown(Media(kind="image", source=Link(url="https://x"), detail="high")) == {
        "type": "input_image",
        "image_url": "https://x",
        "detail": "high",
    }
    assert shown(Media(kind="document", source=Link(url="https://x/a.pdf"))) == {
        "type": "input_file",
        "file_url": "https://x/a.pdf",
    }
    assert shown(Media(kind="document", source=InlineData(data="JVBERi0="), title="A")) == {
        "type": "input_file",
        "filename": "A",
        "file_data": "data:application/pdf;base64,JVBERi0=",
    }
    told = {"type": "input_text", "text": "T\n\nhi"}
    assert shown(Media(kind="document", source=PlainText(text="hi"), title="T")) == told
    assert shown(Media(kind="document", source=InlineData(data="aGk="), media_type="text/plain", title="T")) == told


@pytest.mark.parametrize(
    ("part", "options"),
    [
        (Media(kind="audio", source=InlineData(data="aGk=")), {}),
        (Media(kind="video", source=Link(url="https://x")), {}),
        (Media(kind="image", source=Link(url="https://x")), {"images": False}),
        (Media(kind="document", source=Link(url="https://x")), {"documents": False}),
        (Media(kind="image", source=StoredFile(protocol="gemini", id="f")), {"stored": True}),
        (Media(kind="image", source=StoredFile(protocol=OWN, id="f")), {}),
        (Media(kind="document", source=InlineData(data="abc"), media_type="text/plain"), {}),
    ],
    ids=["audio", "video", "no-images", "no-documents", "foreign-file", "shared-file", "no-base64"],
)
def test_what_cannot_be_shown_is_refused(part: Part, options: dict[str, Any]) -> None:
    """A model that would answer without having seen it would answer wrongly."""
    assert refused(request(Message(role="user", parts=(part,))), **options).code == "unsupported_by_upstream"


def test_stored_files_go_where_they_may() -> None:
    """Where the vendor's store is one's own, its ids are taken, also those that Chat gave."""
    part = Media(kind="document", source=StoredFile(protocol="openai-chat", id="file_1"))
    assert shown(part, stored=True) == {"type": "input_file", "file_id": "file_1"}


def test_the_last_four_marks_are_kept() -> None:
    """Marks become breakpoints with the nearest lifetime; the last four count; who takes none gets none."""
    texts = tuple(Text(text=str(n), cache_mark=CacheMark(lifetime="1h")) for n in range(6))
    body, warnings = encoded(request(Message(role="user", parts=texts)))
    marks = [entry.get("prompt_cache_breakpoint") for entry in body["input"][0]["content"]]
    assert marks == [None, None, *[{"mode": "explicit", "ttl": "12h"}] * 4]
    assert warnings == ("clamped:cache_breakpoints",)
    body, _ = encoded(request(Message(role="user", parts=texts)), cache_marks=False)
    assert "breakpoint" not in str(body)


def test_own_items_go_back_as_they_came() -> None:
    """What only this protocol knows stands where it stood; searches and pictures too."""
    given: list[dict[str, Any]] = [
        {"type": "message", "role": "user", "content": [{"type": "input_smell", "smell": "rose"}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}},
        {"type": "item_reference", "id": "msg_9"},
    ]
    assert encoded(decoded(input=given))[0]["input"] == given


def test_foreign_parts_are_dropped_with_a_word() -> None:
    """What other protocols alone know is named."""
    parts = (
        ServerToolCall(call_id="s", tool="web_search"),
        Opaque(protocol="gemini", kind="executableCode", data={}),
        Text(text="a"),
    )
    assert encoded(request(HELLO, step(*parts), HELLO))[1] == ("dropped:server_tool_call", "dropped:executableCode")


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("strict", "protocol", "found"),
    [
        (None, "openai-chat", False),
        (None, "anthropic-messages", False),
        (False, "openai-chat", False),
        (True, "openai-chat", True),
        (None, OWN, None),
    ],
)
def test_strict_is_always_said(protocol: str, *, strict: bool | None, found: bool | None) -> None:
    """`strict` is always sent, except for callers of this protocol that omit it."""
    (tool,) = encoded(request(protocol=protocol, tools=(Tool(name="f", strict=strict),)))[0]["tools"]
    assert tool.get("strict") is found
    assert tool["parameters"] == {"type": "object", "properties": {}}


def test_illegal_names_are_rewritten_everywhere() -> None:
    """A name is the same in declaration, history and choice, and known in the answer."""
    made = request(
        HELLO,
        step(ToolCall(call_id="c", name="ns.read")),
        given_back(ToolResult(call_id="c")),
        tools=(Tool(name="ns.read"),),
        tool_choice=ToolChoice(mode="required", only=("ns.read",), given=True),
    )
    upstream_request = OUTBOUND.encode(made, upstream())
    body = msgspec.json.decode(upstream_request.body)
    name = body["tools"][0]["name"]
    assert body["input"][1]["name"] == body["tool_choice"]["name"] == name
    assert upstream_request.names == {name: "ns.read"}


def test_free_text_tools() -> None:
    """A free-text tool goes with its grammar, or as a function where the model has none."""
    tool = Tool(name="p", kind="custom", description="d", grammar=Grammar(syntax="lark", definition="x"))
    assert sent(tools=(tool,))[0]["tools"] == [
        {
            "type": "custom",
            "name": "p",
            "description": "d",
            "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
        }
    ]
    call = ToolCall(call_id="c", name="p", kind="custom", arguments="free")
    made = request(HELLO, step(call), given_back(ToolResult(call_id="c")), tools=(tool,))
    upstream_request = OUTBOUND.encode(made, upstream(custom_tools=False))
    body = msgspec.json.decode(upstream_request.body)
    assert body["tools"][0]["type"] == "function"
    assert (body["input"][1]["arguments"], body["input"][2]["type"]) == ('{"input":"free"}', "function_call_output")
    assert upstream_request.emulated == {"p"}
    assert upstream_request.warnings == ("emulated:custom_tool",)


def test_namespaces_hold_their_tools() -> None:
    """Tools of one namespace are declared together; calls name it."""
    made = decoded(
        tools=[
            {
                "type": "namespace",
                "name": "crm",
                "description": "n",
                "tools": [{"type": "function", "name": "find", "strict": False}, {"type": "custom", "name": "note"}],
            }
        ],
        input=[
            {"type": "function_call", "call_id": "c", "name": "find", "arguments": "{}", "namespace": "crm"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
    )
    body, _ = encoded(made)
    (space,) = body["tools"]
    assert (space["name"], space["description"]) == ("crm", "n")
    assert [tool["name"] for tool in space["tools"]] == ["find", "note"]
    assert body["input"][0]["namespace"] == "crm"


def test_server_tools() -> None:
    """A web search crosses as far as this vendor knows it; its own tools go back as they came; others are refused."""
    search = Tool(
        name="web_search",
        kind="server",
        settings={"allowed_domains": ["a.org"], "max_uses": 3, "user_location": {"city": "Köln"}},
    )
    body, warnings = sent(tools=(search,))
    assert body["tools"] == [
        {
            "type": "web_search",
            "filters": {"allowed_domains": ["a.org"]},
            "user_location": {"city": "Köln", "type": "approximate"},
        }
    ]
    assert warnings == ("dropped:max_uses",)
    own = {"type": "code_interpreter", "container": {"type": "auto"}}
    made = decoded(tools=[own], tool_choice={"type": "code_interpreter"})
    body, _ = encoded(made)
    assert (body["tools"], body["tool_choice"]) == ([own], {"type": "code_interpreter"})
    assert refused(request(tools=(Tool(name="computer", kind="server"),))).param == "tools"
    assert refused(request(tools=(Tool(name="f"),)), tools=False).param == "tools"


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (ToolChoice(), None),
        (ToolChoice(mode="auto", given=True), "auto"),
        (ToolChoice(mode="none", given=True), "none"),
        (ToolChoice(mode="required", given=True), "required"),
        (ToolChoice(mode="required", only=("f",), given=True), {"type": "function", "name": "f"}),
        (ToolChoice(mode="required", only=("p",), given=True), {"type": "custom", "name": "p"}),
        (
            ToolChoice(mode="auto", only=("f", "p"), given=True),
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "p"}],
            },
        ),
    ],
)
def test_choices(choice: ToolChoice, found: Any) -> None:
    """Each choice has its exact form."""
    tools = (Tool(name="f"), Tool(name="p", kind="custom"), Tool(name="q"))
    assert sent(tools=tools, tool_choice=choice)[0].get("tool_choice") == found


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_servers_without_allowed_lists_get_fewer_tools(mode: Any) -> None:
    """Other tools are not declared, with a warning; a list of all tools is the plain mode."""
    tools = (Tool(name="f"), Tool(name="g"), Tool(name="h"))
    some = request(tools=tools, tool_choice=ToolChoice(mode=mode, only=("f", "h"), given=True))
    body, warnings = encoded(some, allowed_tools=False)
    assert ([tool["name"] for tool in body["tools"]], body["tool_choice"]) == (["f", "h"], mode)
    assert warnings == ("downgraded:tool_choice",)
    every = request(tools=tools, tool_choice=ToolChoice(mode=mode, only=("h", "g", "f"), given=True))
    body, warnings = encoded(every, allowed_tools=False)
    assert (len(body["tools"]), body["tool_choice"], warnings) == (3, mode, ())


def test_choices_that_a_model_lacks() -> None:
    """A forced choice becomes a free one among fewer tools; models without parallel calls get no option for them."""
    choice = ToolChoice(mode="required", only=("f",), parallel=False, given=True)
    made = request(tools=(Tool(name="f"), Tool(name="g")), tool_choice=choice)
    body, warnings = encoded(made, forced_tool_choice=False, parallel_tools=False)
    assert (body["tool_choice"], [tool["name"] for tool in body["tools"]]) == ("auto", ["f"])
    assert warnings == ("dropped:parallel_tool_calls", "downgraded:tool_choice")
    assert encoded(made)[0]["parallel_tool_calls"] is False
    assert refused(request(tools=(Tool(name="g"),), tool_choice=choice)).param == "tool_choice"
    assert "parallel_tool_calls" not in sent(tool_choice=ToolChoice(parallel=False))[0]


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_options_cross_or_are_named() -> None:
    """Supported options are encoded; unsupported ones are reported as losses, not refused."""
    body, warnings = sent(
        sampling=Sampling(
            temperature=3.0,
            top_p=0.5,
            top_k=5,
            seed=1,
            frequency_penalty=1.0,
            presence_penalty=1.0,
            logit_bias={"1": 1.0},
            logprobs=30,
        ),
        stop=("END",),
        max_output_tokens=5,
        end_user="u" * 200,
        metadata={"a": "b"},
        service_tier=ServiceTier.STANDARD,
        cache=CacheOptions(key="k", automatic=True, lifetime="1h"),
        output=OutputFormat(verbosity="low"),
        store=True,
        stream=True,
        extras={"gemini": {"safetySettings": {}, "labels": {}}},
    )
    assert (body["temperature"], body["top_p"], body["top_logprobs"]) == (2.0, 0.5, 20)
    assert body["include"] == ["message.output_text.logprobs"]
    assert body["max_output_tokens"] == 16
    assert len(body["safety_identifier"]) == 64
    assert (body["metadata"], body["service_tier"], body["prompt_cache_key"]) == ({"a": "b"}, "default", "k")
    assert body["prompt_cache_options"] == {"mode": "implicit", "ttl": "12h"}
    assert (body["text"], body["store"], body["stream"]) == ({"verbosity": "low"}, False, True)
    assert set(warnings) == {
        "clamped:temperature",
        "dropped:top_k",
        "dropped:seed",
        "dropped:frequency_penalty",
        "dropped:presence_penalty",
        "dropped:logit_bias",
        "clamped:top_logprobs",
        "emulated:stop",
        "clamped:max_tokens",
        "dropped:store",
        "dropped:labels",
    }


def test_limits_and_sampling_follow_the_model() -> None:
    """A ceiling bounds the limit; who takes no sampling gets none."""
    made = request(max_output_tokens=9000, sampling=Sampling(temperature=0.5))
    body, warnings = encoded(made, max_output_tokens=4000, sampling="default")
    assert body["max_output_tokens"] == 4000
    assert "temperature" not in body
    assert warnings == ("dropped:temperature", "clamped:max_tokens")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"candidates": 2}, "n"),
        ({"continues": "resp_1"}, "previous_response_id"),
        ({"max_output_tokens": 0}, "max_tokens"),
        ({"output": OutputFormat(modalities=("text", "audio"))}, "modalities"),
        ({"extras": {OWN: {"conversation": "conv_1"}}}, "conversation"),
        ({"extras": {OWN: {"prompt": {"id": "p"}}}}, "prompt"),
        ({"extras": {OWN: {"background": True}}}, "background"),
    ],
)
def test_what_would_change_the_answer_is_refused(fields: dict[str, Any], param: str) -> None:
    """The refusal names the unsupported field."""
    with pytest.raises(Unsupported) as caught:
        OUTBOUND.encode(request(**fields), upstream())
    assert caught.value.param == param


def test_own_store_is_used_where_it_may() -> None:
    """Where the vendor's store is one's own, earlier answers are named and new ones kept as the caller says."""
    body, warnings = encoded(request(protocol=OWN, continues="resp_1", store=True), stored=True)
    assert (body["previous_response_id"], body["store"], warnings) == ("resp_1", True, ())
    assert "store" not in encoded(request(protocol=OWN), stored=True)[0]
    assert encoded(request(), stored=True)[0]["store"] is False


EMPTY: dict[str, Any] = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("schema", "protocol", "strict"),
    [
        ({**EMPTY, "required": [], "additionalProperties": False}, "anthropic-messages", True),
        ({"type": "object", "properties": {"a": {}}}, "gemini", False),
        ({"type": "object"}, "openai-chat", False),
    ],
)
def test_schemas(schema: dict[str, Any], protocol: str, *, strict: bool) -> None:
    """A schema is flat, named and explicit about strictness."""
    body, _ = encoded(request(protocol=protocol, output=OutputFormat(kind="json_schema", schema=schema)))
    assert body["text"]["format"] == {"type": "json_schema", "name": "response", "schema": schema, "strict": strict}


def test_json_mode_and_models_without_schemas() -> None:
    """The vendor requires the word JSON; a model without schemas gets an instruction."""
    json = OutputFormat(kind="json")
    body, _ = encoded(request(output=json))
    assert body["text"]["format"] == {"type": "json_object"}
    assert "JSON" in body["input"][0]["content"][0]["text"]
    said = Message(role="user", parts=(Text(text="as json please"),))
    assert len(encoded(request(said, output=json))[0]["input"]) == 1
    schema = OutputFormat(kind="json_schema", schema={"type": "object"})
    body, warnings = encoded(request(output=schema), structured_output=False)
    assert body["text"]["format"] == {"type": "json_object"}
    assert '{"type":"object"}' in body["input"][0]["content"][0]["text"]
    assert warnings == ("emulated:response_format",)
    body, warnings = encoded(request(output=json), json_mode=False, developer_role=False)
    assert (body["input"][0]["role"], "text" in body) == ("system", False)
    assert warnings == ("emulated:response_format",)


def test_own_fields_go_back() -> None:
    """Native options are merged into the encoded ones."""
    made = decoded(
        reasoning={"effort": "low", "summary": "detailed", "context": "all_turns"},
        include=["file_search_call.results"],
        truncation="auto",
        moderation={"model": "m"},
    )
    body, warnings = encoded(made)
    assert body["reasoning"] == {"effort": "low", "summary": "detailed", "context": "all_turns"}
    assert body["include"] == ["reasoning.encrypted_content", "file_search_call.results"]
    assert (body["truncation"], body["moderation"], warnings) == ("auto", {"model": "m"}, ())
