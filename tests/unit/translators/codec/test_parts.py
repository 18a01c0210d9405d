"""What the stream encoders of all protocols have in common."""

from base64 import b64decode

import pytest

from llmproxy_asgi.conversation import (
    UNDATED,
    Ended,
    Finish,
    Finished,
    FinishReason,
    InlineData,
    Media,
    MediaDelta,
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    Refusal,
    Seal,
    SealDelta,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
)
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.registry import translator

CHAT, COMPLETIONS, RESPONSES = "openai-chat", "openai-completions", "openai-responses"
CONVERSATIONS = [CHAT, RESPONSES, "anthropic-messages", "gemini"]
SEAL = Seal(issuer="gemini", kind="signature", data="QUJD")


def encoded(protocol: str, *parts: StreamEvent, reason: FinishReason = FinishReason.STOP) -> str:
    """Encode a stream of these events of parts."""
    encoder = translator(protocol).inbound.encoder(InboundRequest(protocol=protocol, model="m", stream=True, raw={}))
    ending = (Finished(0, Finish(reason=reason)), Ended())
    return encoder.feed((Started("id", "m", UNDATED), *parts, *ending)).decode()


@pytest.mark.parametrize("protocol", CONVERSATIONS)
@pytest.mark.parametrize(
    ("header", "restated"),
    [
        (Text(text=""), Text(text="Restated.")),
        (Refusal(text=""), Refusal(text="Restated.")),
        (Reasoning(), Reasoning(text="Restated.")),
        (Reasoning(), Reasoning(text="Restated.", seals=(SEAL,))),
        (ToolCall(call_id="c", name="f"), ToolCall(call_id="c", name="f", arguments='{"a":"Restated."}')),
    ],
    ids=["text", "refusal", "reasoning", "sealed reasoning", "call"],
)
def test_content_that_only_the_end_has_is_written(protocol: str, header: Part, restated: Part) -> None:
    """Write content that the upstream only restates, also if its seal came before."""
    seals = [PartDelta(0, 0, SealDelta(seal)) for seal in restated.seals]
    called = isinstance(header, ToolCall)
    reason = FinishReason.TOOL_CALLS if called else FinishReason.STOP
    events: list[StreamEvent] = [PartStarted(0, 0, header), *seals, PartEnded(0, 0, restated)]
    assert "Restated." in encoded(protocol, *events, reason=reason)


@pytest.mark.parametrize("protocol", [CHAT, RESPONSES, "gemini"])
def test_an_image_in_padded_pieces_is_one_image(protocol: str) -> None:
    """Join base64 that the upstream padded piece by piece."""
    header = Media(kind="image", source=InlineData(data=""), media_type="image/png")
    pieces = [PartDelta(0, 0, MediaDelta(data)) for data in ("YQ==", "Yg==")]
    written = encoded(protocol, PartStarted(0, 0, header), *pieces, PartEnded(0, 0))
    assert b64decode("YWI=") == b"ab"
    assert "YWI=" in written


@pytest.mark.parametrize("protocol", [CHAT, RESPONSES, "gemini"])
def test_an_image_that_cannot_be_joined_ends_the_stream(protocol: str) -> None:
    """End a stream whose image can't be decoded with the protocol's error event, and nothing else."""
    header = Media(kind="image", source=InlineData(data=""), media_type="image/png")
    pieces = [PartDelta(0, 0, MediaDelta(data)) for data in ("Y!==", "Yg==")]
    last = encoded(protocol, PartStarted(0, 0, header), *pieces, PartEnded(0, 0)).strip().split("\n\n")[-1]
    assert "error" in last
    assert "cannot be decoded" in last


@pytest.mark.parametrize("protocol", [CHAT, COMPLETIONS])
def test_overlapping_texts_are_one_text_in_the_order_of_their_starts(protocol: str) -> None:
    """Write texts in sequence where clients see one text."""
    written = encoded(
        protocol,
        PartStarted(0, 0, Text(text="")),
        PartStarted(0, 1, Text(text="")),
        PartDelta(0, 1, TextDelta("second")),
        PartDelta(0, 0, TextDelta("first")),
        PartEnded(0, 0),
        PartEnded(0, 1),
    )
    assert written.index("first") < written.index("second")
