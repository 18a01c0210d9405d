"""Strategies: the order in which one call tries the targets of its model.

`failover`: as configured. `weighted`: random by weight. `round_robin`: starting one further in each call.
`least_latency`: the fastest to a first event lately first, with the others probed now and then. A strategy orders and
never removes a target: the executor skips those that cool down or are at their limits.
"""

import math
import random
from collections.abc import Sequence

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.routing.catalog import ResolvedModel, TargetTier

PROBE_INTERVAL = 30.0
"""Seconds after which an unused target is tried again, to measure whether it has become faster."""
_SMOOTHING = 0.3
"""The weight of a new measurement in the moving average."""


class Latencies:
    """Moving averages of the seconds to the first event, by the names of targets.

    Args:
        clock: Measures the time since the last call of a target.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._averages: dict[str, float] = {}
        self._called_at: dict[str, float] = {}

    def record(self, target: str, seconds: float) -> None:
        """Record the seconds to a first event, if a strategy orders this target by latency."""
        if target not in self._called_at:
            return  # others are not recorded, because their names may come from callers
        average = self._averages.get(target)
        self._averages[target] = seconds if average is None else average + _SMOOTHING * (seconds - average)

    def expected(self, target: str) -> float:
        """Return the expected seconds of a target; 0 for one that has never responded."""
        return self._averages.get(target, 0.0)

    def is_due(self, target: str) -> bool:
        """Return whether a target is due to be measured again."""
        return self._clock.monotonic() - self._called_at.get(target, -math.inf) >= PROBE_INTERVAL

    def called(self, target: str) -> None:
        """Record that a call tries this target first, so that no other call measures it now."""
        self._called_at[target] = self._clock.monotonic()


class Strategies:
    """Orders the targets of a model, and holds the state that strategies need between calls.

    Args:
        latencies: The latencies of targets.
        draw: The source of randomness.
    """

    def __init__(self, latencies: Latencies, *, draw: random.Random | None = None) -> None:
        self._latencies = latencies
        self._draw = draw or random.Random()  # noqa: S311  spreads load, guards nothing
        self._starts: dict[str, int] = {}

    def order(self, model: ResolvedModel) -> Sequence[Target]:
        """Return the targets in the order in which this call tries them."""
        if model.is_ordered:
            return model.targets
        return [target for tier in model.tiers for target in self._order(model.name, tier)]

    def _order(self, name: str, tier: TargetTier) -> Sequence[Target]:
        if tier.strategy == "weighted":
            return self._by_weight(tier)
        if tier.strategy == "round_robin":
            # Only configured names have this strategy, so the state is bounded.
            calls = self._starts[name] = self._starts.get(name, -1) + 1
            start = calls % len(tier.targets)
            return (*tier.targets[start:], *tier.targets[:start])
        if tier.strategy == "least_latency":
            return self._by_latency(tier)
        return tier.targets

    def _by_weight(self, tier: TargetTier) -> Sequence[Target]:
        """Draw each position from the targets left, by weight (Efraimidis and Spirakis, 2006)."""

        def key(entry: tuple[Target, float]) -> float:
            return -math.log(1.0 - self._draw.random()) / entry[1] if entry[1] > 0 else math.inf

        return [target for target, _ in sorted(zip(tier.targets, tier.weights, strict=True), key=key)]

    def _by_latency(self, tier: TargetTier) -> Sequence[Target]:
        latencies = self._latencies
        due = next((target for target in tier.targets if latencies.is_due(target.name)), None)
        ordered = sorted(tier.targets, key=lambda target: latencies.expected(target.name))
        first = due or ordered[0]
        latencies.called(first.name)
        return [first, *(target for target in ordered if target is not first)]
