"""Usage in Chat Completions: every vendor's fields are read, and a value that cannot be a count spoils no other."""

from typing import Any

import pytest

import llmproxy_asgi.conversation as ir
from bench.calls import Calls
from bench.traffic import plain_answer
from llmproxy_asgi.translators.openai_chat.mappings import decode_usage
from llmproxy_asgi.translators.openai_chat.schema import ANSWER

USAGE: dict[str, Any] = {
    "prompt_tokens": 50,
    "completion_tokens": 20,
    "total_tokens": 70,
    "prompt_tokens_details": {"cached_tokens": 9, "cache_write_tokens": 8, "audio_tokens": 7, "image_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 4, "image_tokens": 3},
}
DECODED = ir.Usage(
    input=50,
    output=20,
    cache_read=9,
    cache_write=8,
    reasoning=5,
    audio_input=7,
    audio_output=4,
    image_input=6,
    image_output=3,
)


def decoded(usage: dict[str, Any]) -> ir.Usage:
    found = decode_usage(usage)
    assert found is not None
    assert found.extras == {"openai-chat": usage}
    return ir.Usage(**{field: getattr(found, field) for field in ir.Usage.__struct_fields__ if field != "extras"})


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"prompt_tokens": 50.0, "completion_tokens": 20.0},
        {"num_sources": "many", "cost": {"total": 0.1}},
        {"reasoning_tokens": -1},
        {"cached_tokens": True},
        {"prompt_cache_hit_tokens": "9"},
        {"cache_read_input_tokens": 0.5},
        {"cache_creation_input_tokens": 10**30},
        {"prompt_tokens_details": {**USAGE["prompt_tokens_details"], "cached_tokens": 9.0}},
        {"completion_tokens_details": {**USAGE["completion_tokens_details"], "text_tokens": None}},
    ],
)
def test_a_value_that_cannot_be_a_count_spoils_no_other(odd: dict[str, Any]) -> None:
    """The other counts are read as they are without it."""
    assert decoded({**USAGE, **odd}) == DECODED


@pytest.mark.parametrize("nothing", [None, [], "none", 0, {"cached_tokens": None, "audio_tokens": "x"}])
def test_details_that_cannot_be_read_count_nothing(nothing: object) -> None:
    """The totals are read all the same."""
    usage = {**USAGE, "prompt_tokens_details": nothing, "completion_tokens_details": nothing}
    assert decoded(usage) == ir.Usage(input=50, output=20)


@pytest.mark.parametrize("unreadable", [None, -1, "7", True, [], 1.5, float("nan"), 10**9 + 1])
def test_a_total_that_cannot_be_a_count_is_zero(unreadable: object) -> None:
    """None of it is guessed, and the output is what was reported."""
    assert decoded({"prompt_tokens": unreadable, "completion_tokens": 3}) == ir.Usage(output=3)


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({"cached_tokens": 30}, ir.Usage(input=50, output=20, cache_read=30)),
        ({"prompt_cache_hit_tokens": 30}, ir.Usage(input=50, output=20, cache_read=30)),
        ({"cache_read_input_tokens": 30}, ir.Usage(input=50, output=20, cache_read=30)),
        ({"cache_creation_input_tokens": 30}, ir.Usage(input=50, output=20, cache_write=30)),
        ({"reasoning_tokens": 10}, ir.Usage(input=50, output=20, reasoning=10)),
        ({"reasoning_tokens": 10, "total_tokens": 80}, ir.Usage(input=50, output=30, reasoning=10)),
    ],
)
def test_counts_beside_the_details_are_read(beside: dict[str, Any], expected: ir.Usage) -> None:
    """Compatible servers put them there, and one counts reasoning beside the completion."""
    assert decoded({"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70, **beside}) == expected


def test_a_usage_is_decoded_in_few_calls() -> None:
    """The decoder of structs reads the counts: a look-up of each of fifteen would cost more than all other checks."""
    usage = ANSWER.decode(plain_answer()).usage
    assert Calls().during(lambda: decode_usage(usage)).all <= 8
