"""Stop sequences for models behind Chat that know none: the gateway cuts where its callers wanted the end."""

from typing import Any

import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, PairHarness, ProtocolPair, Reply
from support.pairs.asks import QUESTION
from support.pairs.parameters import all_pairs, pairs

THINKER = "o3"
"""A model that takes no stop sequences."""
ASKED: dict[str, dict[str, Any]] = {
    MESSAGES: {"stop_sequences": ["END"]},
    GEMINI: {"stop_sequences": ["END"]},
}


def asked(harness: PairHarness, pair: ProtocolPair, *texts: str) -> Any:
    harness.play(Reply(texts=texts).scenario(CHAT, stream=pair.stream))
    return harness.ask(pair, model=THINKER, **QUESTION[pair.client], **ASKED[pair.client])


@pytest.mark.parametrize(
    "pair",
    [*all_pairs(client=MESSAGES, upstream=CHAT), *pairs(client=GEMINI, upstream=CHAT)],
)
def test_a_model_without_stops_is_cut_by_the_gateway(harness: PairHarness, pair: ProtocolPair) -> None:
    """The text ends right before the stop, which came in two pieces; the upstream is not asked for what it refuses."""
    answer = asked(harness, pair, "One EN", "T. E", "ND", " Two.")
    assert answer.text == "One ENT. "
    assert "emulated:stop" in answer.warnings
    assert "stop" not in harness.asked


@pytest.mark.parametrize("pair", pairs(client=MESSAGES, upstream=CHAT))
def test_the_stop_that_matched_is_told_and_usage_stays(harness: PairHarness, pair: ProtocolPair) -> None:
    """What comes behind the cut is read for its usage alone."""
    answer = asked(harness, pair, "One. ", "END", " Two.")
    assert (answer.finish, answer.whole.stop_sequence) == ("stop_sequence", "END")
    assert answer.whole.usage.output_tokens > 0
