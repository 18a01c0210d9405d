"""The response headers about a call are bounded."""

import json

from hypothesis import given
from hypothesis import strategies as st

from llmproxy_asgi.endpoints.headers import attempt_headers, model_headers
from llmproxy_asgi.facts import Step

STEPS = st.builds(
    Step,
    target=st.text(max_size=300),
    outcome=st.sampled_from(["served", "failed", "skipped"]),
    why=st.text(max_size=400),
    param=st.none() | st.text(max_size=900),
)


def size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + len(b": \r\n") for name, value in headers)


@given(st.text(max_size=5000), st.lists(st.text(min_size=1, max_size=200), max_size=80), st.lists(STEPS, max_size=30))
def test_all_headers_together_are_bounded(model: str, warnings: list[str], steps: list[Step]) -> None:
    """They have at most 1.6 KiB, all ASCII; with the fixed headers and the longest request id less than 2 KiB."""
    headers = [*model_headers(model, warnings), *attempt_headers(99, steps)]
    assert size(headers) <= 1640
    assert all(value.isascii() and value.decode().isprintable() for _, value in headers)


def test_a_few_warnings_are_complete() -> None:
    """List all warnings in order."""
    assert dict(model_headers("m", ["dropped:seed", "clamped:top_p"]))[b"x-llmproxy-warnings"] == (
        b"dropped:seed, clamped:top_p"
    )
    assert b"x-llmproxy-warnings" not in dict(model_headers("m", []))


def test_many_warnings_are_truncated() -> None:
    """List complete warnings only, and end with one for the others."""
    warnings = [f"dropped:field_{number}" for number in range(64)]
    shown = dict(model_headers("m", warnings))[b"x-llmproxy-warnings"].decode().split(", ")
    assert shown == [*warnings[: len(shown) - 1], "dropped:others"]
    assert len(shown) > 30
    assert dict(model_headers("m", ["dropped:" + "x" * 900]))[b"x-llmproxy-warnings"] == b"dropped:others"


def test_many_steps_are_truncated() -> None:
    """Keep the first steps and the last as readable JSON, with the number of omitted ones."""
    steps = [Step(target=f"p/{number}", outcome="failed", why="overloaded") for number in range(40)]
    steps.append(Step(target="q/m", outcome="served"))
    shown = json.loads(dict(attempt_headers(40, steps))[b"x-llmproxy-explain"])
    assert shown[0]["target"] == "p/0"
    assert shown[-1]["target"] == "q/m"
    omitted = [step["omitted"] for step in shown if "omitted" in step]
    assert omitted == [len(steps) - (len(shown) - 1)]


@given(st.lists(STEPS, max_size=30))
def test_steps_are_valid_json(steps: list[Step]) -> None:
    """Any steps are valid JSON."""
    shown = json.loads(dict(attempt_headers(1, steps))[b"x-llmproxy-explain"])
    assert sum(step.get("omitted", 1) for step in shown) == len(steps)
