"""The metrics of one gateway: what is counted, by what timer, shared with which workers, shown how.

It puts the pieces of this room together and has no numbers of its own.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from llmproxy_asgi.facts import AnyFact
from llmproxy_asgi.telemetry.collector import Collector, Counts, Gauges, Names
from llmproxy_asgi.telemetry.loop_monitor import EventLoopMonitor
from llmproxy_asgi.telemetry.prometheus import GatewayCollector, Page
from llmproxy_asgi.telemetry.sharing import Shelf, added

SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names the directory in which several workers' counts meet."""


class Metrics:
    """Counts, and shows what is counted.

    Args:
        names: What may stand in labels.
        cooling: Lists the providers of what cools down now, one entry for each model by a credential, credential or
            upstream.
        degraded: Lists the names of models that no target can serve now.
        directory: Where several workers' counts meet; None: there is one worker.
    """

    def __init__(
        self,
        names: Names,
        *,
        cooling: Callable[[], Iterable[str]],
        degraded: Callable[[], Iterable[str]] = tuple,
        directory: Path | None,
    ) -> None:
        self._shelf = Shelf(directory, _mark(names)) if directory is not None else None
        self._monitor = EventLoopMonitor(on_tick=self._share if self._shelf is not None else None)
        self._counted = Collector(names, cooling=cooling, degraded=degraded, lag=self._monitor.lag)
        self._page: Page | None = None
        self.collector = GatewayCollector(self._snapshot)
        """For prometheus-client's registries."""

    def notice(self, fact: AnyFact) -> None:
        """Count it."""
        self._counted.notice(fact)
        self._monitor.notice(fact)

    def rename(self, names: Names) -> None:
        """Other names stand in labels from now on."""
        self._counted.rename(names)
        if self._shelf is not None:
            self._shelf.move(_mark(names))

    def page(self) -> tuple[bytes, bytes]:
        """The media type and the text of the page.

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
        counts, gauges = self._counted.counts(), self._counted.gauges()
        if self._shelf is None:
            return counts, gauges
        self._shelf.put(counts, gauges)
        return added(counts, gauges, self._shelf.others())

    def _share(self) -> None:
        assert self._shelf is not None, "it is called only where there is one"
        self._shelf.put(self._counted.counts(), self._counted.gauges())


def shared_directory() -> Path | None:
    """What the environment says now."""
    given = os.environ.get(SHARED_DIRECTORY)
    return Path(given) if given else None


def _mark(names: Names) -> str:
    """Names a gateway in all its workers alike, by what it serves."""
    said = [*sorted(names.providers), "", *sorted(names.models), "", *(pattern for pattern, _ in names.patterns)]
    return hashlib.blake2s("\n".join(said).encode(), digest_size=6).hexdigest()
