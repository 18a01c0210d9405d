"""In which order one call tries the targets of its model.

`failover`: as written. `weighted`: drawn by weight. `round_robin`: one further each call. `least_latency`: the quickest
to a first event lately, with a look at the others now and then. A strategy orders, it never leaves a target out: what
rests or is full is passed over later.
"""

import math
import random
from collections.abc import Sequence

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.routing.catalog import Choice, Rank

LOOK_AGAIN = 30.0
"""Seconds after which a target that was not asked is asked once more, to see whether it has become quicker."""
_NEW = 0.3
"""The share of a new measurement in what is known."""


class Latencies:
    """How long targets took to their first event lately, by their names.

    Args:
        clock: Tells when somebody was last asked.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._known: dict[str, float] = {}
        self._asked: dict[str, float] = {}

    def record(self, target: str, seconds: float) -> None:
        """A target began to answer after so long. It counts where somebody orders by it."""
        if target not in self._asked:
            return  # of others nothing is remembered: their names may be callers' text
        known = self._known.get(target)
        self._known[target] = seconds if known is None else known + _NEW * (seconds - known)

    def of(self, target: str) -> float:
        """What is to be expected of a target, in seconds; 0 for one that has never answered."""
        return self._known.get(target, 0.0)

    def is_due(self, target: str) -> bool:
        """Whether it is time to see how a target does now."""
        return self._clock.monotonic() - self._asked.get(target, -math.inf) >= LOOK_AGAIN

    def asking(self, target: str) -> None:
        """A target is being asked now; nobody else need look."""
        self._asked[target] = self._clock.monotonic()


class Strategies:
    """Orders the targets of a choice; what it must remember between calls lives as long as it does.

    Args:
        latencies: What is known of the targets' speed.
        draw: Where chance comes from.
    """

    def __init__(self, latencies: Latencies, *, draw: random.Random | None = None) -> None:
        self._latencies = latencies
        self._draw = draw or random.Random()  # noqa: S311  spreads load, guards nothing
        self._turns: dict[str, int] = {}

    def order(self, choice: Choice) -> Sequence[Target]:
        """The targets in the order in which this call tries them."""
        if choice.fixed:
            return choice.targets
        return [target for rank in choice.ranks for target in self._rank(choice.name, rank)]

    def _rank(self, name: str, rank: Rank) -> Sequence[Target]:
        if rank.strategy == "weighted":
            return self._drawn(rank)
        if rank.strategy == "round_robin":
            # Only names of the configuration come here, so what is remembered is bounded.
            turn = self._turns[name] = self._turns.get(name, -1) + 1
            start = turn % len(rank.targets)
            return (*rank.targets[start:], *rank.targets[:start])
        if rank.strategy == "least_latency":
            return self._quickest(rank)
        return rank.targets

    def _drawn(self, rank: Rank) -> Sequence[Target]:
        """Each place goes to one of those left with a chance by its weight (Efraimidis and Spirakis, 2006)."""

        def key(entry: tuple[Target, float]) -> float:
            return -math.log(1.0 - self._draw.random()) / entry[1] if entry[1] > 0 else math.inf

        return [target for target, _ in sorted(zip(rank.targets, rank.weights, strict=True), key=key)]

    def _quickest(self, rank: Rank) -> Sequence[Target]:
        latencies = self._latencies
        due = next((target for target in rank.targets if latencies.is_due(target.name)), None)
        ordered = sorted(rank.targets, key=lambda target: latencies.of(target.name))
        first = due or ordered[0]
        latencies.asking(first.name)
        return [first, *(target for target in ordered if target is not first)]
