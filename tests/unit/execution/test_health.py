"""Does an upstream answer: what checks ask, what they find, and what that changes."""

import asyncio
import logging
import random
from typing import Any

import pytest
from typing_extensions import override

from llmproxy_asgi.errors import UpstreamFailed, UpstreamRateLimited, UpstreamTimeout, UpstreamUnreachable
from llmproxy_asgi.execution.cooldown import FAILURE_THRESHOLD
from llmproxy_asgi.execution.health import HealthChecks
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.facts import AnyFact, Observers, TargetStateChanged
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.telemetry.logs import CallLog
from llmproxy_asgi.transport import Pool, UpstreamResponse
from support.answers import FakeAnswer
from support.clock import FakeClock

pytestmark = pytest.mark.anyio

GONE = UpstreamUnreachable("gone", reason="ECONNREFUSED 127.0.0.1:1")


class HealthHarness(Pool):
    """The health checks of one provider, which is also its own pool and answers with `said`."""

    def __init__(self, kind: str = "openai-compatible", **block: Any) -> None:
        made = provider_class(kind)
        base = {"base_url": "http://127.0.0.1:1"} if kind != "simulated" else {}
        whole = {"type": kind, **base, "api_key": "key-1", "health": {"interval": 10}, **block}
        self.provider: Provider = made("p", made.Config(**{k: v for k, v in whole.items() if base or k != "api_key"}))
        self.clock = FakeClock()
        self.cooldowns = TargetCooldowns(self.clock)
        self.facts: list[AnyFact] = []
        self.said: int | Exception = 200
        self.body = b"{}"
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.checks = HealthChecks(
            lambda _: self, self.cooldowns, observers=Observers([self]), clock=self.clock, draw=random.Random(3)
        )
        self.checks.watch([self.provider])

    def notice(self, fact: AnyFact, /) -> None:
        self.facts.append(fact)

    @override
    async def open(
        self, method: str, url: Any, headers: Any, body: bytes, *, connect: float, progress: Any = None
    ) -> UpstreamResponse:
        self.asked.append((method, str(url), {name.decode(): value.decode() for name, value in headers}))
        if isinstance(self.said, Exception):
            raise self.said
        return FakeAnswer(self.body, status=self.said)

    @property
    def resting(self) -> bool:
        return self.cooldowns.active(Target(self.provider, "m"), self.provider.credentials[0]) is not None

    async def check(self, said: int | Exception) -> str:
        self.said = said
        return (await self.checks.check(self.provider)).reason


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (200, ""),
        (404, ""),
        (429, ""),
        (401, "401 with no content type, of another shape (asked 127.0.0.1:1/v1/models)"),
        (403, "403 with no content type, of another shape (asked 127.0.0.1:1/v1/models)"),
        (500, "500 with no content type, of another shape (asked 127.0.0.1:1/v1/models)"),
        (503, "503 with no content type, of another shape (asked 127.0.0.1:1/v1/models)"),
        (GONE, "ECONNREFUSED 127.0.0.1:1"),
        (UpstreamTimeout("late"), "late"),
        (TimeoutError(), "no answer in time: 127.0.0.1:1"),
    ],
    ids=str,
)
async def test_an_answer_is_healthy_unless_calls_would_fail_too(said: int | Exception, reason: str) -> None:
    """Count a missing list of models, or a rate limit on the check, as healthy."""
    assert await HealthHarness().check(said) == reason


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("openai", "/v1/models"),
        ("openai-compatible", "/v1/models"),
        ("anthropic", "/v1/models?limit=1"),
        ("gemini", "/v1beta/models?pageSize=1"),
    ],
)
async def test_the_question_is_the_vendors_cheapest_and_is_signed(kind: str, path: str) -> None:
    """A list of one model, where there is such a thing."""
    harness = HealthHarness(kind)
    await harness.check(200)
    ((method, url, headers),) = harness.asked
    assert (method, url) == ("GET", f"http://127.0.0.1:1{path}")
    assert any("key-1" in value for value in headers.values())
    assert ("anthropic-version" in headers) == (kind == "anthropic")


async def test_what_needs_no_network_is_always_well() -> None:
    """Send nothing."""
    harness = HealthHarness("simulated")
    assert await harness.check(500) == ""
    assert harness.asked == []


async def test_two_failures_make_it_rest_and_one_success_ends_that() -> None:
    """One alone may be a hiccup."""
    harness = HealthHarness()
    await harness.check(GONE)
    assert not harness.resting
    await harness.check(GONE)
    assert harness.resting
    await harness.check(200)
    assert not harness.resting


async def test_a_verdict_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Log a failure with its reason when the state changes, and no recovery when the first check succeeds."""
    caplog.set_level(logging.INFO, "llmproxy_asgi")
    harness = HealthHarness()
    for said in (200, GONE, GONE, 200):
        await harness.check(said)
    for fact in harness.facts:
        CallLog().notice(fact)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("llmproxy_asgi.upstreams", "p answers its health check"),
        ("llmproxy_asgi.upstreams", "p fails its health check: ECONNREFUSED 127.0.0.1:1"),
        ("llmproxy_asgi.upstreams", "p answers its health check"),
    ]


async def test_a_check_ends_no_rest_that_calls_began() -> None:
    """Keep a wait that the upstream asked for, although its list of models is available."""
    harness = HealthHarness()
    called = Target(harness.provider, "m"), harness.provider.credentials[0]
    harness.cooldowns.failed(*called, UpstreamRateLimited("", retry_after=30), 5)
    await harness.check(200)
    assert harness.resting
    harness.clock.at += 30
    assert not harness.resting
    for _ in range(FAILURE_THRESHOLD):
        harness.cooldowns.failed(*called, UpstreamFailed(""), 5)
    await harness.check(200)
    assert harness.resting


async def test_a_failed_check_has_the_upstreams_words_without_secrets() -> None:
    """An operator reads why a check failed as for a call: status, code and words, and never the key that was sent."""
    harness = HealthHarness(api_key="own-secret-1")
    harness.body = b'{"error": {"code": "invalid_api_key", "message": "Incorrect API key: own-secret-1"}}'
    assert await harness.check(401) == "401 invalid_api_key: Incorrect API key: ***"
    said = UpstreamUnreachable("broke", reason="closed after own-secret-1: 127.0.0.1:1")
    assert await harness.check(said) == "closed after ***: 127.0.0.1:1"


async def test_changes_are_told_once() -> None:
    """Every check is kept, only another verdict is news."""
    harness = HealthHarness()
    for said in (200, 200, GONE, GONE, 200):
        await harness.check(said)
    told = [fact for fact in harness.facts if isinstance(fact, TargetStateChanged)]
    assert [(fact.healthy, fact.reason) for fact in told] == [
        (True, ""),
        (False, "ECONNREFUSED 127.0.0.1:1"),
        (True, ""),
    ]
    assert harness.checks.states["p"].healthy


async def test_several_keys_are_tried_until_one_succeeds() -> None:
    """One bad key does not make an upstream ill."""
    harness = HealthHarness(api_key=["key-1", "key-2"])
    await harness.check(401)
    assert [headers["authorization"] for _, _, headers in harness.asked] == ["Bearer key-1", "Bearer key-2"]


async def test_it_watches_on_its_interval_with_jitter_until_it_is_closed() -> None:
    """The first check at any moment of the interval, the next about one interval later."""
    harness = HealthHarness()
    before = asyncio.all_tasks()
    harness.clock.sleep = sleeping = SteppedSleep()  # type: ignore[method-assign]
    harness.checks.keep_running()
    harness.checks.keep_running()
    for _ in range(4):
        await sleeping.turn()
    await harness.checks.aclose()
    first, *others = sleeping.waits
    assert 0 <= first <= 10
    assert all(9 <= wait <= 11 for wait in others)
    assert len(set(others)) == len(others)
    assert len(harness.asked) == 4
    assert asyncio.all_tasks() == before


async def test_no_check_runs_without_configuration() -> None:
    """A provider without `health` is known by its calls alone."""
    harness = HealthHarness(health=None)
    before = asyncio.all_tasks()
    harness.checks.keep_running()
    assert asyncio.all_tasks() == before


class SteppedSleep:
    """Sleeps that end when a test says so."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._woken = asyncio.Event()
        self._asleep = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._asleep.set()
        await self._woken.wait()
        self._woken.clear()

    async def turn(self) -> None:
        """Let one sleep end, and wait for the next one to begin."""
        await self._asleep.wait()
        self._asleep.clear()
        self._woken.set()
        await self._asleep.wait()
