"""A plan, and what is alive beside it."""

from typing import Any

import pytest

from llmproxy_asgi import ConfigError
from llmproxy_asgi.config.schema import Config
from llmproxy_asgi.runtime import Live, Runtime


def plan(live: Live, endpoints: dict[str, bool] | None = None, **block: Any) -> Runtime:
    local = {"type": "openai-compatible", "base_url": "http://127.0.0.1:1/v1", **block}
    return Runtime.build(Config.model_validate({"providers": {"p": local}, "endpoints": endpoints or {}}), live)


def test_a_plan_that_cannot_be_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been taken of the limits in force stays taken."""
    live = Live()
    limits: dict[str, Any] = {"rate_limit": {"requests_per_second": 0.001}}
    made = plan(live, **limits)
    target = made.catalog.resolve("m").targets[0]
    credential = target.provider.credentials[0]
    admission = live.gates.targets(made.providers.values())
    assert admission is not None
    assert admission.try_take(target, credential, 0) is not None
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="prometheus"):
        plan(live, {"metrics": True})
    again = live.gates.targets(plan(live, **limits).providers.values())
    assert again is not None
    assert again.try_take(target, credential, 0) is None
