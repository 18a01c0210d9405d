"""Encode requests of other protocols for a generateContent upstream."""

from typing import Any

import pytest

from llmproxy_asgi.conversation import (
    CacheMark,
    CacheOptions,
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
from llmproxy_asgi.translators.gemini import capabilities_of
from llmproxy_asgi.translators.gemini.schema import PLACEHOLDER_SIGNATURE
from support.wires.gemini import OUTBOUND, encoded, request, upstream

PNG = InlineData(data="iVBORw0KGgo=")


def user(*parts: Part | str) -> Message:
    return Message(role="user", parts=tuple(Text(text=part) if isinstance(part, str) else part for part in parts))


def assistant(*parts: Part | str) -> Message:
    return Message(role="assistant", parts=tuple(Text(text=part) if isinstance(part, str) else part for part in parts))


def system(text: str) -> Message:
    return Message(role="system", parts=(Text(text=text),))


def call(call_id: str = "c1", name: str = "f", arguments: str = "{}", **more: Any) -> ToolCall:
    return ToolCall(call_id=call_id, name=name, arguments=arguments, **more)


def results(*parts: ToolResult) -> Message:
    return Message(role="tool", parts=parts)


def result(call_id: str = "c1", *content: Part | str, **more: Any) -> ToolResult:
    whole = tuple(Text(text=part) if isinstance(part, str) else part for part in content)
    return ToolResult(call_id=call_id, content=whole, **more)  # type: ignore[arg-type]  # texts and media only


def contents(*messages: Message, **fields: Any) -> list[dict[str, Any]]:
    body, _ = encoded(request(*messages, **fields))
    found: list[dict[str, Any]] = body["contents"]
    return found


def test_a_plain_question() -> None:
    """Send nothing that was not requested."""
    body, upstream_request = encoded(request(), upstream())
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
    assert (upstream_request.warnings, upstream_request.stream) == ((), False)


def test_instructions_stand_apart() -> None:
    """Send leading instructions as separate parts of systemInstruction, in order."""
    body, _ = encoded(request(system("a"), system("b"), user("Hi")))
    assert body["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}


def test_a_later_instruction_becomes_user_text() -> None:
    """Keep the position of a later instruction as user text, with a warning."""
    body, upstream_request = encoded(request(user("a"), assistant("b"), system("c"), user("d")))
    assert body["contents"][-1] == {"role": "user", "parts": [{"text": "c"}, {"text": "d"}]}
    assert upstream_request.warnings == ("downgraded:system_message",)


def test_neighbours_of_one_role_are_one_content() -> None:
    """Merge adjacent messages with their texts separate and in order; omit empty ones."""
    assert contents(user("a"), user("b", ""), assistant(""), user("c")) == [
        {"role": "user", "parts": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}
    ]


def test_the_first_content_is_the_users() -> None:
    """Insert a first user text if the model starts, or if there are only instructions."""
    body, upstream_request = encoded(request(assistant("a"), user("b")))
    assert body["contents"][0] == {"role": "user", "parts": [{"text": "."}]}
    assert upstream_request.warnings == ("emulated:first_user_turn",)
    assert contents(system("only")) == [{"role": "user", "parts": [{"text": "."}]}]


def test_a_trailing_assistant_message() -> None:
    """Send a trailing assistant message if the caller's protocol may continue it, else refuse it."""
    with pytest.raises(Unsupported) as refused:
        encoded(request(user("a"), assistant("b"), protocol="anthropic-messages"))
    assert refused.value.param == "messages"
    assert contents(user("a"), assistant("b"), protocol="openai-chat")[-1]["role"] == "model"
    with pytest.raises(Unsupported):
        encoded(request(user("a"), assistant("b"), protocol="openai-chat"), upstream(prefill=False))


def test_results_stand_in_one_content_in_the_order_of_their_calls() -> None:
    """Send parallel results, in any order, as one content with names and ids, before what follows."""
    found = contents(
        user("x"),
        assistant(call("c1", "f"), call("c2", "g"), call("c3", "f")),
        results(result("c3", "3")),
        results(result("c1", '{"a": 1.0}'), result("c2", "no", is_error=True)),
        user("and"),
    )
    assert [content["role"] for content in found] == ["user", "model", "user"]
    answered, words = found[-1]["parts"][:3], found[-1]["parts"][3:]
    assert [part["functionResponse"]["name"] for part in answered] == ["f", "g", "f"]
    assert [part["functionResponse"]["id"] for part in answered] == ["c1", "c2", "c3"]
    assert [part["functionResponse"]["response"] for part in answered] == [
        {"output": {"a": 1.0}},
        {"error": "no"},
        {"output": 3},
    ]
    assert words == [{"text": "and"}]


@pytest.mark.parametrize(
    ("text", "value"),
    [("ok", "ok"), ('"a"', '"a"'), ("[1, 2]", [1, 2]), ("true", True), ("12 °C", "12 °C"), ("null", "null"), ("", "")],
)
def test_results_as_values(text: str, value: object) -> None:
    """Send text that is JSON as its value; keep the quotes of a string."""
    found = contents(user("x"), assistant(call()), results(result("c1", text)))
    assert found[-1]["parts"][0]["functionResponse"]["response"] == {"output": value}


def test_orphans() -> None:
    """Add an error result to an unanswered call; refuse a result without a call."""
    body, upstream_request = encoded(request(user("x"), assistant(call()), user("y")))
    assert body["contents"][-1]["parts"][0]["functionResponse"]["response"] == {"error": "[no result]"}
    assert "emulated:tool_result" in upstream_request.warnings
    with pytest.raises(BadRequest):
        encoded(request(user("x"), results(result("c9", "?"))))


def test_media_in_results() -> None:
    """Send images within the result to new models, and in a separate content to others."""
    asked = request(user("x"), assistant(call()), results(result("c1", "see", Media(kind="image", source=PNG))))
    body, upstream_request = encoded(asked)
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    assert body["contents"][-1]["parts"][0]["functionResponse"]["parts"] == [picture]
    assert upstream_request.warnings == ()
    body, upstream_request = encoded(asked, upstream(tool_result_media=False))
    assert body["contents"][-2]["parts"][0]["functionResponse"].keys() == {"id", "name", "response"}
    assert body["contents"][-1] == {"role": "user", "parts": [{"text": "[c1]"}, picture]}
    assert upstream_request.warnings == ("moved:tool_result_media",)


# ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────────

OWN = Seal(issuer="gemini", kind="signature", data="AAAA", model="gemini-upstream-1")
OTHER = Seal(issuer="anthropic", kind="signature", data="BBBB")


def signatures(*parts: Part, to: Any = None) -> tuple[list[Any], tuple[str, ...]]:
    after = [results(*(result(part.call_id, "ok") for part in parts if isinstance(part, ToolCall)))]
    asked = request(user("x"), assistant(*parts), *(after if after[0].parts else [user("y")]))
    body, upstream_request = encoded(asked, to)
    return [part.get("thoughtSignature") for part in body["contents"][1]["parts"]], upstream_request.warnings


def test_signatures_go_back_where_they_came_from() -> None:
    """Send a call's signature on the call, and a text's on the text, also an empty one."""
    assert signatures(call("c1", seals=(OWN,)), call("c2")) == (["AAAA", None], ())
    assert signatures(Text(text="a"), Text(text="", seals=(OWN,))) == ([None, "AAAA"], ())


def test_a_loose_signature_goes_on_the_first_call() -> None:
    """Send state that another client keeps as reasoning on the first call, else on the next text."""
    loose = Reasoning(seals=(OWN,))
    assert signatures(loose, Text(text="a"), call("c1"), call("c2"))[0] == [None, "AAAA", None]
    assert signatures(loose, Text(text="a"))[0] == ["AAAA"]


def test_unsigned_calls_get_the_placeholder() -> None:
    """Send the placeholder on the first unsigned call, but not to models that need none."""
    assert signatures(call("c1"), call("c2"))[0] == [PLACEHOLDER_SIGNATURE, None]
    assert signatures(call("c1"), to=upstream(thinking="budget"))[0] == [None]


@pytest.mark.parametrize("seal", [OTHER, Seal(issuer="gemini", kind="signature", data="no base64!")])
def test_foreign_state_is_dropped(seal: Seal) -> None:
    """Drop other issuers' state and state that is not base64, with a warning."""
    found, warnings = signatures(Reasoning(text="hm", seals=(seal,)), call("c1"))
    assert (found, warnings) == ([PLACEHOLDER_SIGNATURE], ("dropped:reasoning",))
    assert signatures(call("c1", seals=(seal,))) == ([PLACEHOLDER_SIGNATURE], ("dropped:reasoning",))


def test_state_of_another_model_is_dropped() -> None:
    """Drop state of another model: signatures are bound to theirs."""
    found, warnings = signatures(call("c1", seals=(OWN,)), to=upstream(model="gemini-other"))
    assert (found, warnings) == ([PLACEHOLDER_SIGNATURE], ("dropped:reasoning",))


def test_replayed_state_is_noticed() -> None:
    """Report that a body with signatures can be sent again without them, but not one with placeholders only."""
    asked = request(user("x"), assistant(call(seals=(OWN,))), results(result("c1", "ok")))
    assert OUTBOUND.replays_reasoning(OUTBOUND.encode(asked, upstream()).body)
    plain = request(user("x"), assistant(call()), results(result("c1", "ok")))
    assert not OUTBOUND.replays_reasoning(OUTBOUND.encode(plain, upstream()).body)


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────

F, G = Tool(name="f", description="Does f."), Tool(name="g")


def test_tools_are_declared_with_json_schema() -> None:
    """Declare functions in one entry with JSON Schema, and send no tool choice."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    body, upstream_request = encoded(
        request(tools=(Tool(name="f", description="d", parameters=schema, strict=True), G))
    )
    (entry,) = body["tools"]
    assert entry["functionDeclarations"] == [
        {
            "name": "f",
            "description": "d",
            "parametersJsonSchema": {"type": "object", "properties": schema["properties"]},
        },
        {"name": "g"},
    ]
    assert "toolConfig" not in body
    assert upstream_request.warnings == ()


def test_an_unsupported_tool_is_named() -> None:
    """Refuse a schema that is not an object with a 400 that names the tool."""
    with pytest.raises(Unsupported, match="'bad'") as refused:
        encoded(request(tools=(Tool(name="bad", parameters={"type": "string"}),)))
    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    ("choice", "config", "warnings"),
    [
        (ToolChoice(given=True), {"mode": "AUTO"}, ()),
        (ToolChoice(mode="none", given=True), {"mode": "NONE"}, ()),
        (ToolChoice(mode="required", given=True), {"mode": "ANY"}, ()),
        (ToolChoice(mode="required", only=("f",), given=True), {"mode": "ANY", "allowedFunctionNames": ["f"]}, ()),
        (ToolChoice(only=("f", "g"), given=True), {"mode": "VALIDATED", "allowedFunctionNames": ["f", "g"]}, ()),
        (ToolChoice(given=True, parallel=False), {"mode": "AUTO"}, ("dropped:parallel_tool_calls",)),
    ],
)
def test_tool_choice(choice: ToolChoice, config: dict[str, Any], warnings: tuple[str, ...]) -> None:
    """Encode each choice as its mode; validate or force subsets."""
    body, upstream_request = encoded(request(tools=(F, G, Tool(name="h")), tool_choice=choice))
    assert body["toolConfig"] == {"functionCallingConfig": config}
    assert upstream_request.warnings == warnings


def test_a_choice_that_cannot_be_forced() -> None:
    """Offer the subset to a model that can't be forced, with a warning."""
    choice = ToolChoice(mode="required", only=("f",), given=True)
    body, upstream_request = encoded(request(tools=(F, G), tool_choice=choice), upstream(forced_tool_choice=False))
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": "VALIDATED", "allowedFunctionNames": ["f"]}
    assert upstream_request.warnings == ("downgraded:tool_choice",)
    with pytest.raises(Unsupported):
        encoded(request(tools=(F,), tool_choice=ToolChoice(mode="required", only=("x",))))


def test_what_an_older_model_refuses_together_is_refused_by_name() -> None:
    """Refuse functions together with Google's own tools with a 400 that permits failover; accept either alone."""
    search = Tool(name="web_search", kind="server")
    with pytest.raises(Unsupported, match="functions and server tools in one request") as refused:
        encoded(request(tools=(F, search)), upstream(mixed_tools=False))
    assert refused.value.param == "tools"
    assert encoded(request(tools=(search,)), upstream(mixed_tools=False))[0]["tools"] == [{"googleSearch": {}}]


def test_a_list_of_all_functions_is_no_list() -> None:
    """Encode a list of all functions as the plain mode, also with Google's own tools."""
    search = Tool(name="web_search", kind="server", extras={"gemini": {"googleSearch": {}}})
    choice = ToolChoice(mode="required", only=("f", "g"), given=True)
    body, upstream_request = encoded(request(protocol="gemini", tools=(F, G, search), tool_choice=choice))
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": "ANY"}
    assert upstream_request.warnings == ()


def test_a_choice_of_googles_own_tool_offers_nothing_else() -> None:
    """Offer only a chosen tool of Google's, which can't be forced, with a warning."""
    choice = ToolChoice(mode="required", only=("web_search",), given=True)
    body, upstream_request = encoded(request(tools=(F, Tool(name="web_search", kind="server")), tool_choice=choice))
    assert body["tools"] == [{"googleSearch": {}}]
    assert "toolConfig" not in body
    assert upstream_request.warnings == ("downgraded:tool_choice",)


def test_names_are_rewritten_the_same_everywhere() -> None:
    """Rewrite names that Google refuses in tools, history, results and choice, and record them."""
    tool = Tool(name="1 bad name", namespace="ns")
    history = (user("x"), assistant(call("c1", "1 bad name", namespace="ns")), results(result("c1", "ok")))
    choice = ToolChoice(mode="required", only=("1 bad name",))
    body, upstream_request = encoded(request(*history, tools=(tool, Tool(name="a.b:c-d")), tool_choice=choice))
    first, second = body["tools"][0]["functionDeclarations"]
    assert upstream_request.names == {first["name"]: "1 bad name"}
    assert second["name"] == "a.b:c-d"
    assert body["contents"][1]["parts"][0]["functionCall"]["name"] == first["name"]
    assert body["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == [first["name"]]


def test_custom_tools_go_as_functions() -> None:
    """Send free-text tools and their earlier calls as functions with one string and the grammar as description."""
    tool = Tool(
        name="patch", kind="custom", description="Edits.", grammar=Grammar(syntax="lark", definition="start: x")
    )
    step = call("c1", "patch", "*** x", kind="custom")
    body, upstream_request = encoded(request(user("x"), assistant(step), results(result("c1", "ok")), tools=(tool,)))
    (declared,) = body["tools"][0]["functionDeclarations"]
    assert "start: x" in declared["description"]
    assert set(declared["parametersJsonSchema"]["properties"]) == {"input"}
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"input": "*** x"}
    assert upstream_request.emulated == {"patch"}
    assert upstream_request.warnings == ("emulated:custom_tool",)


def test_functions_beside_googles_own_tools() -> None:
    """Map web search to Google's own tool; set the flag with functions, where it is known."""
    search = Tool(name="web_search", kind="server", settings={"allowed_domains": ["a.b"], "max_uses": None})
    body, upstream_request = encoded(request(tools=(F, search)))
    assert body["tools"][1] == {"googleSearch": {}}
    assert body["toolConfig"] == {"includeServerSideToolInvocations": True}
    assert upstream_request.warnings == ("dropped:allowed_domains",)
    assert "toolConfig" not in encoded(request(tools=(search,)))[0]
    assert "toolConfig" not in encoded(request(tools=(F, search)), upstream(issuer="gemini:vertex"))[0]
    with pytest.raises(Unsupported):
        encoded(request(tools=(Tool(name="code_interpreter", kind="server"),)))


def test_a_model_without_tools() -> None:
    """Refuse tools for a model without tools."""
    with pytest.raises(Unsupported):
        encoded(request(tools=(F,)), upstream(tools=False))


# ── media ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("part", "wire"),
    [
        (
            Media(kind="image", source=PNG, media_type="image/jpeg"),
            {"inlineData": {"mimeType": "image/png", "data": PNG.data}},
        ),
        (
            Media(kind="image", source=PNG, detail="low"),
            {
                "inlineData": {"mimeType": "image/png", "data": PNG.data},
                "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"},
            },
        ),
        (
            Media(kind="audio", source=InlineData(data="AAAA")),
            {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
        ),
        (
            Media(kind="document", source=InlineData(data="AAAA"), name="a.pdf"),
            {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
        ),
        (
            Media(kind="image", source=StoredFile(protocol="gemini", id="gs://a"), media_type="image/png"),
            {"fileData": {"fileUri": "gs://a", "mimeType": "image/png"}},
        ),
        (
            Media(kind="video", source=Link(url="https://www.youtube.com/watch?v=1")),
            {"fileData": {"fileUri": "https://www.youtube.com/watch?v=1"}},
        ),
        (Media(kind="document", source=PlainText(text="body"), title="T"), {"text": "T\n\nbody"}),
    ],
)
def test_media(part: Media, wire: dict[str, Any]) -> None:
    """Send media inline in standard base64 with its real type, or by a URL that Google fetches."""
    assert contents(user(part))[0]["parts"] == [wire]


@pytest.mark.parametrize(
    "part",
    [
        Media(kind="image", source=Link(url="https://example.org/a.png")),
        Media(kind="document", source=StoredFile(protocol="openai-chat", id="file_1")),
    ],
)
def test_unsupported_media_is_refused(part: Media) -> None:
    """Refuse URLs that Google doesn't fetch and files of other vendors with a 400."""
    with pytest.raises(Unsupported) as refused:
        encoded(request(user(part)))
    assert refused.value.param == "messages"
    with pytest.raises(Unsupported):
        encoded(request(user(Media(kind="image", source=PNG))), upstream(images=False))


@pytest.mark.parametrize("address", ["gs://a/b", "https://generativelanguage.googleapis.com/v1beta/files/abc"])
def test_files_that_google_keeps_are_not_read_for_others(address: str) -> None:
    """Refuse files stored at Google behind a shared credential, for callers of any protocol."""
    part = Media(kind="document", source=Link(url=address), media_type="application/pdf")
    with pytest.raises(Unsupported) as refused:
        encoded(request(user(part)))
    assert refused.value.param == "messages"
    body, _ = encoded(request(user(part)), upstream(stored=True))
    assert body["contents"][0]["parts"] == [{"fileData": {"fileUri": address, "mimeType": "application/pdf"}}]


def test_parts_of_other_vendors() -> None:
    """Drop server tools and opaque parts of other vendors with a warning; refuse a compaction."""
    foreign = Opaque(protocol="anthropic-messages", kind="container", data={})
    search = ServerToolCall(call_id="s", tool="web_search")
    body, upstream_request = encoded(request(user("x"), assistant("a", foreign, search), user("y")))
    assert body["contents"][1]["parts"] == [{"text": "a"}]
    assert upstream_request.warnings == ("dropped:container", "dropped:web_search")
    with pytest.raises(Unsupported):
        encoded(request(user("x"), assistant(Opaque(protocol="x", kind="compaction", data={})), user("y")))
    own = Opaque(protocol="gemini", kind="executableCode", data={"executableCode": {"code": "1"}})
    assert contents(user("x"), assistant(own), user("y"))[1]["parts"] == [{"executableCode": {"code": "1"}}]


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def config(to: Any = None, **fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    body, upstream_request = encoded(request(**fields), to)
    return body.get("generationConfig", {}), upstream_request.warnings


def test_sampling() -> None:
    """Encode all options but logit_bias; clamp values out of range with a warning."""
    asked = Sampling(
        temperature=2.5,
        top_p=0.5,
        top_k=3,
        seed=2**31,
        frequency_penalty=1,
        presence_penalty=-1,
        logit_bias={"1": 1},
        logprobs=30,
    )
    found, warnings = config(sampling=asked)
    assert found == {
        "temperature": 2.0,
        "topP": 0.5,
        "presencePenalty": -1,
        "frequencyPenalty": 1,
        "topK": 3,
        "seed": 0,
        "responseLogprobs": True,
        "logprobs": 20,
    }
    expected = ("clamped:temperature", "dropped:logit_bias", "clamped:seed", "clamped:top_logprobs")
    assert warnings == expected
    assert config(upstream(sampling="default"), sampling=Sampling(temperature=1.0, top_k=1)) == (
        {},
        ("dropped:temperature", "dropped:top_k"),
    )


def test_limits() -> None:
    """Clamp output tokens to the model's limit with a warning; apply stop sequences after the fifth in the gateway."""
    found, warnings = config(upstream(max_output_tokens=50), max_output_tokens=100, stop=tuple("abcdef"), candidates=2)
    assert found == {"maxOutputTokens": 50, "stopSequences": list("abcde"), "candidateCount": 2}
    assert warnings == ("clamped:max_tokens", "emulated:stop")
    assert encoded(request(stop=tuple("abcdef")))[1].stop == ("f",)
    assert encoded(request(stop=("a", "")), upstream(stops=False))[1].stop == ("a",)
    with pytest.raises(Unsupported):
        config(max_output_tokens=0)


def test_output() -> None:
    """Send a schema as JSON Schema with its media type; use an instruction for a model without that."""
    schema = {"type": "object", "properties": {"a": {"const": "x"}}}
    wanted = OutputFormat(kind="json_schema", schema=schema)
    lowered = {"properties": {"a": {"enum": ["x"], "type": "string"}}, "type": "object"}
    assert config(output=wanted) == ({"responseMimeType": "application/json", "responseJsonSchema": lowered}, ())
    assert config(output=OutputFormat(kind="json"))[0] == {"responseMimeType": "application/json"}
    body, upstream_request = encoded(request(output=wanted), upstream(structured_output=False))
    assert '"const":"x"' in body["systemInstruction"]["parts"][0]["text"]
    assert upstream_request.warnings == ("emulated:response_format",)
    assert config(output=OutputFormat(verbosity="low"))[1] == ("dropped:verbosity",)


def test_modalities() -> None:
    """Request images and audio with Google's names; refuse other modalities."""
    assert config(output=OutputFormat(modalities=("text", "image")))[0] == {"responseModalities": ["TEXT", "IMAGE"]}
    assert config(output=OutputFormat(modalities=("text", "audio")))[0] == {"responseModalities": ["AUDIO"]}
    assert config(output=OutputFormat(modalities=("text",)))[0] == {}
    with pytest.raises(Unsupported):
        config(output=OutputFormat(modalities=("smell",)))


NEW, FLASH, PRO = (capabilities_of(name) for name in ("gemini-3-flash", "gemini-2.5-flash", "gemini-2.5-pro"))


@pytest.mark.parametrize(
    ("options", "able", "thinking", "warnings"),
    [
        (ReasoningOptions(effort="low"), NEW, {"thinkingLevel": "LOW"}, ()),
        (ReasoningOptions(effort="none"), NEW, {"thinkingLevel": "MINIMAL"}, ("clamped:reasoning_effort",)),
        (ReasoningOptions(effort="max"), NEW, {"thinkingLevel": "HIGH"}, ("clamped:reasoning_effort",)),
        (ReasoningOptions(budget_tokens=2048), NEW, {"thinkingLevel": "LOW"}, ()),
        (ReasoningOptions(budget_tokens=10_000), NEW, {"thinkingLevel": "MEDIUM"}, ()),
        (ReasoningOptions(budget_tokens=40_000), NEW, {"thinkingLevel": "HIGH"}, ("clamped:reasoning_effort",)),
        (ReasoningOptions(budget_tokens=-1, visible="summary"), NEW, {"includeThoughts": True}, ()),
        (ReasoningOptions(budget_tokens=-1), FLASH, {"thinkingBudget": -1}, ()),
        (ReasoningOptions(budget_tokens=2048), FLASH, {"thinkingBudget": 2048}, ()),
        (ReasoningOptions(budget_tokens=40_000), FLASH, {"thinkingBudget": 24_576}, ("clamped:reasoning_effort",)),
        (ReasoningOptions(effort="medium"), FLASH, {"thinkingBudget": 8192}, ()),
        (ReasoningOptions(effort="max"), FLASH, {"thinkingBudget": 24_576}, ()),
        (ReasoningOptions(effort="none"), FLASH, {"thinkingBudget": 0}, ()),
        (ReasoningOptions(effort="none"), PRO, {"thinkingBudget": 128}, ("clamped:reasoning_effort",)),
        (ReasoningOptions(budget_tokens=64), PRO, {"thinkingBudget": 128}, ("clamped:reasoning_effort",)),
        (ReasoningOptions(visible="hidden"), NEW, None, ()),
        (ReasoningOptions(), NEW, None, ()),
    ],
)
def test_thinking(
    options: ReasoningOptions, able: Any, thinking: dict[str, Any] | None, warnings: tuple[str, ...]
) -> None:
    """Send a level or a budget by the model's kind, within its limits, never both."""
    to = type(upstream())(provider="g", model="m", client_model="a", issuer="gemini", capabilities=able)
    found, said = config(to, reasoning=options)
    assert found.get("thinkingConfig") == thinking
    assert said == warnings


def test_thoughts_are_shown_where_the_client_shows_them() -> None:
    """Include thoughts for clients that show reasoning on request; for others only if requested."""
    for protocol, shown in (("openai-chat", True), ("made-up", None)):
        found, _ = config(protocol=protocol, reasoning=ReasoningOptions(effort="low"))
        assert found["thinkingConfig"].get("includeThoughts") is shown
    assert config(upstream(efforts=()), reasoning=ReasoningOptions(effort="low")) == ({}, ("dropped:reasoning_effort",))


def test_cache_marks_are_no_loss() -> None:
    """Drop cache marks, end user and metadata without a warning, and a participant's name with one."""
    marked = Message(role="user", parts=(Text(text="x", cache_mark=CacheMark()),), name="Ann")
    body, upstream_request = encoded(
        request(marked, cache=CacheOptions(key="k", automatic=True), end_user="u", metadata={"a": "b"})
    )
    assert body == {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
    assert upstream_request.warnings == ("dropped:name",)


@pytest.mark.parametrize(
    ("tier", "word", "warnings"),
    [
        (ServiceTier.FLEX, "flex", ()),
        (ServiceTier.FAST, "priority", ()),
        (ServiceTier.AUTO, None, ()),
        (ServiceTier.SCALE, None, ("dropped:service_tier",)),
    ],
)
def test_service_tiers(tier: ServiceTier, word: str | None, warnings: tuple[str, ...]) -> None:
    """Map the tiers that Google has."""
    body, upstream_request = encoded(request(service_tier=tier))
    assert (body.get("serviceTier"), upstream_request.warnings) == (word, warnings)


def test_extras() -> None:
    """Merge Google's own fields into the body, at any depth; report those of other protocols as a loss."""
    own = {
        "gemini": {"safetySettings": [1], "generationConfig": {"speechConfig": {}}},
        "openai-chat": {"prediction": {}},
    }
    body, upstream_request = encoded(request(extras=own, max_output_tokens=5))
    assert body["safetySettings"] == [1]
    assert body["generationConfig"] == {"maxOutputTokens": 5, "speechConfig": {}}
    assert upstream_request.warnings == ("dropped:prediction",)


def test_kept_responses_are_refused() -> None:
    """Refuse to continue a stored response: the upstream stores none."""
    with pytest.raises(Unsupported) as refused:
        encoded(request(continues="resp_1"))
    assert refused.value.param == "previous_response_id"


def test_the_same_request_is_the_same_bytes() -> None:
    """Encode equal bytes each time: prompt caches depend on it."""
    asked = request(user("x"), assistant(call("c1", "bad name")), results(result("c1", "ok")), tools=(F, G))
    assert OUTBOUND.encode(asked, upstream()).body == OUTBOUND.encode(asked, upstream()).body
