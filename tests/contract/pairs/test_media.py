"""Pictures, documents and sound, beyond the plain picture that `test_exchanges` sends through every pair."""

from typing import Any

import openai
import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES, PairHarness, ProtocolPair, Reply, pair_harness
from support.pairs.asks import PDF, PNG, messages_tool, tool_result, tool_use
from support.pairs.parameters import pairs

FINE = Reply(texts=("Fine.",))
METADATA = "http://169.254.169.254/latest/meta-data"
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


@pytest.mark.fidelity(27)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_picture_is_what_its_bytes_say(harness: PairHarness, pair: ProtocolPair) -> None:
    """A PNG that its sender calls a JPEG reaches Anthropic as the PNG it is."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    part = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{PNG}", "detail": "low"}}
    harness.ask(pair, messages=[{"role": "user", "content": [part]}])
    assert harness.asked["messages"][0]["content"] == [PICTURE]


@pytest.mark.fidelity(31)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_a_document_becomes_a_file_named_by_its_title(harness: PairHarness, pair: ProtocolPair) -> None:
    """A PDF document reaches Chat as a file part with the document's title as its name."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    source = {"type": "base64", "media_type": "application/pdf", "data": PDF}
    document: Any = {"type": "document", "source": source, "title": "snow.pdf"}
    harness.ask(pair, messages=[{"role": "user", "content": [document, {"type": "text", "text": "Sum it up."}]}])
    [file, text] = harness.asked["messages"][0]["content"]
    assert file == {
        "type": "file",
        "file": {"filename": "snow.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
    }
    assert text == {"type": "text", "text": "Sum it up."}


@pytest.mark.fidelity(31)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_a_file_becomes_a_document_titled_by_its_name(harness: PairHarness, pair: ProtocolPair) -> None:
    """And back: a file part reaches Anthropic as a document."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    file = {"filename": "snow.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
    harness.ask(pair, messages=[{"role": "user", "content": [{"type": "file", "file": file}]}])
    [document] = harness.asked["messages"][0]["content"]
    assert document["type"] == "document"
    assert document["title"] == "snow.pdf"
    assert document["source"] == {"type": "base64", "media_type": "application/pdf", "data": PDF}


@pytest.mark.fidelity(32)
@pytest.mark.parametrize("pair", pairs(client=CHAT, upstream=MESSAGES))
def test_sound_is_refused_where_nobody_hears_it(harness: PairHarness, pair: ProtocolPair) -> None:
    """Anthropic takes no sound: a 400 that names `messages`, and the upstream is not asked."""
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    with pytest.raises(openai.BadRequestError) as refused:
        harness.ask(pair, messages=[{"role": "user", "content": [sound]}])
    assert refused.value.param is not None
    assert refused.value.param.startswith("messages")
    assert harness.upstream.requests == []


@pytest.mark.fidelity(33)
@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_pictures_in_results_follow_the_whole_batch(harness: PairHarness, pair: ProtocolPair) -> None:
    """Tool messages keep their text; pictures follow in one user message behind them all, under their call's id."""
    harness.play(FINE.scenario(pair.upstream, stream=pair.stream))
    results = [
        tool_result("toolu_1", [{"type": "text", "text": "a photo"}, PICTURE]),
        tool_result("toolu_2", "no photo"),
    ]
    turns: list[Any] = [
        {"role": "user", "content": "Show me."},
        {"role": "assistant", "content": [tool_use("toolu_1"), tool_use("toolu_2")]},
        {"role": "user", "content": results},
    ]
    answer = harness.ask(pair, messages=turns, tools=[messages_tool()])
    *_, first, second, moved = harness.asked["messages"]
    assert first == {"role": "tool", "tool_call_id": "toolu_1", "content": "a photo"}
    assert second == {"role": "tool", "tool_call_id": "toolu_2", "content": "no photo"}
    assert moved["role"] == "user"
    head, picture = moved["content"]
    assert "toolu_1" in head["text"]
    assert picture == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assert "moved:tool_result_media" in answer.warnings


def with_picture(client: str, address: str) -> dict[str, Any]:
    """A question about a picture by its address, in a protocol's words."""
    if client == GEMINI:
        return {"contents": [{"role": "user", "parts": [{"fileData": {"fileUri": address, "mimeType": "image/png"}}]}]}
    part: dict[str, Any] = {"type": "image", "source": {"type": "url", "url": address}}
    if client == RESPONSES:
        return {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]}
    if client == CHAT:
        part = {"type": "image_url", "image_url": {"url": address}}
    return {"messages": [{"role": "user", "content": [part]}], **({"max_tokens": 9} if client == MESSAGES else {})}


@pytest.mark.fidelity(113)
@pytest.mark.parametrize("address", ["file:///etc/passwd", METADATA])
@pytest.mark.parametrize("pair", pairs(stream=False))
def test_an_address_that_no_upstream_must_fetch_is_refused(
    harness: PairHarness, pair: ProtocolPair, address: str
) -> None:
    """Translated or passed on, a file or a private host is a 400 that names the field, and nothing is sent."""
    body = with_picture(pair.client, address)
    answer = harness.post(pair, body if pair.client == GEMINI else {"model": harness.model(pair), **body})
    assert answer.status_code == 400, answer.text
    assert {MESSAGES: "source.url", GEMINI: "fileUri"}.get(pair.client, "image_url") in answer.text
    assert harness.upstream.requests == []


def test_a_provider_may_allow_private_media() -> None:
    """With `allow_private_media` a private picture is passed on, and a file still is not."""
    pair = ProtocolPair(client=CHAT, upstream=CHAT)
    with pair_harness(allow_private_media=True) as made:
        made.play(FINE.scenario(CHAT, stream=False))
        answer = made.post(pair, {"model": made.model(pair), **with_picture(CHAT, METADATA)})
        assert answer.status_code == 200, answer.text
        assert METADATA.encode() in made.received.body
        refused = made.post(pair, {"model": made.model(pair), **with_picture(CHAT, "file:///etc/passwd")})
        assert refused.status_code == 400
