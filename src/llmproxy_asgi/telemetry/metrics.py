"""The metrics of one gateway: count facts, share the counts with other workers, and render the page.

This module joins the collector, the loop monitor, the snapshot directory and the page; it holds no numbers.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from llmproxy_asgi.facts import AnyFact
from llmproxy_asgi.telemetry.collector import Collector, Counts, Gauges, Names
from llmproxy_asgi.telemetry.loop_monitor import EventLoopMonitor
from llmproxy_asgi.telemetry.multiprocess import SnapshotDirectory, merge
from llmproxy_asgi.telemetry.prometheus import GatewayCollector, Page

SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names the directory in which workers share their metrics."""


class Metrics:
    """Count facts, and show the counts.

    Args:
        names: The names that may stand in labels.
        cooling: Lists the providers of current cooldowns, one entry for each model by a credential, credential or
            upstream.
        degraded: Lists the names of models that no target can serve now.
        directory: Where workers share their metrics; None: there is one worker.
    """

    def __init__(
        self,
        names: Names,
        *,
        cooling: Callable[[], Iterable[str]],
        degraded: Callable[[], Iterable[str]] = tuple,
        directory: Path | None,
    ) -> None:
        self._snapshots = SnapshotDirectory(directory, _gateway_name(names)) if directory is not None else None
        self._monitor = EventLoopMonitor(on_tick=self._share if self._snapshots is not None else None)
        self._collector = Collector(names, cooling=cooling, degraded=degraded, lag=self._monitor.lag)
        self._page: Page | None = None
        self.collector = GatewayCollector(self._snapshot)
        """For prometheus-client's registries."""

    def notice(self, fact: AnyFact) -> None:
        """Count a fact."""
        self._collector.notice(fact)
        self._monitor.notice(fact)

    def rename(self, names: Names) -> None:
        """Allow other names in labels from now on."""
        self._collector.rename(names)
        if self._snapshots is not None:
            self._snapshots.rename(_gateway_name(names))

    def page(self) -> tuple[bytes, bytes]:
        """Render the page: its media type and its text.

        Raises:
            MisuseError: prometheus-client is not installed.
        """
        if self._page is None:
            self._page = Page(self.collector)
        return self._page.render()

    def stop(self) -> None:
        """Stop the timer; the next call starts it again."""
        self._monitor.stop()

    def _snapshot(self) -> tuple[Counts, Gauges]:
        counts, gauges = self._collector.counts(), self._collector.gauges()
        if self._snapshots is None:
            return counts, gauges
        self._snapshots.write(counts, gauges)
        return merge(counts, gauges, self._snapshots.others())

    def _share(self) -> None:
        assert self._snapshots is not None, "it is called only where there is a directory"
        self._snapshots.write(self._collector.counts(), self._collector.gauges())


def shared_directory() -> Path | None:
    """Return the directory that the environment names now."""
    path = os.environ.get(SHARED_DIRECTORY)
    return Path(path) if path else None


def _gateway_name(names: Names) -> str:
    """Derive a gateway's name, the same in all its workers, from what it serves."""
    served = [*sorted(names.providers), "", *sorted(names.models), "", *(pattern for pattern, _ in names.patterns)]
    return hashlib.blake2s("\n".join(served).encode(), digest_size=6).hexdigest()
