"""Render the metrics for Prometheus.

The extra `prometheus` installs the library, which is imported when a page is created.
`METRICS` is the only table of the metrics: name, kind, meaning, labels. docs/telemetry.md lists the same.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from llmproxy_asgi.errors import ConfigError, MisuseError
from llmproxy_asgi.telemetry.collector import FAST_BUCKETS, QUEUE_BUCKETS, SLOW_BUCKETS, Counts, Gauges, Labels

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

MISSING = "needs prometheus-client: pip install 'llmproxy-asgi[prometheus]'"

Snapshot = Callable[[], tuple[Counts, Gauges]]
Rows = Mapping[Labels, float | list[float]]
"""Values by labels: numbers, or rows of a histogram."""


def _unlabelled(value: float) -> Rows:
    """Return the row of a metric without labels."""
    return {(): value}


class Metric(msgspec.Struct, frozen=True):
    """One metric.

    Args:
        name: The name, without the suffixes of a histogram's series.
        kind: The kind of the metric.
        meaning: The meaning, in one sentence.
        labels: The names of the labels.
        rows: Returns the values by labels: numbers, or rows of a histogram.
        bounds: The histogram's upper bounds, in seconds.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...]
    rows: Callable[[Counts, Gauges], Rows]
    bounds: tuple[float, ...] = ()


METRICS = (
    Metric(
        "llmproxy_calls_total",
        "counter",
        "Calls that ended, by the caller's protocol, who answered, the model asked for and how it ended.",
        ("protocol", "provider", "model", "outcome"),
        lambda counts, _: counts.calls,
    ),
    Metric(
        "llmproxy_refused_total",
        "counter",
        "Requests refused before any upstream was asked, by reason.",
        ("kind",),
        lambda counts, _: counts.refused,
    ),
    Metric(
        "llmproxy_token_counts_total",
        "counter",
        "Counts of a request's tokens that callers asked for, by the caller's protocol, whose model and how it ended.",
        ("protocol", "provider", "outcome"),
        lambda counts, _: counts.token_counts,
    ),
    Metric(
        "llmproxy_call_failures_total",
        "counter",
        "Calls that failed or broke off, by who is to blame and reason.",
        ("provider", "kind"),
        lambda counts, _: counts.failures,
    ),
    Metric(
        "llmproxy_attempts_total",
        "counter",
        "Requests sent to upstreams, retries and failovers included.",
        ("provider",),
        lambda counts, _: counts.attempts,
    ),
    Metric(
        "llmproxy_attempt_failures_total",
        "counter",
        "Requests to upstreams that failed before anything was shown to a caller, by reason.",
        ("provider", "kind"),
        lambda counts, _: counts.attempt_failures,
    ),
    Metric(
        "llmproxy_tokens_total",
        "counter",
        "Tokens as upstreams report them; cache kinds are part of input, reasoning is part of output.",
        ("provider", "model", "kind"),
        lambda counts, _: counts.tokens,
    ),
    Metric(
        "llmproxy_usage_total",
        "counter",
        "Calls that an upstream began to answer, by whether their tokens are exact, estimated or unknown.",
        ("exactness",),
        lambda counts, _: counts.metered,
    ),
    Metric(
        "llmproxy_warnings_total",
        "counter",
        "What was lost or approximated on the way to an upstream, by what was done.",
        ("kind",),
        lambda counts, _: counts.losses,
    ),
    Metric(
        "llmproxy_cooldowns_total",
        "counter",
        "How often a credential began to rest, by reason.",
        ("provider", "kind"),
        lambda counts, _: counts.cooldowns,
    ),
    Metric(
        "llmproxy_first_event_seconds",
        "histogram",
        "From a call's start to the first event of its answer, or to the whole of it where no stream was wanted.",
        ("provider", "model"),
        lambda counts, _: counts.first_event_seconds,
        FAST_BUCKETS,
    ),
    Metric(
        "llmproxy_call_seconds",
        "histogram",
        "From a call's start to its end.",
        ("provider", "model"),
        lambda counts, _: counts.call_seconds,
        SLOW_BUCKETS,
    ),
    Metric(
        "llmproxy_queue_seconds",
        "histogram",
        "How long calls waited in a queue, by the provider whose limit it was; none: the caller's own.",
        ("provider",),
        lambda counts, _: counts.queue_seconds,
        QUEUE_BUCKETS,
    ),
    Metric(
        "llmproxy_open_calls",
        "gauge",
        "Calls under way.",
        (),
        lambda _, gauges: _unlabelled(gauges.open_calls),
    ),
    Metric(
        "llmproxy_open_streams",
        "gauge",
        "Of the calls under way, those whose answer is streamed.",
        (),
        lambda _, gauges: _unlabelled(gauges.open_streams),
    ),
    Metric(
        "llmproxy_cooling_credentials",
        "gauge",
        "What cools down now: models by credential, and whole credentials and upstreams.",
        ("provider",),
        lambda _, gauges: gauges.cooling,
    ),
    Metric(
        "llmproxy_degraded_models",
        "gauge",
        "1 for each configured name of a model that no upstream can serve now.",
        ("model",),
        lambda _, gauges: gauges.degraded,
    ),
    Metric(
        "llmproxy_upstream_healthy",
        "gauge",
        "1 while an upstream's health check succeeds, 0 while it fails; absent where none is configured.",
        ("provider",),
        lambda _, gauges: gauges.healthy,
    ),
    Metric(
        "llmproxy_event_loop_lag_seconds",
        "gauge",
        "How late the event loop was at worst in the last half minute to minute; 0 without calls.",
        (),
        lambda _, gauges: _unlabelled(gauges.lag),
    ),
)
"""All metrics, in the order of the page."""


class GatewayCollector:
    """A collector for prometheus-client; it may be registered on any of its registries.

    Args:
        snapshot: Returns the current counts and gauges.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> "list[Family]":
        """Return nothing, so that registering does not collect."""
        return []

    def collect(self) -> "Iterator[Family]":
        """Yield every metric with its values."""
        counts, gauges = self._snapshot()
        for metric in METRICS:
            yield _family(metric, metric.rows(counts, gauges))


class Page:
    """The text of `/metrics`, with a separate registry.

    Args:
        collector: The collector of the metrics.

    Raises:
        MisuseError: prometheus-client is not installed.
    """

    def __init__(self, collector: GatewayCollector) -> None:
        try:
            from prometheus_client import CollectorRegistry
        except ImportError:
            raise MisuseError(f"The page of metrics {MISSING}") from None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)

    def render(self) -> tuple[bytes, bytes]:
        """Render the page: its media type and its text."""
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return CONTENT_TYPE_PLAIN_0_0_4.encode(), generate_latest(self._registry)


def check_installed() -> None:
    """Check that prometheus-client is installed.

    Raises:
        ConfigError: prometheus-client is not installed.
    """
    from importlib.util import find_spec

    if find_spec("prometheus_client") is None:
        raise ConfigError([f"endpoints.metrics: {MISSING}"])


def _family(metric: Metric, rows: Rows) -> "Family":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, row in _sorted(rows):
            assert isinstance(row, list)
            histogram.add_metric(labels, buckets=_cumulative(metric.bounds, row[:-1]), sum_value=row[-1])
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in _sorted(rows):
        assert not isinstance(value, list)
        family.add_metric(labels, value)
    return family


def _sorted(rows: Rows) -> list[tuple[Labels, float | list[float]]]:
    return [(labels, rows[labels]) for labels in sorted(rows)]


def _cumulative(bounds: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    """Return cumulative buckets, as Prometheus defines them."""
    total = 0.0
    buckets = []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
