"""The page that Prometheus reads, and several workers' counts on one page."""

import os
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from llmproxy_asgi.conversation import Usage
from llmproxy_asgi.errors import ConfigError, ErrorKind, MisuseError
from llmproxy_asgi.facts import AnyFact, CallRefused, TargetStateChanged
from llmproxy_asgi.telemetry.collector import Collector, Names
from llmproxy_asgi.telemetry.metrics import Metrics
from llmproxy_asgi.telemetry.multiprocess import SnapshotDirectory, merge
from llmproxy_asgi.telemetry.prometheus import METRICS, GatewayCollector, Page, check_installed
from support.telemetry import began, failed, finished, series, started, value

NAMES = Names(providers=frozenset({"openai"}), models=frozenset({"smart"}))
EVERYTHING: tuple[AnyFact, ...] = (
    started(),
    began(),
    failed(),
    finished(outcome="interrupted", kind="upstream", warnings=("dropped:seed",)),
    CallRefused(request_id="r", protocol="openai-chat", status=400, kind="bad_request", error="BadRequest"),
    TargetStateChanged(provider="openai", healthy=True, reason=""),
)


def metrics(directory: Path | None = None) -> Metrics:
    return Metrics(NAMES, cooling=lambda: ["openai"], directory=directory)


def counted(*facts: AnyFact, directory: Path | None = None) -> Metrics:
    made = metrics(directory)
    for fact in facts:
        made._collector.notice(fact)
    return made


def test_page_is_what_prometheus_reads() -> None:
    """The page parses as Prometheus' own text, under its media type, with cumulative buckets that end in +Inf."""
    media_type, text = counted(*EVERYTHING).page()
    found = series(text)
    assert media_type.startswith(b"text/plain; version=0.0.4")
    assert value(found, "llmproxy_calls_total", provider="openai", model="smart", outcome="interrupted") == 1
    assert value(found, "llmproxy_attempt_failures_total", kind="overloaded") == 1
    assert value(found, "llmproxy_tokens_total", kind="output") == 5
    assert value(found, "llmproxy_first_event_seconds_bucket", le="0.25") == 0
    assert value(found, "llmproxy_first_event_seconds_bucket", le="0.5") == 1
    assert value(found, "llmproxy_first_event_seconds_bucket", le="+Inf") == 1
    assert value(found, "llmproxy_first_event_seconds_sum") == pytest.approx(0.3)
    assert value(found, "llmproxy_cooling_credentials", provider="openai") == 1


def test_every_metric_is_on_an_empty_page() -> None:
    """A page before the first call already says what each metric means, and shows the gauges without labels at 0."""
    _, text = Page(GatewayCollector(lambda: (Collector(NAMES).counts(), Collector(NAMES).gauges()))).render()
    for metric in METRICS:
        assert f"# HELP {metric.name} {metric.meaning}" in text.decode()
    assert value(series(text), "llmproxy_open_calls") == 0


def test_a_host_has_it_in_its_own_registry() -> None:
    """The collector can be registered beside a host's own metrics, for several gateways in several registries."""
    first, second = CollectorRegistry(), CollectorRegistry()
    one, two = counted(finished()), counted(finished(), finished(2))
    first.register(one.collector)
    second.register(two.collector)
    assert value(series(generate_latest(first)), "llmproxy_calls_total") == 1
    assert value(series(generate_latest(second)), "llmproxy_calls_total") == 2


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where prometheus-client is missing, the error names the extra: at start, and at a page made without that."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MisuseError, match=r"llmproxy-asgi\[prometheus\]"):
        metrics().page()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"endpoints\.metrics: needs .*llmproxy-asgi\[prometheus\]"):
        check_installed()


def ended_worker(directory: Path) -> None:
    """A worker process of the same gateway that counts what EVERYTHING tells, and one open stream, and ends."""
    code = (
        "from pathlib import Path; from unit_page import *\n"
        "from support.telemetry import started\n"
        f"made = counted(*EVERYTHING, started(2), directory=Path({str(directory)!r})); made.page()\n"
    )
    tests = Path(__file__).parents[2]
    (directory / "unit_page.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{directory}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_workers_are_added_up(tmp_path: Path) -> None:
    """Render the sum over all workers, whichever is asked, and keep the counters of those that ended."""
    ended_worker(tmp_path)
    one, two = (counted(*EVERYTHING, started(2), directory=tmp_path) for _ in range(2))
    found = series(one.page()[1])
    assert value(found, "llmproxy_calls_total") == 2
    assert value(found, "llmproxy_first_event_seconds_bucket", le="+Inf") == 2
    found = series(two.page()[1])
    assert value(found, "llmproxy_calls_total") == 3
    assert value(found, "llmproxy_tokens_total", kind="input") == 9
    assert value(found, "llmproxy_open_streams") == 2
    assert value(found, "llmproxy_cooling_credentials") == 1


def test_another_gateway_is_left_alone(tmp_path: Path) -> None:
    """Gateways that serve other names keep their counts apart in the same directory."""
    counted(*EVERYTHING, directory=tmp_path).page()
    stranger = Metrics(Names(providers=frozenset({"else"})), cooling=tuple, directory=tmp_path)
    assert value(series(stranger.page()[1]), "llmproxy_calls_total") == 0


def test_a_reloaded_gateway_is_the_same_in_all_workers(tmp_path: Path) -> None:
    """Workers that took up another configuration meet again under its name, and nothing is counted twice."""
    one, two = (counted(finished(), directory=tmp_path) for _ in range(2))
    for worker in (one, two):
        worker.page()
    for worker in (one, two):
        worker.rename(Names(providers=frozenset({"openai", "new"})))
        worker.page()
    for worker in (one, two):
        assert value(series(worker.page()[1]), "llmproxy_calls_total") == 2
    assert len(list(tmp_path.glob("*.snapshot"))) == 2


def test_a_snapshot_that_cannot_be_read_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken or unwritable snapshot is logged once, and the page is still rendered."""
    snapshots = SnapshotDirectory(tmp_path, "mark")
    (tmp_path / "llmproxy_mark_1_aa.snapshot").write_bytes(b"\xff half a snapshot")
    collector = Collector(NAMES)
    for _ in range(2):
        counts, _ = merge(collector.counts(), collector.gauges(), snapshots.others())
        assert counts.calls == {}
    assert len(caplog.records) == 1
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no directory", encoding="utf-8")
    SnapshotDirectory(in_the_way, "mark").write(collector.counts(), collector.gauges())
    assert len(caplog.records) == 2


def test_a_snapshot_with_other_buckets_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skip a snapshot of another version with other buckets, and still render the page."""
    with monkeypatch.context() as older:
        older.setattr("llmproxy_asgi.telemetry.multiprocess.BUCKETS", ((0.1, 1.0),))
        counted(finished(), directory=tmp_path).page()
    page = counted(finished(), directory=tmp_path).page()[1]
    assert value(series(page), "llmproxy_calls_total") == 1
    assert "other buckets" in caplog.text


def test_hostile_traffic_makes_few_series() -> None:
    """After a hundred thousand random model names in every protocol, ending in every way, the page is small."""
    draw = random.Random(49)
    protocols = ("openai-chat", "openai-responses", "openai-completions", "openai-embeddings", "anthropic-messages")
    outcomes = ("ok", "ok", "error", "interrupted", "cancelled")
    made = metrics()
    tell = made._collector.notice
    for call in range(100_000):
        outcome = draw.choice(outcomes)
        failed_ = outcome in ("error", "interrupted")
        end = finished(
            call,
            protocol=draw.choice((*protocols, "gemini")),
            model="".join(draw.choices(string.printable, k=12)),
            provider="" if outcome == "error" else "openai",
            outcome=outcome,
            kind=draw.choice(("bad_request", "upstream", "not_found")) if failed_ else "",
            usage=Usage(input=1, output=2, cache_read=1, cache_write=1, reasoning=1),
            exactness=draw.choice(("exact", "estimated", "none")),
            warnings=(f"dropped:{call}", f"{call}:odd"),
        )
        tell(end)
    for kind in ErrorKind:
        tell(CallRefused(request_id="r", protocol="gemini", status=400, kind=kind, error="BadRequest"))
        tell(failed(kind=kind))
    assert value(series(made.page()[1]), "llmproxy_calls_total") == 100_000
    assert len(series(made.page()[1])) <= 200
