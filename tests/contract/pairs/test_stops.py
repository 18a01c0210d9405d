"""Stop sequences for models behind Chat that know none: the gateway cuts where its callers wanted the end."""

from typing import Any

import pytest

from support.pairs import CHAT, GEMINI, MESSAGES, Lane, Reply, Stage
from support.pairs.asks import QUESTION
from support.pairs.lanes import lanes, pairs

THINKER = "o3"
"""A model that takes no stop sequences."""
ASKED: dict[str, dict[str, Any]] = {
    MESSAGES: {"stop_sequences": ["END"]},
    GEMINI: {"stop_sequences": ["END"]},
}


def asked(stage: Stage, lane: Lane, *texts: str) -> Any:
    stage.play(Reply(texts=texts).scenario(CHAT, stream=lane.stream))
    return stage.ask(lane, model=THINKER, **QUESTION[lane.client], **ASKED[lane.client])


@pytest.mark.parametrize(
    "lane",
    [*lanes(client=MESSAGES, upstream=CHAT), *pairs(client=GEMINI, upstream=CHAT)],
)
def test_a_model_without_stops_is_cut_by_the_gateway(stage: Stage, lane: Lane) -> None:
    """The text ends right before the stop, which came in two pieces; the upstream is not asked for what it refuses."""
    answer = asked(stage, lane, "One EN", "T. E", "ND", " Two.")
    assert answer.text == "One ENT. "
    assert "emulated:stop" in answer.warnings
    assert "stop" not in stage.asked


@pytest.mark.parametrize("lane", pairs(client=MESSAGES, upstream=CHAT))
def test_the_stop_that_matched_is_told_and_usage_stays(stage: Stage, lane: Lane) -> None:
    """What comes behind the cut is read for its usage alone."""
    answer = asked(stage, lane, "One. ", "END", " Two.")
    assert (answer.finish, answer.whole.stop_sequence) == ("stop_sequence", "END")
    assert answer.whole.usage.output_tokens > 0
