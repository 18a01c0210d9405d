"""Counts facts, in this process and in plain Python, under labels that no caller can make more of.

What stands in a label is the name of a provider or of a model that the configuration holds (a pattern counts as one
name, the pattern itself), or a word of ours. Every other name is `other`. So the number of series follows from the
configuration alone, whatever is sent.

It knows no metrics library (`prometheus` shows what is counted here), and nothing here waits.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from llmproxy_asgi.conversation import Usage
from llmproxy_asgi.errors import ErrorKind
from llmproxy_asgi.facts import (
    AnyFact,
    AttemptBegan,
    AttemptFailed,
    CallFinished,
    CallRefused,
    CallStarted,
    CredentialCooled,
    QueueLeft,
    TargetStateChanged,
    TokensCounted,
)

OTHER = "other"
"""Stands for every name that the configuration does not hold."""

NOBODY = "none"
"""Stands for the provider where none was asked, or none is known."""

FAST_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds: upper bounds for times to a first event."""
SLOW_BUCKETS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
"""Seconds: upper bounds for whole calls."""
QUEUE_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds: upper bounds for waits for a turn."""

_KINDS = frozenset(kind.value for kind in ErrorKind)
_LOSSES = frozenset({"dropped", "clamped", "downgraded", "emulated", "moved", "estimated"})
_REMEMBERED = 1024

Labels = tuple[str, ...]
Matches = Callable[[str], bool]


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """The names that may stand in labels."""

    providers: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    """As clients call them."""
    patterns: tuple[tuple[str, Matches], ...] = ()
    """Each with what tells whether a name matches it."""


class Histogram:
    """How many values were at most so large, their sum and their number, by labels.

    Args:
        bounds: Upper bounds, rising; one more bucket holds what is larger.
    """

    __slots__ = ("bounds", "rows")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.rows: dict[Labels, list[float]] = {}
        """For each bucket how many fell into it alone, and at the end their sum."""

    def add(self, labels: Labels, value: float) -> None:
        """One more value."""
        row = self.rows.get(labels)
        if row is None:
            row = self.rows[labels] = [0.0] * (len(self.bounds) + 2)
        row[bisect_left(self.bounds, value)] += 1
        row[-1] += value


class Counts(msgspec.Struct, kw_only=True):
    """Everything that only grows; what several workers' pages are added up from."""

    calls: dict[Labels, float]
    """By protocol, provider, model, outcome."""
    refused: dict[Labels, float]
    """By kind."""
    asked: dict[Labels, float]
    """Counts of tokens, by protocol, provider and outcome."""
    failures: dict[Labels, float]
    """Calls that failed or broke, by provider and kind."""
    attempts: dict[Labels, float]
    """By provider."""
    attempt_failures: dict[Labels, float]
    """By provider and kind."""
    tokens: dict[Labels, float]
    """By provider, model and kind of token."""
    counted: dict[Labels, float]
    """Calls that an upstream answered, by whether their tokens are exact, estimated or unknown."""
    cooldowns: dict[Labels, float]
    """By provider and kind."""
    losses: dict[Labels, float]
    """Warnings, by what was done to a request."""
    first: dict[Labels, list[float]]
    """Rows of a histogram, by provider and model."""
    whole: dict[Labels, list[float]]
    queue: dict[Labels, list[float]]
    """By provider; `none`: the caller's own limit."""


class Gauges(msgspec.Struct, kw_only=True):
    """Everything that goes up and down."""

    open_calls: float
    open_streams: float
    cooling: dict[Labels, float]
    """What cools down, by provider."""
    degraded: dict[Labels, float]
    """1, by the name of a model that no target can serve now."""
    healthy: dict[Labels, float]
    """1 or 0, by provider; only those that are probed."""
    lag: float
    """Seconds that the event loop was late at worst, lately."""


class Collector:
    """Counts what it is told. Read it from any thread.

    Args:
        names: What may stand in labels; asked again by whoever changes the configuration (`rename`).
        cooling: Lists the providers of what cools down now, one entry for each model by a credential, credential or
            upstream.
        degraded: Lists the names of models that no target can serve now.
        lag: How late the event loop was at worst lately, in seconds.
    """

    def __init__(
        self,
        names: Names,
        *,
        cooling: Callable[[], Iterable[str]] = tuple,
        degraded: Callable[[], Iterable[str]] = tuple,
        lag: Callable[[], float] = float,
    ) -> None:
        self._names = names
        self._cooling = cooling
        self._degraded = degraded
        self._lag = lag
        self._labels: dict[str, str] = {}
        self._open: dict[int, bool] = {}
        self._healthy: dict[str, bool] = {}
        self._calls: Counter[Labels] = Counter()
        self._refused: Counter[Labels] = Counter()
        self._asked: Counter[Labels] = Counter()
        self._failures: Counter[Labels] = Counter()
        self._attempts: Counter[Labels] = Counter()
        self._attempt_failures: Counter[Labels] = Counter()
        self._tokens: Counter[Labels] = Counter()
        self._counted: Counter[Labels] = Counter()
        self._cooldowns: Counter[Labels] = Counter()
        self._losses: Counter[Labels] = Counter()
        self._first = Histogram(FAST_BUCKETS)
        self._whole = Histogram(SLOW_BUCKETS)
        self._queue = Histogram(QUEUE_BUCKETS)
        self._counting: Mapping[type, Callable[[Any], None]] = {
            CallStarted: self._started,
            CallRefused: self._refuse,
            QueueLeft: self._waited,
            AttemptBegan: self._began,
            AttemptFailed: self._failed,
            CallFinished: self._finished,
            TokensCounted: self._ask,
            CredentialCooled: self._cooled,
            TargetStateChanged: self._changed,
        }

    def rename(self, names: Names) -> None:
        """Other names from now on; what was counted under the old ones stays."""
        self._names, self._labels = names, {}

    def notice(self, fact: AnyFact) -> None:
        """Count it."""
        count = self._counting.get(type(fact))
        if count is not None:
            count(fact)

    def _started(self, fact: CallStarted) -> None:
        self._open[fact.call] = fact.stream

    def _refuse(self, fact: CallRefused) -> None:
        self._refused[(_kind(fact.kind),)] += 1

    def _ask(self, fact: TokensCounted) -> None:
        self._asked[(fact.protocol, self._provider(fact.provider), fact.outcome)] += 1

    def _waited(self, fact: QueueLeft) -> None:
        self._queue.add((self._provider(fact.provider),), fact.seconds)

    def _began(self, fact: AttemptBegan) -> None:
        self._attempts[(self._provider(fact.provider),)] += 1

    def _failed(self, fact: AttemptFailed) -> None:
        self._attempt_failures[(self._provider(fact.provider), _kind(fact.kind))] += 1

    def _cooled(self, fact: CredentialCooled) -> None:
        self._cooldowns[(self._provider(fact.provider), _kind(fact.kind))] += 1

    def _changed(self, fact: TargetStateChanged) -> None:
        self._healthy[self._provider(fact.provider)] = fact.healthy

    def _finished(self, fact: CallFinished) -> None:
        self._open.pop(fact.call, None)
        provider, model = self._provider(fact.provider), self._model(fact.model)
        where = (provider, model)
        self._calls[(fact.protocol, provider, model, fact.outcome)] += 1
        if fact.kind:
            self._failures[(provider, _kind(fact.kind))] += 1
        if fact.first_seconds is not None:
            self._first.add(where, fact.first_seconds)
            self._counted[(fact.exactness,)] += 1
        self._whole.add(where, fact.seconds)
        if fact.usage is not None:
            self._spent(where, fact.usage)
        for warning in fact.warnings:
            word = warning.partition(":")[0]
            self._losses[(word if word in _LOSSES else OTHER,)] += 1

    def _spent(self, where: Labels, usage: Usage) -> None:
        tokens = self._tokens
        for kind, count in (
            ("input", usage.input),
            ("output", usage.output),
            ("cache_read", usage.cache_read),
            ("cache_write", usage.cache_write),
            ("reasoning", usage.reasoning),
        ):
            if count:
                tokens[(*where, kind)] += count

    def counts(self) -> Counts:
        """Everything counted, as it is now."""
        return Counts(
            calls=dict(self._calls),
            refused=dict(self._refused),
            asked=dict(self._asked),
            failures=dict(self._failures),
            attempts=dict(self._attempts),
            attempt_failures=dict(self._attempt_failures),
            tokens=dict(self._tokens),
            counted=dict(self._counted),
            cooldowns=dict(self._cooldowns),
            losses=dict(self._losses),
            first=_copied(self._first),
            whole=_copied(self._whole),
            queue=_copied(self._queue),
        )

    def gauges(self) -> Gauges:
        """Everything that goes up and down, as it is now."""
        streams = list(self._open.values())
        cooling: Counter[Labels] = Counter((self._provider(name),) for name in self._cooling())
        return Gauges(
            open_calls=len(streams),
            open_streams=sum(streams),
            cooling={where: float(count) for where, count in cooling.items()},
            degraded={(name,): 1.0 for name in self._degraded()},
            healthy={(name,): float(healthy) for name, healthy in list(self._healthy.items())},
            lag=self._lag(),
        )

    def _provider(self, name: str) -> str:
        return name if name in self._names.providers else OTHER if name else NOBODY

    def _model(self, name: str) -> str:
        """The label of a name that a caller used; what is remembered of callers' text is bounded."""
        if name in self._names.models:
            return name
        label = self._labels.get(name)
        if label is None:
            label = self._matching(name)
            if len(self._labels) < _REMEMBERED and len(name) < _REMEMBERED:
                self._labels[name] = label
        return label

    def _matching(self, name: str) -> str:
        names = self._names
        provider, slash, model = name.partition("/")
        if slash and provider in names.providers:
            name = model
            if name in names.models:
                return name
        return next((pattern for pattern, matches in names.patterns if matches(name)), OTHER)


def _kind(kind: str) -> str:
    return kind if kind in _KINDS else OTHER


def _copied(histogram: Histogram) -> dict[Labels, list[float]]:
    return {labels: list(row) for labels, row in list(histogram.rows.items())}
