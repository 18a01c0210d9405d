"""Estimates of tokens: what is counted, by which rule, and that they cost next to nothing."""

import base64
import struct
from typing import Any

import pytest

from bench.calls import Calls
from llmproxy_asgi.conversation import (
    Grammar,
    InlineData,
    Link,
    Media,
    Message,
    Opaque,
    OutputFormat,
    PlainText,
    Reasoning,
    Refusal,
    Request,
    Seal,
    SearchHit,
    ServerToolCall,
    ServerToolResult,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.translators.estimate import estimate, weigh

CHAT, MESSAGES, GEMINI = "openai-chat", "anthropic-messages", "gemini"
BARE = 3 + 4
"""Of a request, and of its one message."""


def asking(*parts: Any, **fields: Any) -> Request:
    return Request(protocol=CHAT, model="m", messages=(Message(role="user", parts=parts),), **fields)


def parts_cost(*parts: Any, protocol: str = CHAT) -> int:
    return estimate(asking(*parts), protocol) - BARE


def picture(width: int, height: int, **fields: Any) -> Media:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)
    return Media(kind="image", source=InlineData(data=base64.b64encode(head).decode()), **fields)


def given(kind: Any, content: bytes, **fields: Any) -> Media:
    return Media(kind=kind, source=InlineData(data=base64.b64encode(content).decode()), **fields)


@pytest.mark.parametrize(
    ("text", "hundredths"),
    [
        ("", 0),
        ("abcd \n", 6 * 23),
        ("0123456789", 400),
        ("{};!", 220),
        ("Привет", 6 * 50),
        ("日本語", 300),
        ("🙂", 200),
        ("a1,é漢🙂", 23 + 40 + 55 + 50 + 100 + 200),
    ],
)
def test_each_kind_of_character_has_its_weight(text: str, hundredths: int) -> None:
    """By the bytes that it has in UTF-8."""
    assert weigh(text.encode()) == hundredths


def test_english_is_about_four_letters_a_token() -> None:
    """A paragraph of prose lies between 3.5 and 5 characters a token, as vendors tell people to reckon."""
    prose = (
        "The gateway counts what a model would read, and says so where it could only guess. "
        "A low estimate surprises clients with costs; a slightly high one is harmless."
    )
    assert 3.5 < len(prose) / (weigh(prose.encode()) / 100) < 5


def test_an_estimate_is_rounded_up() -> None:
    """One letter is one token, beside what the request itself costs."""
    assert estimate(asking(Text(text="a")), CHAT) == BARE + 1


def test_turns_cost_a_little_each() -> None:
    """Instructions and turns count wherever they stand, with the little that wraps them."""
    text = Text(text="abcdefghij" * 10)  # 23 tokens
    messages = tuple(Message(role=role, parts=(text,)) for role in ("system", "user", "assistant", "user"))
    assert estimate(Request(protocol=CHAT, model="m", messages=messages), CHAT) == 3 + 4 * (4 + 23)


def test_tools_count_by_their_json() -> None:
    """Name, description and schema, and the grammar of a free-text tool."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = Tool(name="weather", description="Tells the weather of a city", parameters=schema)
    text = 'weatherTells the weather of a city{"type":"object","properties":{"city":{"type":"string"}}}'
    assert estimate(asking(tools=(tool,)), CHAT) == BARE + 8 + -(-weigh(text.encode()) // 100)
    free = Tool(name="p", kind="custom", grammar=Grammar(syntax="lark", definition="start: WORD"))
    assert estimate(asking(tools=(free,)), CHAT) == BARE + 8 + -(-weigh(b"pstart: WORD") // 100)


def test_the_wanted_form_counts() -> None:
    """A schema for the answer is read by the model, too."""
    output = OutputFormat(kind="json_schema", schema={"type": "object"})
    assert estimate(asking(output=output), CHAT) == BARE + -(-weigh(b'{"type":"object"}') // 100)


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        (ToolCall(call_id="c", name="abcd", arguments="abcdef"), 8 + 3),
        (ToolResult(call_id="c", content=(Text(text="abcdefghij"),)), 8 + 3),
        (Reasoning(text="abcdefghij"), 3),
        (Reasoning(seals=(Seal(issuer="openai", kind="encrypted", data="x" * 9000),)), 0),
        (Refusal(text="abcdefghij"), 3),
        (ServerToolCall(call_id="c", tool="abcd", arguments="abcdef"), 8 + 3),
        (ServerToolResult(call_id="c", tool="t", hits=(SearchHit(url="abcde", text="fghij"),)), 3),
        (Opaque(protocol=CHAT, kind="k", data={"a": "b"}), 5),
        (Media(kind="document", source=PlainText(text="abcdefghij")), 3),
        (given("document", b"abcdefghij", media_type="text/plain"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_part_counts(part: Any, tokens: int) -> None:
    """What a model reads of it; state that only its vendor can open is not counted."""
    assert parts_cost(part) == tokens


@pytest.mark.parametrize(
    ("protocol", "width", "height", "tokens"),
    [
        (MESSAGES, 200, 150, 40),
        (MESSAGES, 1000, 1000, 1334),
        (MESSAGES, 4000, 4000, 1600),
        (CHAT, 512, 512, 85 + 170),
        (CHAT, 1024, 1024, 85 + 4 * 170),
        (CHAT, 2048, 4096, 85 + 6 * 170),
        (GEMINI, 384, 384, 258),
        (GEMINI, 960, 540, 258 * 6),
    ],
)
def test_a_picture_is_weighed_by_its_size(protocol: str, width: int, height: int, tokens: int) -> None:
    """By the rule that the upstream's vendor publishes."""
    assert parts_cost(picture(width, height), protocol=protocol) == tokens


def test_a_picture_seen_roughly_is_cheap() -> None:
    """OpenAI looks at it once only where little detail is wanted."""
    assert parts_cost(picture(2048, 2048, detail="low")) == 85


@pytest.mark.parametrize("protocol", [CHAT, MESSAGES, GEMINI])
@pytest.mark.parametrize(
    "source",
    [Link(url="https://x.example/a.png"), InlineData(data="AAAA"), InlineData(data="é")],
    ids=["link", "no-picture", "no-base64"],
)
def test_a_picture_of_unknown_size_is_a_large_one(protocol: str, source: Any) -> None:
    """What cannot be seen is not free."""
    assert parts_cost(Media(kind="image", source=source), protocol=protocol) >= 765


def test_pages_are_counted() -> None:
    """A PDF that tells its pages costs by the page; one that does not by its length."""
    paged = b"%PDF-1.7 <</Type /Pages /Count 3>> " + b"<</Type /Page >> <</Type/Page>> " * 2
    assert parts_cost(given("document", paged), protocol=GEMINI) == 4 * 258
    assert parts_cost(given("document", b"x" * 130_000), protocol=GEMINI) == 3 * 258
    assert parts_cost(given("document", b""), protocol=MESSAGES) == 3000


def test_sound_is_counted_by_the_second() -> None:
    """A WAV file says how many bytes a second has; others are taken to have the usual number."""
    head = b"RIFF" + struct.pack("<I4s4sIHHIIHH", 0, b"WAVE", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    assert parts_cost(given("audio", head + bytes(8000 * 6 - len(head))), protocol=GEMINI) == 6 * 32
    assert parts_cost(given("audio", bytes(48_000))) == 3 * 10
    assert parts_cost(given("video", bytes(750_000)), protocol=GEMINI) == 3 * 300


def test_an_estimate_walks_a_text_a_fixed_number_of_times() -> None:
    """The number of function calls does not depend on a text's length, whatever it is written in."""

    def calls(text: str) -> int:
        request = asking(Text(text=text))
        return Calls().during(lambda: estimate(request, CHAT)).all

    for sample in ("word ", "слово, ", "漢字1🙂"):
        assert calls(sample * 10) == calls(sample * 100_000)
