"""The metrics, their labels, and that callers cannot add labels."""

import random
import string

import pytest

from llmproxy_asgi.conversation import Usage
from llmproxy_asgi.facts import (
    AnyFact,
    CallRefused,
    CredentialCooled,
    CredentialRecovered,
    QueueLeft,
    TargetStateChanged,
)
from llmproxy_asgi.routing.catalog import name_filter
from llmproxy_asgi.telemetry.collector import FAST_BUCKETS, Collector, Names
from support.telemetry import began, failed, finished, started

NAMES = Names(
    providers=frozenset({"openai", "claude"}),
    models=frozenset({"smart", "fast"}),
    patterns=(("o*", name_filter(["o*"])),),
)


def told(*facts: AnyFact) -> Collector:
    collector = Collector(NAMES)
    for fact in facts:
        collector.notice(fact)
    return collector


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        pytest.param("smart", "smart", id="configured"),
        pytest.param("openai/smart", "smart", id="named with its provider"),
        pytest.param("o9-mini", "o*", id="fits a pattern"),
        pytest.param("openai/o9-mini", "o*", id="fits a pattern, with its provider"),
        pytest.param("mine-alone", "other", id="unknown"),
        pytest.param("nobody/smart", "other", id="an unknown provider's"),
        pytest.param("", "other", id="none"),
    ],
)
def test_models_are_labelled_by_the_configuration(asked: str, label: str) -> None:
    """A model's label is the configured name that served it, or `other`."""
    assert list(told(finished(model=asked)).counts().calls) == [("openai-chat", "openai", label, "ok")]


def test_hostile_names_make_no_series() -> None:
    """Keep the number of series constant for ten thousand random model names and unconfigured providers."""
    draw = random.Random(7)
    collector = Collector(NAMES)
    for call in range(10_000):
        name = "".join(draw.choices(string.printable, k=draw.randrange(1, 30)))
        collector.notice(finished(call, model=name, provider="" if call % 2 else "x" + name, kind="x" + name))
    counts = collector.counts()
    assert set(counts.calls) == {
        ("openai-chat", provider, model, "ok") for provider in ("none", "other") for model in ("other", "o*")
    }
    assert sum(counts.calls.values()) == 10_000
    assert set(counts.failures) == {("none", "other"), ("other", "other")}
    assert len(collector._labels) <= 1024


def test_tokens_are_counted_by_kind() -> None:
    """Every kind of token that was spent is counted for who answered and the model asked for; others make no row."""
    spent = Usage(input=100, output=50, cache_read=70, reasoning=20)
    collector = told(finished(usage=spent), finished(2, usage=spent), finished(3, usage=None, exactness="none"))
    assert collector.counts().tokens == {
        ("openai", "smart", "input"): 200,
        ("openai", "smart", "output"): 100,
        ("openai", "smart", "cache_read"): 140,
        ("openai", "smart", "reasoning"): 40,
    }
    assert collector.counts().metered == {("exact",): 2, ("none",): 1}


def test_times_fall_into_buckets() -> None:
    """A time is counted in the first bucket that is not smaller; what exceeds all has one of its own."""
    collector = told(*(finished(first_seconds=seconds) for seconds in (0.1, 0.11, 31.0)), finished(first_seconds=None))
    row = collector.counts().first_event_seconds["openai", "smart"]
    assert row[:-1] == [1, 1, *[0] * (len(FAST_BUCKETS) - 2), 1]
    assert row[-1] == pytest.approx(31.21)
    assert sum(collector.counts().call_seconds["openai", "smart"][:-1]) == 4


def test_what_is_open_closes() -> None:
    """Open calls and streams are those that started and have not finished."""
    collector = told(started(1), started(2, stream=False), started(3), finished(1))
    assert (collector.gauges().open_calls, collector.gauges().open_streams) == (2, 1)
    collector.notice(finished(2))
    collector.notice(finished(3))
    assert (collector.gauges().open_calls, collector.gauges().open_streams) == (0, 0)


def test_attempts_and_their_failures() -> None:
    """Attempts are counted when they begin, and once more, by reason, when they fail."""
    collector = told(began(), failed(), began(attempt=2, provider="claude"))
    assert collector.counts().attempts == {("openai",): 1, ("claude",): 1}
    assert collector.counts().attempt_failures == {("openai", "overloaded"): 1}


def test_everything_else() -> None:
    """Refusals, cooldowns, waits, health and warnings have labels from a fixed set."""
    collector = told(
        CallRefused(request_id="r", protocol="gemini", status=401, kind="authentication", error="Unauthenticated"),
        CredentialCooled(provider="openai", credential="f", seconds=3, asked=True, kind="rate_limit"),
        CredentialRecovered(provider="openai", credential="f"),
        QueueLeft(call=1, provider="", seconds=0.02, admitted=True),
        TargetStateChanged(provider="claude", healthy=True, reason=""),
        TargetStateChanged(provider="claude", healthy=False, reason="no answer"),
        finished(warnings=("dropped:top_k", "dropped:seed", "emulated:stop", "x y z")),
    )
    counts = collector.counts()
    assert counts.refused == {("authentication",): 1}
    assert counts.cooldowns == {("openai", "rate_limit"): 1}
    assert sum(counts.queue_seconds["none",][:-1]) == 1
    assert counts.losses == {("dropped",): 2, ("emulated",): 1, ("other",): 1}
    assert collector.gauges().healthy == {("claude",): 0.0}


def test_what_rests_now_is_asked_when_it_is_shown() -> None:
    """The gauge of resting credentials is the present state, by provider."""
    resting = ["openai", "openai", "gone"]
    collector = Collector(NAMES, cooling=lambda: resting)
    assert collector.gauges().cooling == {("openai",): 2, ("other",): 1}
    resting.clear()
    assert collector.gauges().cooling == {}


def test_a_new_configuration_brings_new_names() -> None:
    """After a reload its names stand in labels, and what was counted before stays."""
    collector = told(finished(model="next"))
    collector.rename(Names(providers=frozenset({"openai"}), models=frozenset({"next"})))
    collector.notice(finished(model="next"))
    assert {model for _, _, model, _ in collector.counts().calls} == {"other", "next"}
