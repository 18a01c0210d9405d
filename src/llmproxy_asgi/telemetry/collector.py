"""Count facts in this process, under labels whose number callers cannot increase.

A label is the name of a provider or of a model in the configuration (a pattern counts as one name, the pattern itself),
or one of a fixed set. Every other name is `other`. So only the configuration determines the number of series.

The module uses no metrics library (`prometheus` renders the counts), and nothing here waits.
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
"""The label of all names that are not in the configuration."""

NO_PROVIDER = "none"
"""The label of the provider if none was called, or none is known."""

FAST_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds: upper bounds for times to a first event."""
SLOW_BUCKETS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0)
"""Seconds: upper bounds for whole calls."""
QUEUE_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Seconds: upper bounds for waits in a queue."""

_KINDS = frozenset(kind.value for kind in ErrorKind)
_LOSSES = frozenset({"dropped", "clamped", "downgraded", "emulated", "moved", "estimated"})
_REMEMBERED = 1024

Labels = tuple[str, ...]
Matches = Callable[[str], bool]


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """The names that labels may contain."""

    providers: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    """The names that clients use."""
    patterns: tuple[tuple[str, Matches], ...] = ()
    """Each pattern with a function that returns whether a name matches it."""


class Histogram:
    """A histogram by labels.

    Args:
        bounds: Ascending upper bounds; one more bucket holds larger values.
    """

    __slots__ = ("bounds", "rows")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.rows: dict[Labels, list[float]] = {}
        """The number of values in each bucket (not cumulative), followed by their sum."""

    def add(self, labels: Labels, value: float) -> None:
        """Add a value."""
        row = self.rows.get(labels)
        if row is None:
            row = self.rows[labels] = [0.0] * (len(self.bounds) + 2)
        row[bisect_left(self.bounds, value)] += 1
        row[-1] += value


class Counts(msgspec.Struct, kw_only=True):
    """All counters and histograms; those of several workers are added up."""

    calls: dict[Labels, float]
    """By protocol, provider, model, outcome."""
    refused: dict[Labels, float]
    """By kind."""
    token_counts: dict[Labels, float]
    """Counts of tokens, by protocol, provider and outcome."""
    failures: dict[Labels, float]
    """Failed and interrupted calls, by provider and kind."""
    attempts: dict[Labels, float]
    """By provider."""
    attempt_failures: dict[Labels, float]
    """By provider and kind."""
    tokens: dict[Labels, float]
    """By provider, model and kind of token."""
    metered: dict[Labels, float]
    """Calls answered by an upstream, by whether their tokens are exact, estimated or unknown."""
    cooldowns: dict[Labels, float]
    """By provider and kind."""
    losses: dict[Labels, float]
    """Warnings, by the kind of change to a request."""
    first_event_seconds: dict[Labels, list[float]]
    """Rows of a histogram, by provider and model."""
    call_seconds: dict[Labels, list[float]]
    queue_seconds: dict[Labels, list[float]]
    """By provider; `none`: the caller's own limit."""


class Gauges(msgspec.Struct, kw_only=True):
    """All gauges."""

    open_calls: float
    open_streams: float
    cooling: dict[Labels, float]
    """The number of current cooldowns, by provider."""
    degraded: dict[Labels, float]
    """1, by the name of a model that no target can serve now."""
    healthy: dict[Labels, float]
    """1 or 0, by provider; only those with health checks."""
    lag: float
    """The worst recent lag of the event loop, in seconds."""


class Collector:
    """An observer that counts facts. It may be read from any thread.

    Args:
        names: The names that labels may contain; a reload changes them with `rename`.
        cooling: Lists the providers of current cooldowns, one entry for each model by a credential, credential or
            upstream.
        degraded: Lists the names of models that no target can serve now.
        lag: Returns the worst recent lag of the event loop, in seconds.
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
        self._token_counts: Counter[Labels] = Counter()
        self._failures: Counter[Labels] = Counter()
        self._attempts: Counter[Labels] = Counter()
        self._attempt_failures: Counter[Labels] = Counter()
        self._tokens: Counter[Labels] = Counter()
        self._metered: Counter[Labels] = Counter()
        self._cooldowns: Counter[Labels] = Counter()
        self._losses: Counter[Labels] = Counter()
        self._first_event_seconds = Histogram(FAST_BUCKETS)
        self._call_seconds = Histogram(SLOW_BUCKETS)
        self._queue_seconds = Histogram(QUEUE_BUCKETS)
        self._counting: Mapping[type, Callable[[Any], None]] = {
            CallStarted: self._started,
            CallRefused: self._refuse,
            QueueLeft: self._waited,
            AttemptBegan: self._began,
            AttemptFailed: self._failed,
            CallFinished: self._finished,
            TokensCounted: self._count_tokens,
            CredentialCooled: self._cooled,
            TargetStateChanged: self._changed,
        }

    def rename(self, names: Names) -> None:
        """Allow other names in labels from now on; counts under the old ones stay."""
        self._names, self._labels = names, {}

    def notice(self, fact: AnyFact) -> None:
        """Count a fact."""
        count = self._counting.get(type(fact))
        if count is not None:
            count(fact)

    def _started(self, fact: CallStarted) -> None:
        self._open[fact.call] = fact.stream

    def _refuse(self, fact: CallRefused) -> None:
        self._refused[(_kind(fact.kind),)] += 1

    def _count_tokens(self, fact: TokensCounted) -> None:
        self._token_counts[(fact.protocol, self._provider(fact.provider), fact.outcome)] += 1

    def _waited(self, fact: QueueLeft) -> None:
        self._queue_seconds.add((self._provider(fact.provider),), fact.seconds)

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
        labels = (provider, model)
        self._calls[(fact.protocol, provider, model, fact.outcome)] += 1
        if fact.kind:
            self._failures[(provider, _kind(fact.kind))] += 1
        if fact.first_seconds is not None:
            self._first_event_seconds.add(labels, fact.first_seconds)
            self._metered[(fact.exactness,)] += 1
        self._call_seconds.add(labels, fact.seconds)
        if fact.usage is not None:
            self._add_usage(labels, fact.usage)
        for warning in fact.warnings:
            kind = warning.partition(":")[0]
            self._losses[(kind if kind in _LOSSES else OTHER,)] += 1

    def _add_usage(self, labels: Labels, usage: Usage) -> None:
        tokens = self._tokens
        for kind, count in (
            ("input", usage.input),
            ("output", usage.output),
            ("cache_read", usage.cache_read),
            ("cache_write", usage.cache_write),
            ("reasoning", usage.reasoning),
        ):
            if count:
                tokens[(*labels, kind)] += count

    def counts(self) -> Counts:
        """Return the current counters and histograms."""
        return Counts(
            calls=dict(self._calls),
            refused=dict(self._refused),
            token_counts=dict(self._token_counts),
            failures=dict(self._failures),
            attempts=dict(self._attempts),
            attempt_failures=dict(self._attempt_failures),
            tokens=dict(self._tokens),
            metered=dict(self._metered),
            cooldowns=dict(self._cooldowns),
            losses=dict(self._losses),
            first_event_seconds=_copy(self._first_event_seconds),
            call_seconds=_copy(self._call_seconds),
            queue_seconds=_copy(self._queue_seconds),
        )

    def gauges(self) -> Gauges:
        """Return the current gauges."""
        streams = list(self._open.values())
        cooling: Counter[Labels] = Counter((self._provider(name),) for name in self._cooling())
        return Gauges(
            open_calls=len(streams),
            open_streams=sum(streams),
            cooling={labels: float(count) for labels, count in cooling.items()},
            degraded={(name,): 1.0 for name in self._degraded()},
            healthy={(name,): float(healthy) for name, healthy in list(self._healthy.items())},
            lag=self._lag(),
        )

    def _provider(self, name: str) -> str:
        return name if name in self._names.providers else OTHER if name else NO_PROVIDER

    def _model(self, name: str) -> str:
        """Return the label of a name that a caller used; the cache of callers' names is bounded."""
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


def _copy(histogram: Histogram) -> dict[Labels, list[float]]:
    return {labels: list(row) for labels, row in list(histogram.rows.items())}
