"""Several workers behind one address: each leaves its counts in a directory, and whichever is asked adds them all up.

The directory is the one that prometheus-client's users know (`PROMETHEUS_MULTIPROC_DIR`); our files have names of their
own in it. A worker writes at every beat of its pulse, and before it answers, so that no count ever goes down. What
ended workers have counted stays; what they had open does not. Whoever starts the workers empties the directory.
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


class Sheet(msgspec.Struct, kw_only=True):
    """What one worker has to say."""

    pid: int
    counts: Counts
    gauges: Gauges
    buckets: tuple[tuple[float, ...], ...]
    """Of the histograms among the counts; those of another version of ours may differ, and cannot be added."""


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(Sheet).decode


class Shelf:
    """A directory of sheets.

    Args:
        directory: Made if it is not there.
        gateway: Names the gateway in all its workers alike; sheets of others are left alone.
    """

    def __init__(self, directory: Path, gateway: str) -> None:
        self._directory = directory
        self._gateway = gateway
        self._own: tuple[int, Path] | None = None
        self._complained = False

    def move(self, gateway: str) -> None:
        """Under another name from now on; this worker's sheet under the old one goes."""
        if gateway != self._gateway:
            if self._own is not None and self._own[0] == os.getpid():
                with contextlib.suppress(OSError):
                    self._own[1].unlink()
            self._gateway, self._own = gateway, None

    def put(self, counts: Counts, gauges: Gauges) -> None:
        """Leave this worker's sheet, in place of the one before."""
        path = self._path()
        draft = path.with_suffix(".part")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(_ENCODE(Sheet(pid=os.getpid(), counts=counts, gauges=gauges, buckets=BUCKETS)))
            draft.replace(path)
        except OSError as error:
            self._complain("written", error)

    def others(self) -> Iterator[Sheet]:
        """The sheets of every other worker, ended ones among them."""
        own = self._path()
        for path in sorted(self._directory.glob(f"llmproxy_{self._gateway}_*.sheet")):
            if path != own and (sheet := self._read(path)) is not None:
                yield sheet

    def _read(self, path: Path) -> Sheet | None:
        try:
            sheet = _DECODE(path.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            self._complain("read", error)
            return None
        if sheet.buckets != BUCKETS:
            self._complain("read", "it is of another version, with other buckets; empty the directory")
            return None
        return sheet

    def _path(self) -> Path:
        """This process's own; a fork has another than its parent."""
        pid = os.getpid()
        if self._own is None or self._own[0] != pid:
            name = f"llmproxy_{self._gateway}_{pid}_{secrets.token_hex(4)}.sheet"
            self._own = pid, self._directory / name
        return self._own[1]

    def _complain(self, what: str, error: Exception | str) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("a worker's counts cannot be %s: %s", what, error)


def added(counts: Counts, gauges: Gauges, others: Iterable[Sheet]) -> tuple[Counts, Gauges]:
    """All of it together; of workers that have ended only what they counted."""
    for sheet in others:
        for name in Counts.__struct_fields__:
            _add(getattr(counts, name), getattr(sheet.counts, name))
        if _alive(sheet.pid):
            gauges.open_calls += sheet.gauges.open_calls
            gauges.open_streams += sheet.gauges.open_streams
            gauges.lag = max(gauges.lag, sheet.gauges.lag)
            # Each worker has its own view of the same upstreams: the darkest is shown.
            _most(gauges.cooling, sheet.gauges.cooling)
            _most(gauges.degraded, sheet.gauges.degraded)
            for where, healthy in sheet.gauges.healthy.items():
                gauges.healthy[where] = min(healthy, gauges.healthy.get(where, 1.0))
    return counts, gauges


def _add(rows: dict[tuple[str, ...], float | list[float]], more: dict[tuple[str, ...], float | list[float]]) -> None:
    for labels, value in more.items():
        there = rows.get(labels)
        if isinstance(value, list) and isinstance(there, list):
            rows[labels] = [a + b for a, b in zip(there, value, strict=True)]
        elif isinstance(value, list) or isinstance(there, list) or there is None:
            rows[labels] = value
        else:
            rows[labels] = there + value


def _most(rows: dict[tuple[str, ...], float], more: dict[tuple[str, ...], float]) -> None:
    for labels, value in more.items():
        rows[labels] = max(value, rows.get(labels, 0.0))


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # asking there means to interrupt
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's, but there
    return True
