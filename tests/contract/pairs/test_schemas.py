"""Schemas of tools and answers: what each vendor demands of them, whatever the caller wrote."""

from typing import Any

import anthropic
import openai
import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, Lane, Reply, Stage, staged
from support.pairs.asks import QUESTION, chat_tool, messages_tool, responses_tool
from support.pairs.gemini_asks import declared, functions
from support.pairs.lanes import pairs

FINE = Reply(texts=("Fine.",))
TEXT = {"type": "string"}
TRANSLATED = [(one, other) for one in (CHAT, RESPONSES, MESSAGES, GEMINI) for other in (CHAT, RESPONSES, MESSAGES)]
WITH_ROOTS = [lane for one, other in TRANSLATED if one != other for lane in pairs(client=one, upstream=other)]


def tool(protocol: str, name: str, schema: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    if protocol == GEMINI:
        return functions(declared(name, schema))
    make = {CHAT: chat_tool, RESPONSES: responses_tool, MESSAGES: messages_tool}[protocol]
    return [{**make(name, schema, **more)}]


def parameters(stage: Stage, lane: Lane) -> Any:
    [sent] = stage.asked["tools"]
    if lane.upstream == GEMINI:
        return sent["functionDeclarations"][0].get("parametersJsonSchema")
    return sent["input_schema"] if lane.upstream == MESSAGES else sent.get("function", sent)["parameters"]


@pytest.mark.fidelity(104)
@pytest.mark.parametrize("lane", WITH_ROOTS)
def test_a_tool_without_arguments_is_an_object_without_properties(stage: Stage, lane: Lane) -> None:
    """As MCP servers declare it; the strict upstream refuses an object without `properties`."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tool(lane.client, "now", {"type": "object"}))
    assert parameters(stage, lane) == {"type": "object", "properties": {}}
    assert answer.text == "Fine."


@pytest.mark.fidelity(104)
@pytest.mark.parametrize("lane", WITH_ROOTS)
def test_a_choice_at_the_root_is_one_object(stage: Stage, lane: Lane) -> None:
    """The strict upstream refuses `oneOf` at the root; the caller learns that it became looser."""
    forms = [{"type": "object", "properties": {name: TEXT}, "required": [name]} for name in ("url", "path")]
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tool(lane.client, "read", {"anyOf": forms}))
    assert parameters(stage, lane)["properties"] == {"url": TEXT, "path": TEXT}
    assert "downgraded:schema.anyOf" in answer.warnings


@pytest.mark.fidelity(104)
@pytest.mark.parametrize("lane", WITH_ROOTS)
def test_a_tool_that_is_declared_twice_goes_once(stage: Stage, lane: Lane) -> None:
    """The strict upstream refuses two tools of one name."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    twice = tool(lane.client, "now", {"type": "object"}) * 2
    stage.ask(lane, **QUESTION[lane.client], tools=twice)
    assert len(stage.asked["tools"]) == 1


@pytest.mark.parametrize("lane", [*pairs(client=CHAT, upstream=MESSAGES), *pairs(client=MESSAGES, upstream=RESPONSES)])
def test_different_tools_of_one_name_are_refused_by_name(stage: Stage, lane: Lane) -> None:
    """The 400 says which name, and nothing is sent."""
    differing = tool(lane.client, "now", {"type": "object"}) + tool(lane.client, "now", {"properties": {"a": TEXT}})
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="'now'"):
        stage.ask(lane, **QUESTION[lane.client], tools=differing)
    assert stage.upstream.requests == []


NULLABLE = {"type": ["integer", "null"], "minimum": 1}
OPEN = {"type": "object", "properties": {"city": {**TEXT, "minLength": 1}, "days": NULLABLE}, "required": ["city"]}
STRICT = [lane for other in (CHAT, RESPONSES) for lane in pairs(client=MESSAGES, upstream=other)]
STRICT += [lane for one in (CHAT, RESPONSES) for lane in pairs(client=one, upstream=MESSAGES)]


@pytest.mark.fidelity(105)
@pytest.mark.parametrize("lane", STRICT)
def test_a_strict_tool_has_the_form_that_strictness_demands(stage: Stage, lane: Lane) -> None:
    """Objects are closed at every depth, OpenAI requires all, and what is not enforced is told and named."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    schema = {"type": "object", "properties": {"where": OPEN}, "required": ["where"]}
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tool(lane.client, "weather", schema, strict=True))
    [sent] = stage.asked["tools"]
    assert sent.get("function", sent)["strict"] is True
    where = parameters(stage, lane)["properties"]["where"]
    assert where["additionalProperties"] is False
    assert where["required"] == (["city"] if lane.upstream == MESSAGES else ["city", "days"])
    lost = {"dropped:schema.minLength", *(("dropped:schema.minimum",) if lane.upstream == MESSAGES else ())}
    assert lost <= set(answer.warnings)


@pytest.mark.fidelity(105)
@pytest.mark.parametrize("lane", STRICT)
def test_a_tool_that_cannot_be_strict_is_not(stage: Stage, lane: Lane) -> None:
    """A map of free keys would have to be empty under strictness: it goes as it is, without, and the caller learns."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    free = {"type": "object", "properties": {"env": {"type": "object", "additionalProperties": TEXT}}}
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tool(lane.client, "run", free, strict=True))
    [sent] = stage.asked["tools"]
    assert not sent.get("function", sent).get("strict")
    assert parameters(stage, lane) == free
    assert "dropped:strict" in answer.warnings


@pytest.mark.fidelity(106)
@pytest.mark.parametrize(
    "lane", [lane for one in (CHAT, RESPONSES, MESSAGES) for lane in pairs(client=one, upstream=GEMINI)]
)
def test_references_to_any_place_reach_gemini(stage: Stage, lane: Lane) -> None:
    """A property that refers to another, with escapes, is a definition for both; nothing is lost."""
    place = {"type": "object", "properties": {"name": TEXT}}
    schema = {"type": "object", "properties": {"a/b": place, "to": {"$ref": "#/properties/a~1b"}}}
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[lane.client], tools=tool(lane.client, "route", schema))
    assert parameters(stage, lane) == {
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


@pytest.mark.parametrize("lane", [lane for one in FORMATS for lane in pairs(client=one, upstream=GEMINI)])
def test_what_a_model_cannot_take_together_is_asked_for_in_words(stage: Stage, lane: Lane) -> None:
    """Gemini up to 2.5 refuses functions beside a format: the functions stay, the format is an instruction."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    asked = {**QUESTION[lane.client], "tools": tool(lane.client, "now", {"type": "object"}), **FORMATS[lane.client]}
    answer = stage.ask(lane, model="gemini-2.5-flash", **asked)
    assert stage.asked["tools"][0]["functionDeclarations"][0]["name"] == "now"
    assert "responseMimeType" not in stage.asked.get("generationConfig", {})
    assert "JSON Schema" in str(stage.asked["systemInstruction"])
    assert "emulated:response_format" in answer.warnings
    stage.ask(lane, **asked)
    assert stage.asked["generationConfig"]["responseMimeType"] == "application/json"


@pytest.mark.parametrize(
    "lane", [lane for other in (CHAT, RESPONSES) for lane in pairs(client=MESSAGES, upstream=other)]
)
@pytest.mark.parametrize("schema", [{"type": "array", "items": TEXT}, {"anyOf": [OPEN, {"type": "null"}]}])
def test_an_answer_that_is_no_object_is_asked_for_in_words(stage: Stage, lane: Lane, schema: dict[str, Any]) -> None:
    """OpenAI takes objects alone at the root of a format, Anthropic takes all."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    form: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    answer = stage.ask(lane, **QUESTION[lane.client], **form)
    assert "json_schema" not in str(stage.asked.get("response_format") or stage.asked.get("text"))
    assert "emulated:response_format" in answer.warnings


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
@pytest.mark.parametrize("lane", [lane for one in (CHAT, RESPONSES) for lane in pairs(client=one, upstream=MESSAGES)])
def test_the_schema_of_an_answer_has_anthropics_form(stage: Stage, lane: Lane, name: str) -> None:
    """As its own SDK would send it; what would mean something else is asked for in words."""
    schema, property_made = ANSWERS[name]
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    form = {"type": "json_schema", "name": "w", "schema": schema}
    asked: dict[str, Any] = {"text": {"format": form}}
    if lane.client == CHAT:
        asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": schema}}}
    answer = stage.ask(lane, **QUESTION[lane.client], **asked)
    if property_made is None:
        assert "output_config" not in stage.asked
        assert "JSON Schema" in stage.asked["system"][-1]["text"]
        assert answer.warnings == ["emulated:response_format"]
    else:
        assert stage.asked["output_config"]["format"]["schema"]["properties"]["a"] == property_made


@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI, stream=False))
def test_what_is_asked_for_in_words_is_a_400_for_strict_requests(lane: Lane) -> None:
    """A request that must go as it is becomes a 400 that names the format."""
    with staged(default_model="gemini-2.5-flash", bypass_model=True) as older:
        more = {"tools": tool(CHAT, "now", {"type": "object"}), **FORMATS[CHAT]}
        body = {**QUESTION[CHAT], "model": older.model(lane), **more}
        answer = older.post(lane, body, **{"x-llmproxy-strict": "1"})
    assert answer.status_code == 400
    assert "emulated:response_format" in answer.text
