"""Decode requests of Google's clients."""

import json
import tracemalloc
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    InlineData,
    Link,
    Media,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningOptions,
    Seal,
    ServiceTier,
    StoredFile,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.seals import wrap
from support.wires.gemini import HELLO, INBOUND, decoded, opened, sdk, wire

CALL = {"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}}
RESULT = {"functionResponse": {"id": "c1", "name": "f", "response": {"output": "ok"}}}


def user(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "parts": list(parts)}


def model(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "model", "parts": list(parts)}


def turns(*contents: Mapping[str, Any]) -> tuple[Message, ...]:
    return decoded({"contents": list(contents)}).messages


def part(wire: Mapping[str, Any]) -> Part:
    (message,) = turns(user(wire))
    (found,) = message.parts
    return found


def refused(body: Mapping[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as raised:
        INBOUND.decode(opened(body))
    return raised.value


def test_the_path_names_model_and_method() -> None:
    """Read model and method from the path; a model may have slashes and Google's prefix."""
    inbound_request = opened(model="models/openai/gpt-6", stream=True)
    assert (inbound_request.model, inbound_request.stream) == ("openai/gpt-6", True)
    assert not opened().stream
    assert opened({"model": "models/x"}, model="").model == "x"


def test_both_spellings_and_both_alphabets() -> None:
    """Decode both spellings, both base64 alphabets, and numbers and enums as strings into the same request."""
    loose = {
        "contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": "-_-_AA"}}]}],
        "system_instruction": {"parts": [{"text": "Be brief."}]},
        "generation_config": {
            "max_output_tokens": "100",
            "top_k": "40",
            "temperature": "0.5",
            "thinking_config": {"thinking_level": "low", "include_thoughts": True},
            "response_mime_type": "application/json",
            "response_json_schema": {"type": "object"},
        },
        "tool_config": {"function_calling_config": {"mode": "any", "allowed_function_names": ["f"]}},
        "tools": [{"function_declarations": [{"name": "f", "parameters_json_schema": {"type": "object"}}]}],
        "service_tier": "FLEX",
    }
    strict = {
        "contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "+/+/AA=="}}]}],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {
            "maxOutputTokens": 100,
            "topK": 40,
            "temperature": 0.5,
            "thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True},
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
        },
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"type": "object"}}]}],
        "serviceTier": "flex",
    }
    asked = decoded(strict)
    assert decoded(loose) == asked
    assert (asked.max_output_tokens, asked.sampling.top_k, asked.sampling.temperature) == (100, 40, 0.5)
    assert asked.reasoning == ReasoningOptions(effort="low", visible="summary")
    assert asked.tool_choice == ToolChoice(mode="required", only=("f",), given=True)
    assert asked.service_tier is ServiceTier.FLEX
    assert asked.messages[0] == Message(role="system", authority="system", parts=(Text(text="Be brief."),))


def test_what_the_sdk_sends_is_read() -> None:
    """Decode everything that Google's own client can send."""
    sent: list[httpx2.Request] = []
    config = types.GenerateContentConfig(
        system_instruction="Be brief.",
        temperature=0.25,
        stop_sequences=["END"],
        candidate_count=2,
        seed=7,
        presence_penalty=0.5,
        response_logprobs=True,
        logprobs=3,
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT, threshold=types.HarmBlockThreshold.BLOCK_NONE
            )
        ],
        thinking_config=types.ThinkingConfig(thinking_budget=1024),
        tools=[
            types.Tool(
                function_declarations=[
                    types.FunctionDeclaration(
                        name="f",
                        description="Does f.",
                        parameters=types.Schema(
                            type=types.Type.OBJECT,
                            properties={"a": types.Schema(type=types.Type.STRING, nullable=True)},
                            required=["a"],
                        ),
                    )
                ]
            ),
            types.Tool(google_search=types.GoogleSearch()),
        ],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    contents = [
        types.Content(role="user", parts=[types.Part.from_bytes(data=b"\xfb\xff\x00", mime_type="image/png")]),
        types.Content(
            role="model",
            parts=[
                types.Part(
                    function_call=types.FunctionCall(id="c1", name="f", args={"a": "x"}), thought_signature=b"\xfb\xff"
                )
            ],
        ),
        types.Content(role="user", parts=[types.Part.from_function_response(name="f", response={"output": "ok"})]),
    ]
    with sdk(wire("answer.response.json"), seen=sent.append) as client:
        client.models.generate_content(model="openai/gpt-6", contents=contents, config=config)
    (seen,) = sent
    assert seen.url.path.endswith("/models/openai/gpt-6:generateContent")
    asked = INBOUND.decode(INBOUND.open(seen.content, headers={}, path={"model": "x", "method": "generateContent"}))
    system, shown, step, result = asked.messages
    assert system.parts == (Text(text="Be brief."),)
    assert shown.parts == (Media(kind="image", source=InlineData(data="+/8A"), media_type="image/png"),)
    seal = Seal(issuer="gemini", kind="signature", data="+/8=")
    assert step.parts == (ToolCall(call_id="c1", name="f", arguments='{"a":"x"}', seals=(seal,)),)
    assert result.parts == (ToolResult(call_id="c1", name="f", content=(Text(text="ok"),)),)
    declared, search = sorted(asked.tools, key=lambda tool: tool.kind)
    assert declared.parameters == {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"]}},
        "required": ["a"],
    }
    assert (search.name, search.kind) == ("web_search", "server")
    assert (asked.candidates, asked.stop, asked.sampling.seed, asked.sampling.logprobs) == (2, ("END",), 7, 3)
    assert asked.reasoning.budget_tokens == 1024
    assert asked.extras["gemini"]["safetySettings"][0]["threshold"] == "BLOCK_NONE"


def test_results_without_an_id_find_their_calls() -> None:
    """Match results without an id to the first unanswered call of their name; give calls stable ids."""
    bare = {"functionCall": {"name": "f", "args": {}}}
    answer = {"functionResponse": {"name": "f", "response": {"output": "1"}}}
    first = turns(user({"text": "x"}), model(bare, bare), user(answer, answer))
    _, step, results = first
    ids = [found.call_id for found in step.parts if isinstance(found, ToolCall)]
    assert len(set(ids)) == 2
    assert [found.call_id for found in results.parts if isinstance(found, ToolResult)] == ids
    later = turns(user({"text": "x"}), model(bare, bare), user(answer, answer), model({"text": "ok"}))
    assert later[:3] == first


def test_a_result_that_answers_nothing_is_refused() -> None:
    """Refuse a result without a call."""
    error = refused({"contents": [user(RESULT)]})
    assert error.param == "contents[0].parts[0].functionResponse"


@pytest.mark.parametrize(
    ("response", "said", "failed"),
    [
        ({"output": "ok"}, "ok", False),
        ({"output": {"a": 1}}, '{"a":1}', False),
        ({"error": "no"}, "no", True),
        ({"error": "no", "code": 5}, '{"error":"no","code":5}', True),
        ({"result": "ok"}, '{"result":"ok"}', False),
        ({}, "{}", False),
    ],
)
def test_results_as_text(response: dict[str, Any], said: str, failed: bool) -> None:
    """Unwrap a lone `output` or `error`; decode anything else as JSON text."""
    result = {"functionResponse": {"id": "c1", "name": "f", "response": response}}
    found = turns(user({"text": "x"}), model(CALL), user(result))[-1].parts[0]
    assert found == ToolResult(call_id="c1", name="f", content=(Text(text=said),), is_error=failed)


def test_results_may_hold_media() -> None:
    """Keep images within a result, and the result's unknown fields."""
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    result = {"functionResponse": {"id": "c1", "name": "f", "parts": [picture], "scheduling": "SILENT"}}
    (found,) = turns(user({"text": "x"}), model(CALL), user(result))[-1].parts
    assert isinstance(found, ToolResult)
    assert found.extras == {"gemini": {"scheduling": "SILENT"}}
    assert isinstance(found.content[-1], Media)


def test_results_and_text_of_one_content_are_two_messages() -> None:
    """Split a content into a tool message with the results and a user message."""
    found = turns(user({"text": "x"}), model(CALL), user({"text": "and"}, RESULT))
    assert [message.role for message in found] == ["user", "assistant", "tool", "user"]


def test_the_models_pieces_are_one_text_again() -> None:
    """Merge a streamed response that returns chunk by chunk into one message; signatures separate texts."""
    pieces = [model({"text": "hm", "thought": True}), model({"text": "m", "thought": True}), model({"text": "Hel"})]
    pieces += [model({"text": " "}), model({"text": "lo"}), model({"text": "", "thoughtSignature": "AAAA"})]
    (_, answer) = turns(user({"text": "x"}), *pieces)
    thought, said, signed = answer.parts
    assert thought == Reasoning(text="hmm", style="summary")
    assert said == Text(text="Hel lo")
    assert isinstance(signed, Text)
    assert signed.seals == (Seal(issuer="gemini", kind="signature", data="AAAA"),)


def test_foreign_state_goes_back_to_its_thought() -> None:
    """Move a call's wrapped signature to the thought before it; turn redacted state into a thought."""
    sealed = Seal(issuer="anthropic", kind="signature", data="EqQB==", model="claude")
    redacted = Seal(issuer="anthropic", kind="redacted", data="Emw=")
    (_, answer, _) = turns(
        user({"text": "x"}),
        model({"text": "hm", "thought": True}, {**CALL, "thoughtSignature": wrap(sealed)}),
        model({"text": "", "thoughtSignature": wrap(redacted).replace("+", "-").replace("/", "_").rstrip("=")}),
        user(RESULT),
    )
    thought, call, hidden = answer.parts
    assert thought == Reasoning(text="hm", style="summary", seals=(sealed,))
    assert isinstance(call, ToolCall)
    assert call.seals == ()
    assert hidden == Reasoning(redacted=True, seals=(redacted,))


def test_googles_wrapped_state_stays_on_its_call() -> None:
    """Keep state of another route of Google's on its call."""
    seal = Seal(issuer="gemini:vertex", kind="signature", data="AAAA")
    answer = turns(user({"text": "x"}), model({**CALL, "thoughtSignature": wrap(seal)}), user(RESULT))[1]
    assert answer.parts[0].seals == (seal,)


@pytest.mark.parametrize("stand_in", ["skip_thought_signature_validator", "context_engineering_is_the_way_to_go"])
def test_a_placeholder_is_no_state(stand_in: str) -> None:
    """Drop the documented placeholder signatures."""
    answer = turns(user({"text": "x"}), model({**CALL, "thoughtSignature": stand_in}), user(RESULT))[1]
    assert answer.parts[0].seals == ()


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("https://example.org/a.png", Link(url="https://example.org/a.png")),
        ("gs://bucket/a.png", StoredFile(protocol="gemini", id="gs://bucket/a.png")),
        (
            "https://generativelanguage.googleapis.com/v1beta/files/x",
            StoredFile(protocol="gemini", id="https://generativelanguage.googleapis.com/v1beta/files/x"),
        ),
    ],
)
def test_files_by_address(uri: str, source: object) -> None:
    """Decode Google's own files as stored files, other URLs as links."""
    found = part(
        {"fileData": {"fileUri": uri, "mimeType": "image/png"}, "mediaResolution": {"level": "media_resolution_low"}}
    )
    assert isinstance(found, Media)
    assert (found.source, found.kind, found.detail) == (source, "image", "low")


def test_unknown_parts_keep_their_position() -> None:
    """Decode executed code, server tools and unknown parts as opaque parts with all fields."""
    code = {"executable_code": {"language": "PYTHON", "code": "1"}, "thought_signature": "AAAA"}
    found = turns(user({"text": "x"}), model({"text": "a"}, code, {"newPart": {"x": 1}}))[1].parts
    assert isinstance(found[1], Opaque)
    assert (found[1].kind, found[1].data["thoughtSignature"]) == ("executableCode", "AAAA")
    assert found[2] == Opaque(protocol="gemini", kind="newPart", data={"newPart": {"x": 1}})


@pytest.mark.parametrize(
    ("config", "choice"),
    [
        ({"mode": "AUTO"}, ToolChoice(mode="auto", given=True)),
        ({"mode": "NONE"}, ToolChoice(mode="none", given=True)),
        ({"mode": "ANY"}, ToolChoice(mode="required", given=True)),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["f", "g"]}, ToolChoice(only=("f", "g"), given=True)),
        ({"mode": "MODE_UNSPECIFIED"}, ToolChoice()),
        ({}, ToolChoice()),
    ],
)
def test_tool_choice(config: dict[str, Any], choice: ToolChoice) -> None:
    """Decode each mode."""
    assert decoded({"toolConfig": {"functionCallingConfig": config}}).tool_choice == choice


def test_unknown_fields_are_kept() -> None:
    """Keep unknown fields at the top level and within the options as extras."""
    asked = decoded({"safety_settings": [], "cachedContent": "c/1", "generationConfig": {"speechConfig": {"a": 1}}})
    assert asked.extras == {
        "gemini": {"safetySettings": [], "cachedContent": "c/1", "generationConfig": {"speechConfig": {"a": 1}}}
    }


def test_an_enum_response_is_a_schema() -> None:
    """Decode `text/x.enum` as a string schema with these values, and remember it."""
    options = {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["a", "b"]}}
    asked = decoded({"generationConfig": options})
    assert asked.output.schema == {"type": "string", "enum": ["a", "b"]}
    assert asked.extras["gemini"]["generationConfig"] == {"responseMimeType": "text/x.enum"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"contents": ...}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": "x"}, "contents"),
        ({"contents": None}, "contents"),
        ({"tools": {}}, "tools"),
        ({"generation_config": []}, "generation_config"),
        ({"contents": [{"role": "assistant", "parts": []}]}, "contents[0].role"),
        ({"contents": [user({})]}, "contents[0].parts[0]"),
        ({"contents": [user({"text": 5})]}, "contents[0].parts[0].text"),
        ({"contents": [user({"text": "a", "inlineData": {}})]}, "contents[0].parts[0]"),
        ({"contents": [user({"inline_data": {"data": "AAAA"}})]}, "contents[0].parts[0].inline_data.mimeType"),
        (
            {"contents": [user({"inlineData": {"mimeType": "a/b", "data": "!"}})]},
            "contents[0].parts[0].inlineData.data",
        ),
        ({"contents": [model(RESULT)]}, "contents[0].parts[0]"),
        ({"contents": [model({"functionCall": {"args": {}}})]}, "contents[0].parts[0].functionCall.name"),
        ({"generationConfig": {"temperature": 3}}, "generationConfig.temperature"),
        ({"generationConfig": {"max_output_tokens": "x"}}, "generationConfig.max_output_tokens"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 1}}},
            "generationConfig.thinkingConfig",
        ),
        ({"toolConfig": {"functionCallingConfig": {"mode": "MAYBE"}}}, "toolConfig.functionCallingConfig.mode"),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
        ({"serviceTier": "fastest"}, "serviceTier"),
    ],
)
def test_wrong_requests_are_refused_by_name(body: dict[str, Any], param: str) -> None:
    """Refuse each mistake with a 400 that names the field in the caller's spelling."""
    assert refused(body).param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"generationConfig": {"topK": 1, "top_k": 9}}, "generationConfig.top_k"),
        ({"generation_config": {"maxOutputTokens": 1, "max_output_tokens": 9}}, "generation_config.max_output_tokens"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0, "thinking_budget": 9}}},
            "generationConfig.thinkingConfig.thinking_budget",
        ),
        (
            {"generationConfig": {"speechConfig": [{"voiceConfig": {}, "voice_config": {}}]}},
            "generationConfig.speechConfig[0].voice_config",
        ),
        (
            {"toolConfig": {"functionCallingConfig": {}, "function_calling_config": {"mode": "ANY"}}},
            "toolConfig.function_calling_config",
        ),
    ],
)
def test_an_option_in_both_spellings_is_refused(body: dict[str, Any], param: str) -> None:
    """Refuse an option in both spellings, also for passthrough: upstreams differ in which one they use."""
    with pytest.raises(BadRequest, match="one field") as raised:
        opened(body)
    assert raised.value.param == param


@pytest.mark.parametrize("name", ["responseSchema", "response_json_schema"])
def test_properties_of_a_schema_have_any_names(name: str) -> None:
    """Accept any property names in a response schema."""
    schema = {"type": "object", "properties": {"userId": {"type": "string"}, "user_id": {"type": "string"}}}
    opened({"generationConfig": {name: schema, "stop_sequences": ["a_b"]}})


def test_the_request_whose_tokens_are_counted_may_stand_in_a_field() -> None:
    """Count the tokens of contents, or of a complete request in its own field."""
    path = {"model": "m", "method": "countTokens"}
    inner = {"generateContentRequest": {"model": "models/m", **HELLO, "systemInstruction": {"parts": [{"text": "s"}]}}}
    for body, count in ((HELLO, 1), (inner, 2)):
        inbound_request = INBOUND.open(json.dumps(body).encode(), headers={}, path=path)
        assert len(INBOUND.decode(inbound_request).messages) == count
    with pytest.raises(BadRequest):
        INBOUND.open(b'{"generateContentRequest": 5}', headers={}, path=path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "user", "model", "f", "AAAA", "ANY"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "parts",
                    "text",
                    "functionCall",
                    "functionResponse",
                    "name",
                    "args",
                    "id",
                    "inlineData",
                    "mimeType",
                    "data",
                    "thoughtSignature",
                    "thought",
                    "mode",
                    "functionCallingConfig",
                    "functionDeclarations",
                    "parameters",
                    "type",
                    "properties",
                    "items",
                    "nullable",
                    "anyOf",
                    "thinkingConfig",
                    "stopSequences",
                    "response",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["contents", "system_instruction", "tools", "toolConfig", "generationConfig", "serviceTier", "x"]
        ),
        JSON,
        max_size=4,
    )
)
def test_no_json_raises_anything_else(body: dict[str, Any]) -> None:
    """Decode any JSON or refuse it with a path."""
    try:
        INBOUND.decode(
            INBOUND.open(json.dumps(body).encode(), headers={}, path={"model": "m", "method": "generateContent"})
        )
    except BadRequest as error:
        named = error.param
    else:
        named = "none"
    assert named is not None


def test_callers_keys_are_not_kept() -> None:
    """Cache no very long unknown keys."""
    tracemalloc.start()
    try:
        for number in range(20):
            decoded({"generationConfig": {f"{number}_{'k' * 500_000}": 1}})
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 5_000_000


@given(st.binary(max_size=30))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    """Refuse bytes that are not JSON."""
    try:
        found = INBOUND.open(body, headers={}, path={})
    except BadRequest:
        return
    assert isinstance(found, InboundRequest)
