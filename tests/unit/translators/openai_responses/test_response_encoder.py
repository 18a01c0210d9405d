"""The response object around an answer has every field that the vendor always sends, in every state."""

import time
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response as SDKResponse

from llmproxy_asgi.conversation import (
    Ended,
    Finish,
    Finished,
    FinishReason,
    PartEnded,
    PartStarted,
    ServiceTier,
    Text,
    ToolCall,
)
from support.wires.openai_responses import INBOUND, STARTED, answer, frames, inbound_request, written

ALWAYS = {
    "background", "completed_at", "created_at", "error", "frequency_penalty", "id", "incomplete_details",
    "instructions", "max_output_tokens", "max_tool_calls", "metadata", "model", "moderation", "object", "output",
    "parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt_cache_key", "prompt_cache_retention",
    "reasoning", "safety_identifier", "service_tier", "status", "store", "temperature", "text", "tool_choice",
    "tools", "top_logprobs", "top_p", "truncation", "usage", "user",
}  # fmt: skip
"""The keys of an answer of the vendor's, seen 2026-05; but for `billing`, which the SDK has no type for."""

STREAM = (
    STARTED,
    PartStarted(0, 0, Text(text="Hi")),
    PartEnded(0, 0),
    Finished(0, Finish(reason=FinishReason.STOP)),
    Ended(),
)


def whole(**fields: Any) -> dict[str, Any]:
    asked = inbound_request(**fields)
    found: dict[str, Any] = msgspec.json.decode(
        INBOUND.encode(answer(Text(text="Hi"), ToolCall(call_id="c", name="f")), asked)
    )
    return found


@pytest.mark.parametrize("store", [True, False])
def test_a_whole_answer_has_every_field(store: bool) -> None:
    """The keys are the vendor's, no more and no fewer, and the SDK's type takes them strictly."""
    found = whole(store=store)
    assert set(found) == ALWAYS
    SDKResponse.model_validate(found, strict=True)


def test_every_life_event_has_every_field() -> None:
    """All lifecycle events have the same keys; only a completed response has its completion time."""
    lives = [each for each in frames(written(STREAM)) if "response" in each]
    assert [each["type"] for each in lives] == ["response.created", "response.in_progress", "response.completed"]
    for life in lives:
        assert set(life["response"]) == ALWAYS
        SDKResponse.model_validate(life["response"], strict=True)
    assert [life["response"]["completed_at"] is None for life in lives] == [True, True, False]
    assert abs(lives[-1]["response"]["completed_at"] - time.time()) < 3600 or (
        lives[-1]["response"]["completed_at"] == lives[-1]["response"]["created_at"]
    )


def test_an_incomplete_answer_is_not_completed() -> None:
    """An answer that was cut off has no time of completion."""
    cut = (*STREAM[:3], Finished(0, Finish(reason=FinishReason.LENGTH)), Ended())
    last = frames(written(cut))[-1]["response"]
    assert (last["status"], last["completed_at"]) == ("incomplete", None)
    assert set(last) == ALWAYS


def test_the_tier_is_the_asked_one_until_the_served_one_is_known() -> None:
    """While an answer is made it says what was asked for; then the upstream's word, or the ordinary tier."""
    lives = [each["response"]["service_tier"] for each in frames(written(STREAM)) if "response" in each]
    assert lives == ["auto", "auto", "default"]
    named = (*STREAM[:-1], Ended(ServiceTier.FLEX))
    lives = [
        each["response"]["service_tier"] for each in frames(written(named, service_tier="flex")) if "response" in each
    ]
    assert lives == ["flex", "flex", "flex"]


def test_what_is_repeated_is_filled_as_the_vendor_fills_it() -> None:
    """Reasoning, text and functions have the members that the vendor always sends; what was said stays as it was."""
    search = {"type": "web_search"}
    found = whole(
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
        tools=[
            {"type": "function", "name": "f"},
            {"type": "function", "name": "g", "description": "d", "parameters": {"type": "object"}, "strict": True},
            search,
        ],
        presence_penalty=0.5,
    )
    assert found["reasoning"] == {"effort": "low", "summary": None}
    assert found["text"] == {"verbosity": "low", "format": {"type": "text"}}
    assert found["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": False},
        {"type": "function", "name": "g", "description": "d", "parameters": {"type": "object"}, "strict": True},
        search,
    ]
    assert found["presence_penalty"] == 0.5


@pytest.mark.parametrize("tools", ['[{"type":"function","n":1e999}]', '[{"type":"function"}, 7]', "[[]]"])
def test_what_cannot_be_read_is_repeated_as_it_came(tools: str) -> None:
    """A passed-through request may have unreadable values; the response repeats them."""
    asked = INBOUND.open(b'{"model":"m","input":"Hi","tools":%b}' % tools.encode(), headers={})
    assert b'"tools":' + tools.encode()[:18] in INBOUND.encode(answer(Text(text="Hi")), asked)
