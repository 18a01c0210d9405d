"""Turns, media and parameters where one side is Gemini: carried over, clamped or refused, and never silently."""

from base64 import b64decode, urlsafe_b64encode
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from google.genai import errors, types

from llmproxy_asgi.testing import json_answer, sse_answer
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, Call, PairHarness, ProtocolPair, Reply
from support.pairs.asks import PDF, PNG, QUESTION, chat_tool, messages_tool, tool_result, tool_use, tools
from support.pairs.gemini_asks import function_response, model, user
from support.pairs.gemini_wires import GEMINI_USAGE, candidate, gemini_body, gemini_frame
from support.pairs.parameters import all_pairs, pairs

FINE = Reply(texts=("Fine.",))
USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}
PICTURE = {"inlineData": {"mimeType": "image/png", "data": PNG}}
OTHERS = (CHAT, RESPONSES, MESSAGES)

# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(22)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_neighbouring_turns_are_one_content(harness: PairHarness, pair: ProtocolPair) -> None:
    """User messages that follow each other are the parts of one content, in order, their texts apart."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    turns: list[Any] = [
        {"role": "user", "content": "One."},
        {"role": "user", "content": [{"type": "text", "text": "Two."}, picture]},
        {"role": "user", "content": "Three."},
        {"role": "assistant", "content": "Four."},
        {"role": "assistant", "content": "Five."},
        {"role": "user", "content": "Six."},
    ]
    answer = harness.ask(pair, messages=turns)
    assert harness.asked["contents"] == [
        user("One.", "Two.", PICTURE, "Three."),
        model("Four.", "Five."),
        user("Six."),
    ]
    assert answer.warnings == []


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_instructions_lead_and_later_ones_become_words(harness: PairHarness, pair: ProtocolPair) -> None:
    """Leading ones become `systemInstruction`; one in the middle moves into the user's message, with a warning."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    turns: list[Any] = [
        {"role": "system", "content": "A"},
        {"role": "developer", "content": "B"},
        USER,
        {"role": "assistant", "content": "Snow."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And now?"},
    ]
    answer = harness.ask(pair, messages=turns)
    assert harness.asked["systemInstruction"] == {"parts": [{"text": "A"}, {"text": "B"}]}
    assert harness.asked["contents"][2:] == [user("Be brief.", "And now?")]
    assert answer.warnings == ["downgraded:system_message"]


@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_googles_instruction_is_everybodys(harness: PairHarness, upstream: str, stream: bool) -> None:
    """`systemInstruction` leads the conversation of every upstream."""
    pair = ProtocolPair(client=GEMINI, upstream=upstream, stream=stream)
    harness.play(FINE.scenario(upstream, stream=stream))
    answer = harness.ask(pair, **QUESTION[GEMINI], system_instruction="Be brief.")
    if upstream == CHAT:
        first, _ = harness.asked["messages"]
        assert first["role"] in {"system", "developer"}
        assert first["content"] in ("Be brief.", [{"type": "text", "text": "Be brief."}])
    elif upstream == RESPONSES:
        assert harness.asked["instructions"] == "Be brief."
    else:
        assert harness.asked["system"] == [{"type": "text", "text": "Be brief."}]
    assert answer.warnings == []


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_the_user_begins(harness: PairHarness, pair: ProtocolPair) -> None:
    """A conversation that begins with an assistant message gets a user message before it, with a warning."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, messages=[{"role": "assistant", "content": "Hello."}, USER])
    assert [content["role"] for content in harness.asked["contents"]] == ["user", "model", "user"]
    assert answer.warnings == ["emulated:first_user_turn"]


# ── media ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(28)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_a_data_url_is_inline_data(harness: PairHarness, pair: ProtocolPair) -> None:
    """In standard base64, by the type that its bytes have, with the detail that was asked for."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    part = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}", "detail": "low"}}
    harness.ask(pair, messages=[{"role": "user", "content": [part]}])
    assert harness.asked["contents"] == [user({**PICTURE, "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"}})]


@pytest.mark.fidelity(28)
@pytest.mark.parametrize("pair", [pair for to in OTHERS for pair in pairs(client=GEMINI, upstream=to)])
def test_inline_data_in_the_sdks_alphabet_is_the_same_bytes(harness: PairHarness, pair: ProtocolPair) -> None:
    """Google's SDK writes URL-safe base64; the others get the standard alphabet."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    picture = b64decode(PNG) + b"\xfb\xef\xff"  # which the two alphabets spell differently
    assert {b"-"[0], b"_"[0]} & set(urlsafe_b64encode(picture))
    part = types.Part.from_bytes(data=picture, mime_type="image/png")
    harness.ask(pair, contents=[types.Content(role="user", parts=[part, types.Part(text="What is this?")])])
    found = {
        CHAT: lambda: harness.asked["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2],
        RESPONSES: lambda: harness.asked["input"][0]["content"][0]["image_url"].partition(",")[2],
        MESSAGES: lambda: harness.asked["messages"][0]["content"][0]["source"]["data"],
    }[pair.upstream]()
    assert b64decode(found, validate=True) == picture


@pytest.mark.fidelity(29)
@pytest.mark.parametrize("client", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_picture_by_its_address_is_refused(harness: PairHarness, client: str, stream: bool) -> None:
    """Google fetches from few hosts and the gateway from none: a 400 that names the field, without an upstream call."""
    address = "https://pictures.example/snow.png"
    content: dict[str, Any] = {
        CHAT: {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]},
        RESPONSES: {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]},
        MESSAGES: {
            "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": address}}]}]
        },
    }[client]
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match="by this URL") as refused:
        harness.ask(ProtocolPair(client=client, upstream=GEMINI, stream=stream), **content)
    assert harness.upstream.requests == []
    if client == CHAT:
        told: Any = refused.value
        assert told.param.startswith("messages")


@pytest.mark.fidelity(32)
@pytest.mark.parametrize(("form", "media_type"), [("wav", "audio/wav"), ("mp3", "audio/mpeg")])
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_sound_is_heard(harness: PairHarness, pair: ProtocolPair, form: str, media_type: str) -> None:
    """Chat's sound is inline data."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": form}}
    harness.ask(pair, messages=[{"role": "user", "content": [sound]}])
    assert harness.asked["contents"] == [user({"inlineData": {"mimeType": media_type, "data": "UklGRg=="}})]


@pytest.mark.fidelity(32)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=CHAT))
def test_sound_of_googles_callers_is_heard(harness: PairHarness, pair: ProtocolPair) -> None:
    """And back."""
    harness.play(FINE.scenario(CHAT, stream=pair.stream))
    part = types.Part.from_bytes(data=b"RIFF", mime_type="audio/wav")
    harness.ask(pair, model="gpt-4o-audio-preview", contents=[types.Content(role="user", parts=[part])])
    assert harness.asked["messages"][0]["content"] == [
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    ]


@pytest.mark.fidelity(32)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=MESSAGES))
def test_sound_is_refused_where_nobody_hears_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic takes no sound: a 400 in Google's words."""
    part = types.Part.from_bytes(data=b"RIFF", mime_type="audio/wav")
    with pytest.raises(errors.ClientError) as refused:
        harness.ask(pair, contents=[types.Content(role="user", parts=[part])])
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert harness.upstream.requests == []


@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=MESSAGES))
def test_a_document_keeps_its_name(harness: PairHarness, pair: ProtocolPair) -> None:
    """A PDF with a display name is a document with that title."""
    harness.play(FINE.scenario(MESSAGES, stream=pair.stream))
    part = {"inlineData": {"mimeType": "application/pdf", "data": PDF, "displayName": "snow.pdf"}}
    seen = harness.post(pair, {"contents": [user(part)]})
    assert seen.status_code == 200, seen.text
    [document] = harness.asked["messages"][0]["content"]
    assert document["title"] == "snow.pdf"
    assert document["source"] == {"type": "base64", "media_type": "application/pdf", "data": PDF}


@pytest.mark.fidelity(35)
@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES])
def test_a_file_that_google_keeps_is_refused_elsewhere(harness: PairHarness, upstream: str) -> None:
    """No other vendor can read it: a 400 that says why."""
    address = "https://generativelanguage.googleapis.com/v1beta/files/abc"
    part = types.Part.from_uri(file_uri=address, mime_type="application/pdf")
    with pytest.raises(errors.ClientError, match=r"objects of another vendor \(contents\): send") as refused:
        harness.ask(ProtocolPair(client=GEMINI, upstream=upstream), contents=[types.Content(role="user", parts=[part])])
    assert refused.value.code == 400
    assert harness.upstream.requests == []


@pytest.mark.parametrize("upstream", [CHAT, RESPONSES, MESSAGES])
def test_what_google_caches_is_refused_elsewhere(harness: PairHarness, upstream: str) -> None:
    """A cached prefix is a part of the conversation that Google alone holds."""
    with pytest.raises(errors.ClientError, match="vendor") as refused:
        harness.ask(
            ProtocolPair(client=GEMINI, upstream=upstream), **QUESTION[GEMINI], cached_content="cachedContents/abc"
        )
    assert refused.value.code == 400
    assert harness.upstream.requests == []


@pytest.mark.parametrize("field", ["conversation", "prompt"])
def test_what_openai_keeps_is_refused_by_google(harness: PairHarness, field: str) -> None:
    """And a stored prompt or conversation is OpenAI's alone."""
    pair = ProtocolPair(client=RESPONSES, upstream=GEMINI)
    value = "conv_1" if field == "conversation" else {"id": "pmpt_1"}
    seen = harness.post(pair, {"model": harness.model(pair), **QUESTION[RESPONSES], field: value})
    assert seen.status_code == 400
    assert seen.json()["error"]["param"] == field
    assert harness.upstream.requests == []


RESULT_PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=GEMINI))
def test_pictures_in_results(harness: PairHarness, pair: ProtocolPair) -> None:
    """Newer models take them within the response; for older ones they follow in a content of their own, with a word."""
    content = [{"type": "text", "text": "a photo"}, RESULT_PICTURE]
    turns: list[Any] = [
        USER,
        {"role": "assistant", "content": [tool_use("toolu_1")]},
        {"role": "user", "content": [tool_result("toolu_1", content)]},
    ]
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, messages=turns, tools=[messages_tool()])
    within = function_response("toolu_1", "get_weather", {"output": "a photo"}, parts=[PICTURE])
    assert harness.asked["contents"][2:] == [user(within)]
    assert answer.warnings == []
    answer = harness.ask(pair, model="gemini-2.5-flash", messages=turns, tools=[messages_tool()])
    apart = function_response("toolu_1", "get_weather", {"output": "a photo"})
    assert harness.asked["contents"][2:] == [user(apart), user("[toolu_1]", PICTURE)]
    assert answer.warnings == ["moved:tool_result_media"]


# ── parameters ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fidelity(74)
@pytest.mark.parametrize("pair", all_pairs(client=CHAT, upstream=GEMINI))
def test_two_answers_of_gemini(harness: PairHarness, pair: ProtocolPair) -> None:
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
    harness.play(sse_answer(frames) if pair.stream else json_answer(200, whole))
    answer = harness.ask(pair, **QUESTION[CHAT], n=2)
    assert harness.asked["generationConfig"]["candidateCount"] == 2
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in answer.whole.choices] == [
        (0, "Snow.", "stop"),
        (1, "Rain.", "length"),
    ]
    if pair.stream:
        assert next(choice.index for chunk in answer.events for choice in chunk.choices) == 0


class Forecast(pydantic.BaseModel):
    sky: str
    degrees: int


SAID = Reply(texts=('{"sky":"grey",', '"degrees":-3}'))


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("pair", all_pairs(client=GEMINI, streams=(False,)))
def test_googles_parse(harness: PairHarness, pair: ProtocolPair) -> None:
    """The SDK returns a model instance for every upstream."""
    harness.play(SAID.scenario(pair.upstream, stream=False))
    shape: Any = {"response_mime_type": "application/json", "response_schema": Forecast}
    answer = harness.ask(pair, **QUESTION[GEMINI], **shape)
    assert answer.whole.parsed == Forecast(sky="grey", degrees=-3)
    if pair.upstream == CHAT:
        schema = harness.asked["response_format"]["json_schema"]["schema"]
    elif pair.upstream == RESPONSES:
        schema = harness.asked["text"]["format"]["schema"]
    elif pair.upstream == MESSAGES:
        schema = harness.asked["output_config"]["format"]["schema"]
    else:
        return
    assert schema["type"] == "object"
    assert {name: field["type"] for name, field in schema["properties"].items()} == {
        "sky": "string",
        "degrees": "integer",
    }
    assert schema["required"] == ["sky", "degrees"]


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_a_schema_for_the_answer_in_googles_terms(harness: PairHarness, pair: ProtocolPair) -> None:
    """A media type and a JSON schema; JSON mode is the media type alone."""
    schema = {"type": "object", "properties": {"sky": {"type": "string"}}, "required": ["sky"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "forecast", "schema": schema}}
    harness.play(SAID.scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[CHAT], response_format=form)
    config = harness.asked["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", schema)
    harness.ask(pair, **QUESTION[CHAT], response_format={"type": "json_object"})
    config = harness.asked["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert "responseJsonSchema" not in config
    assert answer.warnings == []


@pytest.mark.fidelity(75)
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=RESPONSES))
def test_json_mode_of_google_names_json_for_openai(harness: PairHarness, pair: ProtocolPair) -> None:
    """OpenAI insists that the messages speak of JSON where the mode is asked for."""
    harness.play(SAID.scenario(RESPONSES, stream=pair.stream))
    harness.ask(pair, **QUESTION[GEMINI], response_mime_type="application/json")
    assert harness.asked["text"]["format"] == {"type": "json_object"}
    assert "json" in (str(harness.asked.get("instructions")) + str(harness.asked["input"])).lower()


@pytest.mark.fidelity(76)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=GEMINI))
def test_gemini_has_no_cache_marks(harness: PairHarness, pair: ProtocolPair) -> None:
    """Gemini caches by itself: no mark reaches it, on whatever part it stood."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
    mark: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
    words = [{"type": "text", "text": "Be brief.", **mark}]
    turn: Any = {"role": "user", "content": [{"type": "text", "text": "Hi", **mark}]}
    harness.ask(pair, system=words, messages=[turn], tools=[messages_tool(**mark)])
    assert b"cache" not in harness.received.body.lower()
    assert harness.asked["contents"] == [user("Hi")]


@pytest.mark.fidelity(78)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_chats_knobs_in_googles_terms(harness: PairHarness, pair: ProtocolPair) -> None:
    """Seed, penalties, log probabilities, sampling, limits and stops are encoded; a bias is dropped with a warning."""
    harness.play(FINE.scenario(GEMINI, stream=pair.stream))
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
    answer = harness.ask(pair, **QUESTION[CHAT], **knobs)
    assert harness.asked["generationConfig"] == {
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
@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=CHAT))
def test_googles_knobs_in_chats_terms(harness: PairHarness, pair: ProtocolPair) -> None:
    """And in the other direction: options that Chat lacks give warnings, except Google's own safety settings."""
    harness.play(FINE.scenario(CHAT, stream=pair.stream))
    answer = harness.ask(
        pair,
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
    asked = harness.asked
    assert (asked["seed"], asked["frequency_penalty"], asked["presence_penalty"]) == (7, 0.5, -0.5)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)
    assert (asked["temperature"], asked["top_p"]) == (1.5, 0.25)
    assert (asked["max_completion_tokens"], asked["stop"]) == (77, ["A", "B"])
    assert answer.warnings == ["dropped:top_k"]


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_more_stops_than_google_takes(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic's callers may name more than five: the first five go, and the gateway cuts at the others."""
    there = ProtocolPair(client=MESSAGES, upstream=GEMINI, stream=pair.stream)
    harness.play(Reply(texts=("Go o", "n. HA", "LT. No", " more.")).scenario(GEMINI, stream=pair.stream))
    answer = harness.ask(there, **QUESTION[MESSAGES], stop_sequences=[*"ABCDE", "HALT"])
    assert harness.asked["generationConfig"]["stopSequences"] == list("ABCDE")
    assert (answer.text, answer.finish, answer.whole.stop_sequence) == ("Go on. ", "stop_sequence", "HALT")
    assert "emulated:stop" in answer.warnings


@pytest.mark.parametrize("pair", pairs(client=GEMINI, upstream=MESSAGES))
def test_stops_of_white_space(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic refuses a line's end as a stop, so the gateway cuts there; the upstream's own stops still go to it."""
    harness.play(Reply(texts=("One ", "line.", "\nTwo.")).scenario(MESSAGES, stream=pair.stream))
    answer = harness.ask(pair, **QUESTION[GEMINI], stop_sequences=["END", "\n"])
    assert harness.asked["stop_sequences"] == ["END"]
    assert answer.text == "One line."
    assert answer.warnings == ["emulated:stop"]


TIERS = {"flex": "flex", "priority": "priority", "fast": "priority", "default": "standard", "auto": None}


@pytest.mark.parametrize("tier", TIERS)
def test_service_tiers_in_googles_terms(harness: PairHarness, tier: str) -> None:
    """OpenAI's tiers by Google's names; what leaves it to the vendor is not said."""
    harness.play(FINE.scenario(GEMINI, stream=False))
    named: Any = {"service_tier": tier}
    harness.ask(ProtocolPair(client=CHAT, upstream=GEMINI), **QUESTION[CHAT], **named)
    assert harness.asked.get("serviceTier") == TIERS[tier]


@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=GEMINI))
def test_odd_tool_names_are_rewritten_and_restored(harness: PairHarness, pair: ProtocolPair) -> None:
    """A name that begins with a digit is legal upstream everywhere, and its own again in the answer."""

    def answer(received: Any) -> Any:
        name = received.json()["tools"][0]["functionDeclarations"][0]["name"]
        return Reply(calls=(Call(id="c", name=name, arguments="{}"),)).scenario(GEMINI, stream=pair.stream)

    harness.play(answer)
    named: Any = {"type": "function", "function": {"name": "1st"}}
    seen = harness.ask(pair, **QUESTION[CHAT], tools=[chat_tool("1st"), *tools(CHAT, "two")], tool_choice=named)
    assert [call.name for call in seen.calls] == ["1st"]
    config = harness.asked["toolConfig"]["functionCallingConfig"]
    assert config["allowedFunctionNames"] == [harness.asked["tools"][0]["functionDeclarations"][0]["name"]] != ["1st"]
