"""Targets whose limits are reached: passed over first, then waited for."""

import asyncio
import json
import random
from typing import Any

import pytest

from llmproxy_asgi.clock import SYSTEM
from llmproxy_asgi.errors import (
    Unsupported,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from llmproxy_asgi.execution.admission import AdmissionQueues
from llmproxy_asgi.execution.attempt import Job
from llmproxy_asgi.execution.executor import Executor
from llmproxy_asgi.execution.lazy_request import LazyRequest
from llmproxy_asgi.execution.open_response import OpenResponse
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.registry import translator
from support.execution import PICTURE, ExecutorHarness, fine, first_frame, job, refused, streamed, words_of

pytestmark = pytest.mark.anyio


def with_limits(harness: ExecutorHarness, *targets: Target) -> None:
    """From here on the providers' limits hold."""
    harness.admission = AdmissionQueues(SYSTEM).targets([target.provider for target in targets])
    harness.executor = Executor(
        harness.pool,
        harness.cooldowns,
        largest_answer=10_000,
        largest_stream=200_000,
        admission=harness.admission,
        clock=harness.clock,
        draw=random.Random(7),
    )


ONE_PLACE: dict[str, Any] = {"max_concurrency": 1, "rate_limit": {"queue_timeout": 60}}


async def test_a_full_target_is_passed_over_and_waited_for_if_nothing_else_serves(harness: ExecutorHarness) -> None:
    """Prefer a target with capacity; without one, wait for the first that becomes free."""
    full = harness.target("full", streamed(first_frame(), ...), max_concurrency=1, rate_limit={"queue_timeout": 60})
    with_limits(harness, full)
    holding = await harness.executor.begin(job(stream=True), [full])
    asked = job()
    assert await words_of(await harness.executor.begin(asked, [full, harness.target("b", fine("b"))])) == "b"
    assert [(step.outcome, step.why) for step in asked.context.steps] == [("skipped", "full"), ("served", "")]
    harness.answers["full"] = [fine("room")]
    waiting = asyncio.create_task(harness.executor.begin(job(), [full]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    await holding.close()
    assert await words_of(await waiting) == "room"


async def test_a_call_that_waited_continues_with_the_next_full_target(harness: ExecutorHarness) -> None:
    """Keep the other targets of a call that waited for the first one."""
    first = harness.target("first", streamed(first_frame(), ...), retry={"attempts": 1}, **ONE_PLACE)
    second = harness.target("second", streamed(first_frame(), ...), **ONE_PLACE)
    with_limits(harness, first, second)
    holding = [await harness.executor.begin(job(stream=True), [target]) for target in (first, second)]
    harness.answers |= {"first": [UpstreamUnreachable("gone")], "second": [fine("second")]}
    asked = job()
    waiting = asyncio.create_task(harness.executor.begin(asked, [first, second]))
    for held in holding:
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        await held.close()
    assert await words_of(await waiting) == "second"
    assert [step.outcome for step in asked.context.steps] == ["skipped", "skipped", "failed", "served"]


async def queued(harness: ExecutorHarness, target: Target) -> tuple[Job, asyncio.Task[OpenResponse]]:
    """A call that waits for room with a target."""
    asked = job()
    waiting = asyncio.create_task(harness.executor.begin(asked, [target]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    return asked, waiting


async def test_a_call_that_waited_is_retried_like_any_other(harness: ExecutorHarness) -> None:
    """Retry after a connection error although the call waited for capacity before."""
    target = harness.target("a", streamed(first_frame(), ...), retry={"attempts": 2}, **ONE_PLACE)
    with_limits(harness, target)
    held = await harness.executor.begin(job(stream=True), [target])
    asked, waiting = await queued(harness, target)
    harness.answers["a"] = [UpstreamUnreachable("gone"), fine("mended")]
    await held.close()
    assert await words_of(await waiting) == "mended"
    assert [step.outcome for step in asked.context.steps] == ["skipped", "failed", "served"]


@pytest.mark.parametrize("others", [0, 1])
async def test_a_call_that_waited_continues_with_the_next_key(harness: ExecutorHarness, others: int) -> None:
    """Try the other key at once after a limit of the first, or wait for it behind earlier calls."""
    block: dict[str, Any] = {"api_key": ["key-1", "key-2"], "max_concurrency": 1}
    limits = {"queue_timeout": 60, "scope": "credential", "requests_per_second": 1000, "burst": 1000}
    target = harness.target("a", streamed(first_frame(), ...), rate_limit=limits, **block)
    with_limits(harness, target)
    held = await harness.executor.begin(job(stream=True), [target])
    harness.asked.clear()
    _, waiting = await queued(harness, target)
    behind = [(await queued(harness, target))[1] for _ in range(others)]
    harness.answers["a"] = [refused(429, retry_after="60"), *(fine("behind") for _ in behind), fine("the other")]
    await held.close()
    for other in behind:
        assert await words_of(await other) == "behind"
    assert await words_of(await waiting) == "the other"
    assert len({harness.asked[0].key, harness.asked[-1].key}) == 2


async def test_capacity_of_a_key_in_cooldown_is_not_used(harness: ExecutorHarness) -> None:
    """Send nothing to an upstream that asked for a pause during the wait, and answer with the seconds left."""
    target = harness.target("a", streamed(first_frame(), ...), **ONE_PLACE)
    with_limits(harness, target)
    held = await harness.executor.begin(job(stream=True), [target])
    asked, waiting = await queued(harness, target)
    harness.asked.clear()
    credential = target.provider.credentials[0]
    harness.cooldowns.failed(target, credential, UpstreamRateLimited("slower", retry_after=20.0), 30.0)
    await held.close()
    with pytest.raises(UpstreamRateLimited) as told:
        await waiting
    assert told.value.retry_after == 20.0
    assert told.value.message.endswith("Try again in 20 s.")
    assert not harness.asked
    assert [(step.outcome, step.why) for step in asked.context.steps] == [("skipped", "full"), ("skipped", "resting")]
    harness.clock.at += 21
    harness.answers["a"] = [fine("again")]
    assert await words_of(await harness.executor.begin(job(), [target])) == "again"


async def test_a_cancelled_wait_takes_no_capacity(harness: ExecutorHarness) -> None:
    """Leave the slot free for the next call."""
    full = harness.target("full", streamed(first_frame(), ...), max_concurrency=1, rate_limit={"queue_timeout": 60})
    with_limits(harness, full)
    holding = await harness.executor.begin(job(stream=True), [full])
    leaving = asyncio.create_task(harness.executor.begin(job(), [full]))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await holding.close()
    harness.answers["full"] = [fine("room")]
    assert await words_of(await harness.executor.begin(job(), [full])) == "room"


async def test_what_was_waited_for_is_said_in_another_protocol_where_the_first_cannot(harness: ExecutorHarness) -> None:
    """Room was made; that one of the upstream's protocols has no word for it is found out only then."""
    both = harness.target(
        "a",
        streamed(first_frame(), ...),
        type="openai",
        protocol=["openai-responses", "openai-chat"],
        max_concurrency=1,
        rate_limit={"queue_timeout": 60},
    )
    with_limits(harness, both)
    holding = await harness.executor.begin(job(stream=True), [both])
    body = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"candidateCount": 2}}
    inbound = translator("gemini").inbound
    inbound_request = inbound.open(
        json.dumps(body).encode(), headers={}, path={"model": "m", "method": "generateContent"}
    )
    asked = Job(
        protocol="gemini",
        stream=False,
        request=LazyRequest(inbound, inbound_request),
        inbound_request=inbound_request,
    )
    waiting = asyncio.create_task(harness.executor.begin(asked, [both]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    harness.answers["a"] = [fine()]
    await holding.close()
    await (await waiting).close()
    assert harness.asked[-1].body["n"] == 2


async def test_a_request_that_cannot_be_said_takes_no_room(harness: ExecutorHarness) -> None:
    """What was set aside for it is given back whole."""
    blind = harness.target("blind", type="anthropic", overrides={"images": False}, max_concurrency=1)
    with_limits(harness, blind)
    for _ in range(3):
        with pytest.raises(Unsupported):
            await harness.executor.begin(job(messages=[{"role": "user", "content": [PICTURE]}]), [blind])
    assert harness.admission is not None
    assert harness.admission.try_admit(blind, blind.provider.credentials[0], 1) is not None
