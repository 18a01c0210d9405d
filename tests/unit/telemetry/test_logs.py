"""Records of the standard `logging`: one for each call, structured, and safe to write into any file."""

import logging
from typing import Any

import msgspec
import pytest

from llmproxy_asgi.facts import AnyFact, CallRefused, CredentialCooled, CredentialRecovered, TargetStateChanged
from llmproxy_asgi.telemetry.logs import CallLog
from support.telemetry import began, failed, finished, started


def records(caplog: pytest.LogCaptureFixture, *facts: AnyFact) -> list[logging.LogRecord]:
    caplog.set_level(logging.DEBUG, "llmproxy_asgi")
    for fact in facts:
        CallLog().notice(fact)
    return caplog.records


def test_a_call_is_one_record(caplog: pytest.LogCaptureFixture) -> None:
    """A finished call is one record at INFO whose fields are in its extra; its beginning and attempts are none."""
    (record,) = records(caplog, started(), began(), finished(warnings=("dropped:seed",), first_seconds=0.30049))
    assert (record.name, record.levelname) == ("llmproxy_asgi.calls", "INFO")
    assert record.getMessage() == "call ok: status 200, 1 attempt(s), 1.200 s"
    told = vars(record)
    assert {
        "request_id": "req_1",
        "protocol": "openai-chat",
        "model": "smart",
        "provider": "openai",
        "upstream_model": "gpt-x",
        "outcome": "ok",
        "status": 200,
        "input_tokens": 3,
        "output_tokens": 5,
        "usage": "exact",
        "first_seconds": 0.3,
        "warnings": ["dropped:seed"],
    }.items() <= told.items()
    assert "ada" not in str(told)


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        pytest.param({"outcome": "error", "status": 502, "kind": "upstream", "error": "UpstreamFailed"}, "WARNING"),
        pytest.param({"outcome": "error", "status": 429, "kind": "rate_limit", "error": "RateLimited"}, "WARNING"),
        pytest.param({"outcome": "interrupted", "kind": "upstream", "error": "UpstreamUnreachable"}, "WARNING"),
        pytest.param({"outcome": "error", "status": 400, "kind": "bad_request", "error": "BadRequest"}, "INFO"),
        pytest.param({"outcome": "cancelled", "status": 499}, "INFO"),
        pytest.param({"usage": None, "exactness": "none", "first_seconds": None}, "INFO"),
    ],
    ids=["upstream", "limit", "interrupted", "caller", "left", "bare"],
)
def test_failures_are_warnings(fields: dict[str, Any], level: str, caplog: pytest.LogCaptureFixture) -> None:
    """Failures of upstreams and limits are warnings that name the error; what callers do themselves is not."""
    (record,) = records(caplog, finished(**fields))
    assert record.levelname == level
    assert str(fields.get("error", "")) in record.getMessage()


def test_callers_text_is_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    """Put a caller's text into the extra fields alone, cut and without line breaks, never into the message."""
    (record,) = records(caplog, finished(model="x\n2026 CRITICAL forged\x1b[0m" + "y" * 500))
    assert "forged" not in record.getMessage()
    assert record.__dict__["model"].isprintable()
    assert len(record.__dict__["model"]) <= 203


def test_what_concerns_upstreams(caplog: pytest.LogCaptureFixture) -> None:
    """Log failed attempts, cooldowns and health to a logger of their own, failures as warnings."""
    found = records(
        caplog,
        failed(),
        CredentialCooled(provider="openai", credential="openai:0f", seconds=30, asked=True, kind="rate_limit"),
        CredentialRecovered(provider="openai", credential="openai:0f"),
        TargetStateChanged(provider="openai", healthy=False, reason="no answer"),
        TargetStateChanged(provider="openai", healthy=True, reason=""),
    )
    assert {record.name for record in found} == {"llmproxy_asgi.upstreams"}
    assert [record.levelname for record in found] == ["INFO", "WARNING", "INFO", "WARNING", "INFO"]


def test_a_cooldown_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """Log the cause of a cooldown as a warning, also where another key served the call."""
    rest = CredentialCooled(
        provider="openai", credential="openai:0f", model="big", seconds=7, asked=True, kind="rate_limit"
    )
    why = "429 rate_limit_exceeded: Slow down"
    plain, told = records(caplog, rest, msgspec.structs.replace(rest, reason=why))
    assert plain.getMessage() == "big by a credential of openai cools down for 7 s: rate_limit"
    assert told.getMessage() == f"big by a credential of openai cools down for 7 s: rate_limit: {why}"
    assert told.__dict__["reason"] == why


def test_a_failed_call_names_its_provider(caplog: pytest.LogCaptureFixture) -> None:
    """A warning about a failed call says which upstream failed, in its message."""
    (record,) = records(caplog, finished(outcome="error", status=502, provider="openai", reason="500 server_error"))
    assert record.getMessage().startswith("call error at openai: status 502")
    assert record.getMessage().endswith(": 500 server_error")


def test_refusals(caplog: pytest.LogCaptureFixture) -> None:
    """A request that was refused before it became a call is a record of its own."""
    refused = {"request_id": "r", "protocol": "gemini"}
    found = records(
        caplog,
        CallRefused(**refused, status=401, kind="authentication", error="Unauthenticated"),
        CallRefused(**refused, status=503, kind="unavailable", error="Unavailable"),
    )
    assert [record.levelname for record in found] == ["INFO", "WARNING"]
    assert found[0].getMessage() == "request refused: status 401, Unauthenticated"


def test_nothing_is_set_up() -> None:
    """Set no handler and no level on any logger of the gateway."""
    for name in ("llmproxy_asgi", "llmproxy_asgi.calls", "llmproxy_asgi.upstreams"):
        assert logging.getLogger(name).handlers == []
