"""In which order one call tries its targets."""

import random
from collections import Counter
from typing import Any

import pytest

from llmproxy_asgi.config.schema import Config
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.routing.catalog import Catalog
from llmproxy_asgi.routing.strategies import PROBE_INTERVAL, Latencies, Strategies
from support.clock import FakeClock

THREE = ["a/m", "b/m", "c/m"]


def catalog(models: dict[str, Any], **blocks: dict[str, Any]) -> Catalog:
    """A catalog over the providers a, b and c."""
    whole = {
        name: {"type": "openai-compatible", "base_url": "http://127.0.0.1:1/v1", **blocks.get(name, {})}
        for name in ("a", "b", "c")
    }
    config = Config.model_validate({"providers": whole, "models": models})
    made = {name: provider_class(block.type)(name, block) for name, block in config.providers.items()}
    return Catalog(made, config.models)


class Calls:
    """Calls for one name, one after the other."""

    def __init__(self, made: Catalog, name: str = "m") -> None:
        self.clock = FakeClock()
        self.latencies = Latencies(self.clock)
        self._strategies = Strategies(self.latencies, draw=random.Random(11))
        self._choice = made.resolve(name)

    def next(self) -> list[str]:
        return [target.name for target in self._strategies.order(self._choice)]


def route(strategy: str, *targets: Any) -> dict[str, Any]:
    return {"m": {"targets": list(targets) or THREE, "strategy": strategy}}


def test_failover_is_as_written() -> None:
    """Every call begins with the first."""
    calls = Calls(catalog(route("failover")))
    assert [calls.next() for _ in range(3)] == [THREE] * 3


def test_round_robin_goes_one_further_each_call() -> None:
    """And the others follow in their order."""
    calls = Calls(catalog(route("round_robin")))
    assert [calls.next()[0] for _ in range(6)] == [*THREE, *THREE]
    assert calls.next() == THREE
    assert calls.next() == ["b/m", "c/m", "a/m"]


def test_weights_are_shares() -> None:
    """Of many calls each target gets its part, and every call has all targets."""
    calls = Calls(catalog(route("weighted", {"target": "a/m", "weight": 6}, {"target": "b/m", "weight": 3}, "c/m")))
    orders = [calls.next() for _ in range(10_000)]
    firsts = Counter(order[0] for order in orders)
    assert all(sorted(order) == THREE for order in orders)
    assert [firsts[name] / 1_000 for name in THREE] == pytest.approx([6, 3, 1], abs=0.2)


def test_a_weight_of_nothing_serves_only_when_no_other_does() -> None:
    """It is always last."""
    calls = Calls(catalog(route("weighted", {"target": "a/m", "weight": 0}, "b/m", "c/m")))
    assert {calls.next()[-1] for _ in range(200)} == {"a/m"}


def test_a_target_has_its_providers_weight_unless_it_says_one() -> None:
    """The nearer word counts."""
    calls = Calls(catalog(route("weighted", "a/m", {"target": "b/m", "weight": 0}), a={"weight": 0}, b={"weight": 9}))
    assert {tuple(calls.next()) for _ in range(50)} == {("a/m", "b/m")}


def test_the_quickest_goes_first_once_all_are_known() -> None:
    """Try targets without a measurement first, one call each."""
    calls = Calls(catalog(route("least_latency")))
    seen = []
    for seconds in (0.9, 0.2, 0.5):
        first = calls.next()[0]
        seen.append(first)
        calls.latencies.record(first, seconds)
    assert seen == THREE
    assert calls.next() == ["b/m", "c/m", "a/m"]


def test_latencies_of_targets_without_the_strategy_are_not_kept() -> None:
    """Their names may be whatever callers said, of which there is no end."""
    latencies = Latencies(FakeClock())
    latencies.record("a/whatever-a-caller-said", 0.5)
    assert latencies.expected("a/whatever-a-caller-said") == 0.0
    latencies.called("a/m")
    latencies.record("a/m", 0.5)
    assert latencies.expected("a/m") == 0.5


def test_slow_ones_are_looked_at_again_now_and_then() -> None:
    """By one call; what has become quick is found."""
    calls = Calls(catalog(route("least_latency")))
    for name, seconds in zip(THREE, (0.9, 0.2, 0.5), strict=True):
        calls.next()
        calls.latencies.record(name, seconds)
    calls.clock.at += PROBE_INTERVAL
    assert [calls.next()[0] for _ in range(4)] == ["a/m", "b/m", "c/m", "b/m"]
    for _ in range(20):
        calls.latencies.record("a/m", 0.01)
    assert calls.next()[0] == "a/m"


def test_providers_of_one_priority_share_by_weight_only_if_one_says_a_weight() -> None:
    """Without a word the file's order holds; a higher priority always goes first."""
    said = Calls(catalog({}, a={"weight": 1}, c={"priority": 5}), "any")
    assert {tuple(said.next()) for _ in range(100)} == {
        ("c/any", "a/any", "b/any"),
        ("c/any", "b/any", "a/any"),
    }
    unsaid = Calls(catalog({}, c={"priority": 5}), "any")
    assert {tuple(unsaid.next()) for _ in range(100)} == {("c/any", "a/any", "b/any")}
