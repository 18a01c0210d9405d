"""Schemas of tools and answers: what each vendor demands of them, whatever the caller wrote."""

from typing import Any

import anthropic
import openai
import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, PairHarness, ProtocolPair, Reply, pair_harness
from support.pairs.asks import QUESTION, chat_tool, messages_tool, responses_tool
from support.pairs.gemini_asks import declared, functions
from support.pairs.parameters import pairs

FINE = Reply(texts=("Fine.",))
TEXT = {"type": "string"}
TRANSLATED = [(one, other) for one in (CHAT, RESPONSES, MESSAGES, GEMINI) for other in (CHAT, RESPONSES, MESSAGES)]
WITH_ROOTS = [pair for one, other in TRANSLATED if one != other for pair in pairs(client=one, upstream=other)]


def tool(protocol: str, name: str, schema: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    if protocol == GEMINI:
        return functions(declared(name, schema))
    make = {CHAT: chat_tool, RESPONSES: responses_tool, MESSAGES: messages_tool}[protocol]
    return [{**make(name, schema, **more)}]


def parameters(harness: PairHarness, pair: ProtocolPair) -> Any:
    [sent] = harness.asked["tools"]
    if pair.upstream == GEMINI:
        return sent["functionDeclarations"][0].get("parametersJsonSchema")
    return sent["input_schema"] if pair.upstream == MESSAGES else sent.get("function", sent)["parameters"]


@pytest.mark.fidelity(104)
@pytest.mark.parametrize("pair", WITH_ROOTS)
def test_a_tool_without_arguments_is_an_object_without_properties(harness: PairHarness, pair: ProtocolPair) -> None:
    """As MCP servers declare it; the strict upstream refuses an object without `properties`."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tool(pair.client, "now", {"type": "object"}))
    assert parameters(harness, pair) == {"type": "object", "properties": {}}
    assert answer.text == "Fine."


@pytest.mark.fidelity(104)
@pytest.mark.parametrize("pair", WITH_ROOTS)
def test_a_choice_at_the_root_is_one_object(harness: PairHarness, pair: ProtocolPair) -> None:
    """The strict upstream refuses `oneOf` at the root; the caller learns that it became looser."""
    forms = [{"type": "object", "properties": {name: TEXT}, "required": [name]} for name in ("url", "path")]
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tool(pair.client, "read", {"anyOf": forms}))
    assert parameters(harness, pair)["properties"] == {"url": TEXT, "path": TEXT}
    assert "downgraded:schema.anyOf" in answer.warnings


@pytest.mark.fidelity(104)
@pytest.mark.parametrize("pair", WITH_ROOTS)
def test_a_tool_that_is_declared_twice_goes_once(harness: PairHarness, pair: ProtocolPair) -> None:
    """The strict upstream refuses two tools of one name."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    twice = tool(pair.client, "now", {"type": "object"}) * 2
    harness.ask(pair, **QUESTION[pair.client], tools=twice)
    assert len(harness.asked["tools"]) == 1


@pytest.mark.parametrize("pair", [*pairs(client=CHAT, upstream=MESSAGES), *pairs(client=MESSAGES, upstream=RESPONSES)])
def test_different_tools_of_one_name_are_refused_by_name(harness: PairHarness, pair: ProtocolPair) -> None:
    """The 400 says which name, and nothing is sent."""
    differing = tool(pair.client, "now", {"type": "object"}) + tool(pair.client, "now", {"properties": {"a": TEXT}})
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="'now'"):
        harness.ask(pair, **QUESTION[pair.client], tools=differing)
    assert harness.upstream.requests == []


NULLABLE = {"type": ["integer", "null"], "minimum": 1}
OPEN = {"type": "object", "properties": {"city": {**TEXT, "minLength": 1}, "days": NULLABLE}, "required": ["city"]}
STRICT = [pair for other in (CHAT, RESPONSES) for pair in pairs(client=MESSAGES, upstream=other)]
STRICT += [pair for one in (CHAT, RESPONSES) for pair in pairs(client=one, upstream=MESSAGES)]


@pytest.mark.fidelity(105)
@pytest.mark.parametrize("pair", STRICT)
def test_a_strict_tool_has_the_form_that_strictness_demands(harness: PairHarness, pair: ProtocolPair) -> None:
    """Objects are closed at every depth, all properties required for OpenAI; unenforced keywords give warnings."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    schema = {"type": "object", "properties": {"where": OPEN}, "required": ["where"]}
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tool(pair.client, "weather", schema, strict=True))
    [sent] = harness.asked["tools"]
    assert sent.get("function", sent)["strict"] is True
    where = parameters(harness, pair)["properties"]["where"]
    assert where["additionalProperties"] is False
    assert where["required"] == (["city"] if pair.upstream == MESSAGES else ["city", "days"])
    lost = {"dropped:schema.minLength", *(("dropped:schema.minimum",) if pair.upstream == MESSAGES else ())}
    assert lost <= set(answer.warnings)


@pytest.mark.fidelity(105)
@pytest.mark.parametrize("pair", STRICT)
def test_a_tool_that_cannot_be_strict_is_not(harness: PairHarness, pair: ProtocolPair) -> None:
    """A map of free keys would have to be empty under strictness: it goes as it is, without, and the caller learns."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    free = {"type": "object", "properties": {"env": {"type": "object", "additionalProperties": TEXT}}}
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tool(pair.client, "run", free, strict=True))
    [sent] = harness.asked["tools"]
    assert not sent.get("function", sent).get("strict")
    assert parameters(harness, pair) == free
    assert "dropped:strict" in answer.warnings


@pytest.mark.fidelity(106)
@pytest.mark.parametrize(
    "pair", [pair for one in (CHAT, RESPONSES, MESSAGES) for pair in pairs(client=one, upstream=GEMINI)]
)
def test_references_to_any_place_reach_gemini(harness: PairHarness, pair: ProtocolPair) -> None:
    """A property that refers to another, with escapes, is a definition for both; nothing is lost."""
    place = {"type": "object", "properties": {"name": TEXT}}
    schema = {"type": "object", "properties": {"a/b": place, "to": {"$ref": "#/properties/a~1b"}}}
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[pair.client], tools=tool(pair.client, "route", schema))
    assert parameters(harness, pair) == {
        "type": "object",
        "properties": {"a/b": {"$ref": "#/$defs/a_b"}, "to": {"$ref": "#/$defs/a_b"}},
        "$defs": {"a_b": place},
    }
    assert not answer.warnings


FORMATS: dict[str, Any] = {
    CHAT: {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": OPEN}}},
    RESPONSES: {"text": {"format": {"type": "json_schema", "name": "w", "schema": OPEN}}},
    MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": OPEN}}},
}


@pytest.mark.parametrize("pair", [pair for one in FORMATS for pair in pairs(client=one, upstream=GEMINI)])
def test_what_a_model_cannot_take_together_is_asked_for_in_words(harness: PairHarness, pair: ProtocolPair) -> None:
    """Gemini up to 2.5 refuses functions beside a format: the functions stay, the format is an instruction."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    asked = {**QUESTION[pair.client], "tools": tool(pair.client, "now", {"type": "object"}), **FORMATS[pair.client]}
    answer = harness.ask(pair, model="gemini-2.5-flash", **asked)
    assert harness.asked["tools"][0]["functionDeclarations"][0]["name"] == "now"
    assert "responseMimeType" not in harness.asked.get("generationConfig", {})
    assert "JSON Schema" in str(harness.asked["systemInstruction"])
    assert "emulated:response_format" in answer.warnings
    harness.ask(pair, **asked)
    assert harness.asked["generationConfig"]["responseMimeType"] == "application/json"


@pytest.mark.parametrize(
    "pair", [pair for other in (CHAT, RESPONSES) for pair in pairs(client=MESSAGES, upstream=other)]
)
@pytest.mark.parametrize("schema", [{"type": "array", "items": TEXT}, {"anyOf": [OPEN, {"type": "null"}]}])
def test_an_answer_that_is_no_object_is_asked_for_in_words(
    harness: PairHarness, pair: ProtocolPair, schema: dict[str, Any]
) -> None:
    """OpenAI takes objects alone at the root of a format, Anthropic takes all."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    form: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    answer = harness.ask(pair, **QUESTION[pair.client], **form)
    assert "json_schema" not in str(harness.asked.get("response_format") or harness.asked.get("text"))
    assert "emulated:response_format" in answer.warnings


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "pair", [pair for other in (CHAT, RESPONSES) for pair in pairs(client=MESSAGES, upstream=other, stream=False)]
)
def test_an_answers_schema_that_openai_cannot_enforce_is_a_warning(
    harness: PairHarness, pair: ProtocolPair, *, strict: bool
) -> None:
    """Anthropic enforces every schema; OpenAI only those without free keys, so the others lose that with a warning."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    free = {"env": {"type": "object", "additionalProperties": TEXT}}
    schema = {**CLOSED, "required": ["env"], "properties": {"env": TEXT} if strict else free}
    form: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    answer = harness.ask(pair, **QUESTION[pair.client], **form)
    sent = harness.asked.get("response_format", {}).get("json_schema") or harness.asked["text"]["format"]
    assert sent["strict"] is strict
    assert sent["schema"] == schema
    assert answer.warnings == ([] if strict else ["dropped:strict"])


CLOSED = {"type": "object", "additionalProperties": False}
NODE = {**CLOSED, "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}}}
ANSWERS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "one-of": (
        {**CLOSED, "properties": {"a": {"oneOf": [TEXT, {"type": "integer"}]}}},
        {"anyOf": [TEXT, {"type": "integer"}]},
    ),
    "foreign-format": (
        {**CLOSED, "properties": {"a": {**TEXT, "format": "phone"}}},
        {**TEXT, "description": "{format: phone}"},
    ),
    "free-keys": ({**CLOSED, "properties": {"a": {"type": "object", "additionalProperties": TEXT}}}, None),
    "circle": ({"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}, None),
}


@pytest.mark.fidelity(105)
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("pair", [pair for one in (CHAT, RESPONSES) for pair in pairs(client=one, upstream=MESSAGES)])
def test_the_schema_of_an_answer_has_anthropics_form(harness: PairHarness, pair: ProtocolPair, name: str) -> None:
    """As its own SDK would send it; what would mean something else is asked for in words."""
    schema, property_made = ANSWERS[name]
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    form = {"type": "json_schema", "name": "w", "schema": schema}
    asked: dict[str, Any] = {"text": {"format": form}}
    if pair.client == CHAT:
        asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": schema}}}
    answer = harness.ask(pair, **QUESTION[pair.client], **asked)
    if property_made is None:
        assert "output_config" not in harness.asked
        assert "JSON Schema" in harness.asked["system"][-1]["text"]
        assert answer.warnings == ["emulated:response_format"]
    else:
        assert harness.asked["output_config"]["format"]["schema"]["properties"]["a"] == property_made


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI, stream=False))
def test_what_is_asked_for_in_words_is_a_400_for_strict_requests(pair: ProtocolPair) -> None:
    """A request that must go as it is becomes a 400 that names the format."""
    with pair_harness(default_model="gemini-2.5-flash", bypass_model=True) as older:
        more = {"tools": tool(CHAT, "now", {"type": "object"}), **FORMATS[CHAT]}
        body = {**QUESTION[CHAT], "model": older.model(pair), **more}
        answer = older.post(pair, body, **{"x-llmproxy-strict": "1"})
    assert answer.status_code == 400
    assert "emulated:response_format" in answer.text
