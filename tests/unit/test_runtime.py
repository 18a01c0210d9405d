"""A runtime, and the state that outlives it."""

from typing import Any

import pytest
from typing_extensions import override

from llmproxy_asgi import ConfigError
from llmproxy_asgi.clock import Clock
from llmproxy_asgi.config.schema import Config
from llmproxy_asgi.conversation_state import reasoning
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.responses_api.stateful import response_store
from llmproxy_asgi.runtime import RESPONSE_BOUNDS, Runtime, SharedState
from llmproxy_asgi.stores import open as opening
from llmproxy_asgi.stores.base import Bounds, RecordStore
from llmproxy_asgi.stores.memory import MemoryStore
from support.clock import FakeClock
from support.stores import ALICE


def plan(shared: SharedState, endpoints: dict[str, bool] | None = None, **block: Any) -> Runtime:
    local = {"type": "openai-compatible", "base_url": "http://127.0.0.1:1/v1", **block}
    return Runtime.build(Config.model_validate({"providers": {"p": local}, "endpoints": endpoints or {}}), shared)


def test_a_runtime_that_cannot_be_built_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Current limits keep what they have counted."""
    shared = SharedState()
    limits: dict[str, Any] = {"rate_limit": {"requests_per_second": 0.001}}
    made = plan(shared, **limits)
    target = made.catalog.resolve("m").targets[0]
    credential = target.provider.credentials[0]
    admission = shared.admission_queues.targets(made.providers.values())
    assert admission is not None
    assert admission.try_admit(target, credential, 0) is not None
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="prometheus"):
        plan(shared, {"metrics": True})
    again = shared.admission_queues.targets(plan(shared, **limits).providers.values())
    assert again is not None
    assert again.try_admit(target, credential, 0) is None


@pytest.mark.anyio
async def test_stores_are_those_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open them once for all runtimes with the same address, and close them with the shared state."""
    opened: list[Any] = []
    closed: list[Any] = []

    class Watched(MemoryStore):
        @override
        async def aclose(self) -> None:
            closed.append(self)

    def backend(url: str, kind: str, bounds: Bounds, clock: Clock) -> RecordStore:
        opened.append((url, kind, bounds, clock))
        return Watched(bounds, clock=clock)

    monkeypatch.setitem(opening._BACKENDS, "memory", backend)
    shared = SharedState(clock=FakeClock())
    one, other = plan(shared), plan(shared)
    assert opened == [
        ("memory", "responses", RESPONSE_BOUNDS, shared.clock),
        ("memory", "reasoning", reasoning.BOUNDS, shared.clock),
    ]
    made = response_store(one).begin(ALICE)
    assert await response_store(one).save(ALICE, made)
    assert await response_store(other).find(ALICE, made.id) is not None
    await shared.aclose()
    assert len(closed) == 2


@pytest.mark.anyio
async def test_connections_outlive_a_runtime_with_the_same_settings() -> None:
    """An upstream keeps its pool; a simulated one gets a new pool if its timing changed."""
    shared = SharedState()

    def made(**simulated: Any) -> list[Provider]:
        blocks = {
            "far": {"type": "openai-compatible", "base_url": "http://127.0.0.1:1/v1", **simulated.pop("far", {})},
            "here": {"type": "simulated", **simulated},
        }
        return list(Runtime.build(Config.model_validate({"providers": blocks}), shared).providers.values())

    far, here = map(shared.pool, made(delay="10ms"))
    again = made(delay="10ms", far={"cooldown": "1s"})
    assert list(map(shared.pool, again)) == [far, here]
    changed = made(delay="20ms")
    await shared.close_removed(changed)
    assert shared.pool(changed[0]) is far
    assert shared.pool(changed[1]) is not here
    await shared.aclose()
