"""Share metrics between worker processes behind one address, through snapshot files in a directory.

The directory is prometheus-client's own (`PROMETHEUS_MULTIPROC_DIR`); the names of our files do not clash with its
files. A worker writes its snapshot at every tick of its loop monitor and before it renders a page, so no counter ever
goes down. Counters of ended workers stay, their gauges do not. What starts the workers must empty the directory first.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from llmproxy_asgi.telemetry.collector import FAST_BUCKETS, QUEUE_BUCKETS, SLOW_BUCKETS, Counts, Gauges

_log = logging.getLogger("llmproxy_asgi.metrics")

BUCKETS = (FAST_BUCKETS, SLOW_BUCKETS, QUEUE_BUCKETS)


class WorkerSnapshot(msgspec.Struct, kw_only=True):
    """The metrics of one worker process."""

    pid: int
    counts: Counts
    gauges: Gauges
    buckets: tuple[tuple[float, ...], ...]
    """Bounds of the histograms in `counts`; those of another version may differ, and cannot be added."""


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(WorkerSnapshot).decode


class SnapshotDirectory:
    """Read and write workers' snapshots in one directory.

    Args:
        directory: Created if it does not exist.
        gateway: The gateway's name, the same in all its workers; snapshots of other gateways are ignored.
    """

    def __init__(self, directory: Path, gateway: str) -> None:
        self._directory = directory
        self._gateway = gateway
        self._own: tuple[int, Path] | None = None
        self._warned = False

    def rename(self, gateway: str) -> None:
        """Use another gateway name from now on, and delete this worker's snapshot under the old one."""
        if gateway != self._gateway:
            if self._own is not None and self._own[0] == os.getpid():
                with contextlib.suppress(OSError):
                    self._own[1].unlink()
            self._gateway, self._own = gateway, None

    def write(self, counts: Counts, gauges: Gauges) -> None:
        """Replace this worker's snapshot."""
        path = self._path()
        draft = path.with_suffix(".part")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(_ENCODE(WorkerSnapshot(pid=os.getpid(), counts=counts, gauges=gauges, buckets=BUCKETS)))
            draft.replace(path)
        except OSError as error:
            self._warn("written", error)

    def others(self) -> Iterator[WorkerSnapshot]:
        """Read the snapshots of all other workers, including those that have ended."""
        own = self._path()
        for path in sorted(self._directory.glob(f"llmproxy_{self._gateway}_*.snapshot")):
            if path != own and (snapshot := self._read(path)) is not None:
                yield snapshot

    def _read(self, path: Path) -> WorkerSnapshot | None:
        try:
            snapshot = _DECODE(path.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            self._warn("read", error)
            return None
        if snapshot.buckets != BUCKETS:
            self._warn("read", "written by another version, with other buckets; empty the directory")
            return None
        return snapshot

    def _path(self) -> Path:
        """Return this process's own path; a forked child gets a new one."""
        pid = os.getpid()
        if self._own is None or self._own[0] != pid:
            name = f"llmproxy_{self._gateway}_{pid}_{secrets.token_hex(4)}.snapshot"
            self._own = pid, self._directory / name
        return self._own[1]

    def _warn(self, action: str, error: Exception | str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("a worker's metrics snapshot cannot be %s: %s", action, error)


def merge(counts: Counts, gauges: Gauges, others: Iterable[WorkerSnapshot]) -> tuple[Counts, Gauges]:
    """Add other workers' snapshots to the given metrics, in place; of ended workers, the counters only."""
    for snapshot in others:
        for name in Counts.__struct_fields__:
            _add(getattr(counts, name), getattr(snapshot.counts, name))
        if _alive(snapshot.pid):
            gauges.open_calls += snapshot.gauges.open_calls
            gauges.open_streams += snapshot.gauges.open_streams
            gauges.lag = max(gauges.lag, snapshot.gauges.lag)
            # Each worker has its own view of the same upstreams: the worst one is shown.
            _merge_max(gauges.cooling, snapshot.gauges.cooling)
            _merge_max(gauges.degraded, snapshot.gauges.degraded)
            for labels, healthy in snapshot.gauges.healthy.items():
                gauges.healthy[labels] = min(healthy, gauges.healthy.get(labels, 1.0))
    return counts, gauges


def _add(rows: dict[tuple[str, ...], float | list[float]], more: dict[tuple[str, ...], float | list[float]]) -> None:
    for labels, value in more.items():
        present = rows.get(labels)
        if isinstance(value, list) and isinstance(present, list):
            rows[labels] = [a + b for a, b in zip(present, value, strict=True)]
        elif isinstance(value, list) or isinstance(present, list) or present is None:
            rows[labels] = value
        else:
            rows[labels] = present + value


def _merge_max(rows: dict[tuple[str, ...], float], more: dict[tuple[str, ...], float]) -> None:
    for labels, value in more.items():
        rows[labels] = max(value, rows.get(labels, 0.0))


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # `os.kill(pid, 0)` sends CTRL_C_EVENT there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists, but belongs to another user
    return True
