"""Turns, media and parameters where one side is Gemini: carried over, clamped or refused, and never silently."""

from base64 import b64decode, urlsafe_b64encode
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from google.genai import errors, types

from llmproxy_asgi.testing import json_answer, sse_answer
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, Call, Lane, Reply, Stage
from support.pairs.asks import PDF, PNG, QUESTION, chat_tool, messages_tool, tool_result, tool_use, tools
from support.pairs.gemini_asks import function_response, model, user
from support.pairs.gemini_wires import GEMINI_USAGE, candidate, gemini_body, gemini_frame
from support.pairs.lanes import lanes, pairs

FINE = Reply(texts=("Fine.",))
USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}
PICTURE = {"inlineData": {"mimeType": "image/png", "data": PNG}}
OTHERS = (CHAT, RESPONSES, MESSAGES)

# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(22)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_neighbouring_turns_are_one_content(stage: Stage, lane: Lane) -> None:
    """User messages that follow each other are the parts of one content, in order, their texts apart."""
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    turns: list[Any] = [
        {"role": "user", "content": "One."},
        {"role": "user", "content": [{"type": "text", "text": "Two."}, picture]},
        {"role": "user", "content": "Three."},
        {"role": "assistant", "content": "Four."},
        {"role": "assistant", "content": "Five."},
        {"role": "user", "content": "Six."},
    ]
    answer = stage.ask(lane, messages=turns)
    assert stage.asked["contents"] == [
        user("One.", "Two.", PICTURE, "Three."),
        model("Four.", "Five."),
        user("Six."),
    ]
    assert answer.warnings == []


@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_instructions_lead_and_later_ones_become_words(stage: Stage, lane: Lane) -> None:
    """Leading ones are parts of `systemInstruction`; one in the middle is in the user's words, and that is told."""
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    turns: list[Any] = [
        {"role": "system", "content": "A"},
        {"role": "developer", "content": "B"},
        USER,
        {"role": "assistant", "content": "Snow."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And now?"},
    ]
    answer = stage.ask(lane, messages=turns)
    assert stage.asked["systemInstruction"] == {"parts": [{"text": "A"}, {"text": "B"}]}
    assert stage.asked["contents"][2:] == [user("Be brief.", "And now?")]
    assert answer.warnings == ["downgraded:system_message"]


@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_googles_instruction_is_everybodys(stage: Stage, upstream: str, stream: bool) -> None:
    """`systemInstruction` leads the conversation of every upstream."""
    lane = Lane(client=GEMINI, upstream=upstream, stream=stream)
    stage.play(FINE.scenario(upstream, stream=stream))
    answer = stage.ask(lane, **QUESTION[GEMINI], system_instruction="Be brief.")
    if upstream == CHAT:
        first, _ = stage.asked["messages"]
        assert first["role"] in {"system", "developer"}
        assert first["content"] in ("Be brief.", [{"type": "text", "text": "Be brief."}])
    elif upstream == RESPONSES:
        assert stage.asked["instructions"] == "Be brief."
    else:
        assert stage.asked["system"] == [{"type": "text", "text": "Be brief."}]
    assert answer.warnings == []


@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_the_user_begins(stage: Stage, lane: Lane) -> None:
    """A conversation that an assistant opens gets a user turn before it, and that is told."""
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    answer = stage.ask(lane, messages=[{"role": "assistant", "content": "Hello."}, USER])
    assert [content["role"] for content in stage.asked["contents"]] == ["user", "model", "user"]
    assert answer.warnings == ["emulated:first_user_turn"]


# ── media ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(28)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_a_data_url_is_inline_data(stage: Stage, lane: Lane) -> None:
    """In standard base64, by the type that its bytes have, with the detail that was asked for."""
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    part = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}", "detail": "low"}}
    stage.ask(lane, messages=[{"role": "user", "content": [part]}])
    assert stage.asked["contents"] == [user({**PICTURE, "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"}})]


@pytest.mark.fidelity(28)
@pytest.mark.parametrize("lane", [lane for to in OTHERS for lane in pairs(client=GEMINI, upstream=to)])
def test_inline_data_in_the_sdks_alphabet_is_the_same_bytes(stage: Stage, lane: Lane) -> None:
    """Google's SDK writes URL-safe base64; the others get the standard alphabet."""
    stage.play(FINE.scenario(lane.upstream, stream=lane.stream))
    picture = b64decode(PNG) + b"\xfb\xef\xff"  # which the two alphabets spell differently
    assert {b"-"[0], b"_"[0]} & set(urlsafe_b64encode(picture))
    part = types.Part.from_bytes(data=picture, mime_type="image/png")
    stage.ask(lane, contents=[types.Content(role="user", parts=[part, types.Part(text="What is this?")])])
    found = {
        CHAT: lambda: stage.asked["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2],
        RESPONSES: lambda: stage.asked["input"][0]["content"][0]["image_url"].partition(",")[2],
        MESSAGES: lambda: stage.asked["messages"][0]["content"][0]["source"]["data"],
    }[lane.upstream]()
    assert b64decode(found, validate=True) == picture


@pytest.mark.fidelity(29)
@pytest.mark.parametrize("client", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_picture_by_its_address_is_refused(stage: Stage, client: str, stream: bool) -> None:
    """Google fetches from few hosts, and we from none: a 400 that names the field, and nobody is asked."""
    address = "https://pictures.example/snow.png"
    content: dict[str, Any] = {
        CHAT: {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]},
        RESPONSES: {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]},
        MESSAGES: {
            "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": address}}]}]
        },
    }[client]
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="address") as refused:
        stage.ask(Lane(client=client, upstream=GEMINI, stream=stream), **content)
    assert stage.upstream.requests == []
    if client == CHAT:
        told: Any = refused.value
        assert told.param.startswith("messages")


@pytest.mark.fidelity(32)
@pytest.mark.parametrize(("form", "media_type"), [("wav", "audio/wav"), ("mp3", "audio/mpeg")])
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_sound_is_heard(stage: Stage, lane: Lane, form: str, media_type: str) -> None:
    """Chat's sound is inline data."""
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": form}}
    stage.ask(lane, messages=[{"role": "user", "content": [sound]}])
    assert stage.asked["contents"] == [user({"inlineData": {"mimeType": media_type, "data": "UklGRg=="}})]


@pytest.mark.fidelity(32)
@pytest.mark.parametrize("lane", pairs(client=GEMINI, upstream=CHAT))
def test_sound_of_googles_callers_is_heard(stage: Stage, lane: Lane) -> None:
    """And back."""
    stage.play(FINE.scenario(CHAT, stream=lane.stream))
    part = types.Part.from_bytes(data=b"RIFF", mime_type="audio/wav")
    stage.ask(lane, model="gpt-4o-audio-preview", contents=[types.Content(role="user", parts=[part])])
    assert stage.asked["messages"][0]["content"] == [
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    ]


@pytest.mark.fidelity(32)
@pytest.mark.parametrize("lane", pairs(client=GEMINI, upstream=MESSAGES))
def test_sound_is_refused_where_nobody_hears_it(stage: Stage, lane: Lane) -> None:
    """Anthropic takes no sound: a 400 in Google's words."""
    part = types.Part.from_bytes(data=b"RIFF", mime_type="audio/wav")
    with pytest.raises(errors.ClientError) as refused:
        stage.ask(lane, contents=[types.Content(role="user", parts=[part])])
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert stage.upstream.requests == []


@pytest.mark.parametrize("lane", pairs(client=GEMINI, upstream=MESSAGES))
def test_a_document_keeps_its_name(stage: Stage, lane: Lane) -> None:
    """A PDF with a display name is a document with that title."""
    stage.play(FINE.scenario(MESSAGES, stream=lane.stream))
    part = {"inlineData": {"mimeType": "application/pdf", "data": PDF, "displayName": "snow.pdf"}}
    seen = stage.post(lane, {"contents": [user(part)]})
    assert seen.status_code == 200, seen.text
    [document] = stage.asked["messages"][0]["content"]
    assert document["title"] == "snow.pdf"
    assert document["source"] == {"type": "base64", "media_type": "application/pdf", "data": PDF}


@pytest.mark.fidelity(35)
@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES])
def test_a_file_that_google_keeps_is_refused_elsewhere(stage: Stage, upstream: str) -> None:
    """Nobody else can read it: a 400 that says why."""
    address = "https://generativelanguage.googleapis.com/v1beta/files/abc"
    part = types.Part.from_uri(file_uri=address, mime_type="application/pdf")
    with pytest.raises(errors.ClientError, match=r"(vendor|somebody else) (keeps|stores)") as refused:
        stage.ask(Lane(client=GEMINI, upstream=upstream), contents=[types.Content(role="user", parts=[part])])
    assert refused.value.code == 400
    assert stage.upstream.requests == []


@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES])
def test_what_google_caches_is_refused_elsewhere(stage: Stage, upstream: str) -> None:
    """A cached prefix is a part of the conversation that Google alone holds."""
    with pytest.raises(errors.ClientError, match="vendor") as refused:
        stage.ask(Lane(client=GEMINI, upstream=upstream), **QUESTION[GEMINI], cached_content="cachedContents/abc")
    assert refused.value.code == 400
    assert stage.upstream.requests == []


@pytest.mark.parametrize("field", ["conversation", "prompt"])
def test_what_openai_keeps_is_refused_by_google(stage: Stage, field: str) -> None:
    """And a stored prompt or conversation is OpenAI's alone."""
    lane = Lane(client=RESPONSES, upstream=GEMINI)
    value = "conv_1" if field == "conversation" else {"id": "pmpt_1"}
    seen = stage.post(lane, {"model": stage.model(lane), **QUESTION[RESPONSES], field: value})
    assert seen.status_code == 400
    assert seen.json()["error"]["param"] == field
    assert stage.upstream.requests == []


RESULT_PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=GEMINI))
def test_pictures_in_results(stage: Stage, lane: Lane) -> None:
    """Newer models take them within the response; for older ones they follow in a content of their own, with a word."""
    content = [{"type": "text", "text": "a photo"}, RESULT_PICTURE]
    turns: list[Any] = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1")]},
        {"role": "user", "content": [tool_result("toolu_1", content)]},
    ]
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    answer = stage.ask(lane, messages=turns, tools=[messages_tool()])
    within = function_response("toolu_1", "get_weather", {"output": "a photo"}, parts=[PICTURE])
    assert stage.asked["contents"][2:] == [user(within)]
    assert answer.warnings == []
    answer = stage.ask(lane, model="gemini-2.5-flash", messages=turns, tools=[messages_tool()])
    apart = function_response("toolu_1", "get_weather", {"output": "a photo"})
    assert stage.asked["contents"][2:] == [user(apart), user("[toolu_1]", PICTURE)]
    assert answer.warnings == ["moved:tool_result_media"]


# ── parameters ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(74)
@pytest.mark.parametrize("lane", lanes(client=CHAT, upstream=GEMINI))
def test_two_answers_of_gemini(stage: Stage, lane: Lane) -> None:
    """`n: 2` is two candidates; the first choice comes first, whichever candidate spoke first."""
    one, two = {"text": "Snow."}, {"text": "Rain."}
    whole = gemini_body(
        candidate(one, finish="STOP", index=0), candidate(two, finish="MAX_TOKENS", index=1), usage=GEMINI_USAGE
    )
    frames = [
        gemini_frame(gemini_body(candidate(two, index=1))),
        gemini_frame(gemini_body(candidate(one, index=0))),
        gemini_frame(gemini_body(candidate(finish="MAX_TOKENS", index=1))),
        gemini_frame(gemini_body(candidate(finish="STOP", index=0), usage=GEMINI_USAGE)),
    ]
    stage.play(sse_answer(frames) if lane.stream else json_answer(200, whole))
    answer = stage.ask(lane, **QUESTION[CHAT], n=2)
    assert stage.asked["generationConfig"]["candidateCount"] == 2
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in answer.whole.choices] == [
        (0, "Snow.", "stop"),
        (1, "Rain.", "length"),
    ]
    if lane.stream:
        assert next(choice.index for chunk in answer.events for choice in chunk.choices) == 0


class Forecast(pydantic.BaseModel):
    sky: str
    degrees: int


SAID = Reply(texts=('{"sky":"grey",', '"degrees":-3}'))


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("lane", lanes(client=GEMINI, streams=(False,)))
def test_googles_parse(stage: Stage, lane: Lane) -> None:
    """The SDK hands out a model instance, whoever answered."""
    stage.play(SAID.scenario(lane.upstream, stream=False))
    shape: Any = {"response_mime_type": "application/json", "response_schema": Forecast}
    answer = stage.ask(lane, **QUESTION[GEMINI], **shape)
    assert answer.whole.parsed == Forecast(sky="grey", degrees=-3)
    if lane.upstream == CHAT:
        schema = stage.asked["response_format"]["json_schema"]["schema"]
    elif lane.upstream == RESPONSES:
        schema = stage.asked["text"]["format"]["schema"]
    elif lane.upstream == MESSAGES:
        schema = stage.asked["output_config"]["format"]["schema"]
    else:
        return
    assert schema["type"] == "object"
    assert {name: field["type"] for name, field in schema["properties"].items()} == {
        "sky": "string",
        "degrees": "integer",
    }
    assert schema["required"] == ["sky", "degrees"]


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_a_schema_for_the_answer_in_googles_terms(stage: Stage, lane: Lane) -> None:
    """A media type and a JSON schema; JSON mode is the media type alone."""
    schema = {"type": "object", "properties": {"sky": {"type": "string"}}, "required": ["sky"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "forecast", "schema": schema}}
    stage.play(SAID.scenario(GEMINI, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[CHAT], response_format=form)
    config = stage.asked["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", schema)
    stage.ask(lane, **QUESTION[CHAT], response_format={"type": "json_object"})
    config = stage.asked["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert "responseJsonSchema" not in config
    assert answer.warnings == []


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("lane", pairs(client=GEMINI, upstream=RESPONSES))
def test_json_mode_of_google_names_json_for_openai(stage: Stage, lane: Lane) -> None:
    """OpenAI insists that the messages speak of JSON where the mode is asked for."""
    stage.play(SAID.scenario(RESPONSES, stream=lane.stream))
    stage.ask(lane, **QUESTION[GEMINI], response_mime_type="application/json")
    assert stage.asked["text"]["format"] == {"type": "json_object"}
    assert "json" in (str(stage.asked.get("instructions")) + str(stage.asked["input"])).lower()


@pytest.mark.fidelity(76)
@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=GEMINI))
def test_gemini_has_no_cache_marks(stage: Stage, lane: Lane) -> None:
    """Gemini caches by itself: no mark reaches it, on whatever part it stood."""
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    mark: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
    words = [{"type": "text", "text": "Be brief.", **mark}]
    turn: Any = {"role": "user", "content": [{"type": "text", "text": "Hi", **mark}]}
    stage.ask(lane, system=words, messages=[turn], tools=[messages_tool(**mark)])
    assert b"cache" not in stage.received.body.lower()
    assert stage.asked["contents"] == [user("Hi")]


@pytest.mark.fidelity(78)
@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_chats_knobs_in_googles_terms(stage: Stage, lane: Lane) -> None:
    """Seed, penalties, probabilities, sampling, limits and stops are carried over; a bias is not, and that is told."""
    stage.play(FINE.scenario(GEMINI, stream=lane.stream))
    knobs: Any = {
        "seed": 7,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logprobs": True,
        "top_logprobs": 2,
        "temperature": 1.5,
        "top_p": 0.25,
        "max_completion_tokens": 77,
        "stop": ["A", "B"],
        "logit_bias": {"42": 5},
    }
    answer = stage.ask(lane, **QUESTION[CHAT], **knobs)
    assert stage.asked["generationConfig"] == {
        "seed": 7,
        "frequencyPenalty": 0.5,
        "presencePenalty": -0.5,
        "responseLogprobs": True,
        "logprobs": 2,
        "temperature": 1.5,
        "topP": 0.25,
        "maxOutputTokens": 77,
        "stopSequences": ["A", "B"],
    }
    assert answer.warnings == ["dropped:logit_bias"]


@pytest.mark.fidelity(78)
@pytest.mark.parametrize("lane", pairs(client=GEMINI, upstream=CHAT))
def test_googles_knobs_in_chats_terms(stage: Stage, lane: Lane) -> None:
    """And back; what Chat lacks is told, and Google's own settings of safety go without a word."""
    stage.play(FINE.scenario(CHAT, stream=lane.stream))
    answer = stage.ask(
        lane,
        model="gpt-4.1",
        **QUESTION[GEMINI],
        seed=7,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        response_logprobs=True,
        logprobs=2,
        temperature=1.5,
        top_p=0.25,
        top_k=40,
        max_output_tokens=77,
        stop_sequences=["A", "B"],
        safety_settings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    )
    asked = stage.asked
    assert (asked["seed"], asked["frequency_penalty"], asked["presence_penalty"]) == (7, 0.5, -0.5)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)
    assert (asked["temperature"], asked["top_p"]) == (1.5, 0.25)
    assert (asked["max_completion_tokens"], asked["stop"]) == (77, ["A", "B"])
    assert answer.warnings == ["dropped:top_k"]


@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_more_stops_than_google_takes(stage: Stage, lane: Lane) -> None:
    """Anthropic's callers may name more than five: the first five go, and the gateway cuts at the others."""
    there = Lane(client=MESSAGES, upstream=GEMINI, stream=lane.stream)
    stage.play(Reply(texts=("Go o", "n. HA", "LT. No", " more.")).scenario(GEMINI, stream=lane.stream))
    answer = stage.ask(there, **QUESTION[MESSAGES], stop_sequences=[*"ABCDE", "HALT"])
    assert stage.asked["generationConfig"]["stopSequences"] == list("ABCDE")
    assert (answer.text, answer.finish, answer.whole.stop_sequence) == ("Go on. ", "stop_sequence", "HALT")
    assert "emulated:stop" in answer.warnings


@pytest.mark.parametrize("lane", pairs(client=GEMINI, upstream=MESSAGES))
def test_stops_of_white_space(stage: Stage, lane: Lane) -> None:
    """Anthropic refuses a line's end as a stop, so the gateway cuts there; the upstream's own stops still go to it."""
    stage.play(Reply(texts=("One ", "line.", "\nTwo.")).scenario(MESSAGES, stream=lane.stream))
    answer = stage.ask(lane, **QUESTION[GEMINI], stop_sequences=["END", "\n"])
    assert stage.asked["stop_sequences"] == ["END"]
    assert answer.text == "One line."
    assert answer.warnings == ["emulated:stop"]


TIERS = {"flex": "flex", "priority": "priority", "fast": "priority", "default": "standard", "auto": None}


@pytest.mark.parametrize("tier", TIERS)
def test_service_tiers_in_googles_terms(stage: Stage, tier: str) -> None:
    """OpenAI's tiers by Google's names; what leaves it to the vendor is not said."""
    stage.play(FINE.scenario(GEMINI, stream=False))
    named: Any = {"service_tier": tier}
    stage.ask(Lane(client=CHAT, upstream=GEMINI), **QUESTION[CHAT], **named)
    assert stage.asked.get("serviceTier") == TIERS[tier]


@pytest.mark.parametrize("lane", pairs(client=CHAT, upstream=GEMINI))
def test_odd_tool_names_are_rewritten_and_restored(stage: Stage, lane: Lane) -> None:
    """A name that begins with a digit is legal upstream everywhere, and its own again in the answer."""

    def answer(received: Any) -> Any:
        name = received.json()["tools"][0]["functionDeclarations"][0]["name"]
        return Reply(calls=(Call(id="c", name=name, arguments="{}"),)).scenario(GEMINI, stream=lane.stream)

    stage.play(answer)
    named: Any = {"type": "function", "function": {"name": "1st"}}
    seen = stage.ask(lane, **QUESTION[CHAT], tools=[chat_tool("1st"), *tools(CHAT, "two")], tool_choice=named)
    assert [call.name for call in seen.calls] == ["1st"]
    config = stage.asked["toolConfig"]["functionCallingConfig"]
    assert config["allowedFunctionNames"] == [stage.asked["tools"][0]["functionDeclarations"][0]["name"]] != ["1st"]
