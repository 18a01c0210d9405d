"""The page on telemetry and the dashboard say what there is."""

import json
import logging
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from llmproxy_asgi.errors import ErrorKind
from llmproxy_asgi.facts import AnyFact
from llmproxy_asgi.telemetry.logs import CallLog
from llmproxy_asgi.telemetry.opentelemetry import ATTRIBUTES
from llmproxy_asgi.telemetry.prometheus import METRICS
from support.telemetry import finished

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((ROOT / "examples" / "grafana" / "llmproxy.json").read_text(encoding="utf-8"))
KINDS = {metric.name: metric for metric in METRICS}


@pytest.mark.parametrize("name", KINDS)
def test_each_metric_has_its_row(name: str) -> None:
    """Document each metric's kind and labels in the page's table."""
    metric = KINDS[name]
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    assert re.search(
        rf"^\| `{name}` \| {metric.kind} \|{f' {labels} ' if labels else ' '}\| .+ \|$", PAGE, re.MULTILINE
    )


def test_the_page_names_no_other_metric() -> None:
    """Whatever the page calls a metric is one."""
    assert set(re.findall(r"`(llmproxy_\w+)`", PAGE)) - {"llmproxy_asgi"} == set(KINDS)


def test_attributes_and_facts_are_told() -> None:
    """Each span attribute and each fact stands on the page."""
    assert [name for name in ATTRIBUTES.values() if f"`{name}`" not in PAGE] == []
    assert [fact.__name__ for fact in get_args(AnyFact) if f"`{fact.__name__}`" not in PAGE] == []


def test_fields_of_a_record_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Each field of a call's record stands on the page."""
    caplog.set_level(logging.INFO, "llmproxy_asgi.calls")
    CallLog().notice(finished())
    usual = vars(logging.makeLogRecord({}))
    fields = [name for name in vars(caplog.records[0]) if name not in usual and name not in ("message", "asctime")]
    assert len(fields) > 15
    assert [name for name in fields if f"`{name}`" not in PAGE] == []


def test_the_count_of_kinds_is_right() -> None:
    """The page says about how many kinds of error there are."""
    assert "two dozen words" in PAGE
    assert 20 <= len(ErrorKind) <= 27


def expressions() -> list[str]:
    """Every query of the dashboard."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return asked + [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]


def test_the_dashboard_asks_for_what_there_is() -> None:
    """Query only existing series and labels in the dashboard, and leave no metric out."""
    asked = set()
    for expression in expressions():
        for name, selector in re.findall(r"(llmproxy_\w+)(\{[^}]*\})?", expression):
            base = re.sub(r"_(?:bucket|sum|count)$", "", name)
            metric = KINDS[base]
            assert (base != name) == (metric.kind == "histogram"), name
            asked.add(base)
            labels = set(re.findall(r"(\w+)(?:=~|!=|!~|=)", selector)) | {
                label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")
            }
            assert labels <= {*metric.labels, "job", "le"}, expression
    assert asked == set(KINDS)


def test_the_dashboards_parts_do_not_overlap() -> None:
    """Each panel has an id and a place of its own."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
