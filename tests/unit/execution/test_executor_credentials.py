"""Which credentials are tried, how often, after which waits, and which stay unused for a time."""

import gc
import time

import pytest

from llmproxy_asgi.errors import (
    GatewayError,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from llmproxy_asgi.execution.cooldown import FAILURE_THRESHOLD
from support.answers import FakeAnswer
from support.execution import ExecutorHarness, fine, job, refused, words_of

pytestmark = pytest.mark.anyio


async def test_credentials_are_taken_in_turn(harness: ExecutorHarness) -> None:
    """Call after call starts with the next one."""
    target = harness.target("a", *(fine() for _ in range(6)), api_key=["key-1", "key-2", "key-3"])
    for _ in range(6):
        await words_of(await harness.executor.begin(job(), [target]))
    assert [asked.key for asked in harness.asked] == ["key-1", "key-2", "key-3"] * 2


@pytest.mark.parametrize("status", [401, 402, 429])
async def test_a_limit_of_one_credential_is_retried_with_the_next_at_once(
    harness: ExecutorHarness, status: int
) -> None:
    """Use the next key without a backoff, and put the first one into cooldown."""
    target = harness.target("a", refused(status), fine(), fine(), api_key=["key-1", "key-2"])
    await words_of(await harness.executor.begin(job(), [target]))
    assert [asked.key for asked in harness.asked] == ["key-1", "key-2"]
    assert harness.clock.slept == []
    await words_of(await harness.executor.begin(job(), [target]))
    assert harness.asked[-1].key == "key-2"


async def test_attempts_bound_the_credentials_tried(harness: ExecutorHarness) -> None:
    """`attempts` counts all tries on a target, with whatever credential."""
    target = harness.target("a", refused(401), refused(401), api_key=["key-1", "key-2", "key-3"])
    other = harness.target("b", fine())
    await words_of(await harness.executor.begin(job(), [target, other]))
    assert harness.names == ["a", "a", "b"]


async def test_targets_in_cooldown_are_skipped(harness: ExecutorHarness) -> None:
    """Skip a target in cooldown while another can serve, and prefer it again when the cooldown is over."""
    busy = harness.target("busy", refused(429, retry_after="30"), fine("busy again"))
    other = harness.target("other", *(fine("other") for _ in range(2)))
    for _ in range(2):
        assert await words_of(await harness.executor.begin(job(), [busy, other])) == "other"
    assert harness.names == ["busy", "other", "other"]
    harness.clock.at += 30
    assert await words_of(await harness.executor.begin(job(), [busy, other])) == "busy again"


async def test_when_all_were_asked_to_wait_the_caller_gets_the_shortest_wait(harness: ExecutorHarness) -> None:
    """Ask no upstream, and answer 429 with the time left of the shortest cooldown."""
    targets = [
        harness.target("a", refused(429, retry_after="40")),
        harness.target("b", refused(429, retry_after="25")),
    ]
    with pytest.raises(UpstreamRateLimited):
        await harness.executor.begin(job(), targets)
    harness.clock.at += 5
    with pytest.raises(UpstreamRateLimited) as caught:
        await harness.executor.begin(job(), targets)
    assert caught.value.retry_after == 20
    assert harness.names == ["a", "b"]


async def test_when_all_are_in_configured_cooldown_the_nearest_to_its_end_is_tried(harness: ExecutorHarness) -> None:
    """Try a target in a cooldown of the gateway's own rather than fail, but respect what an upstream asked for."""
    slow = harness.target("slow", refused(401), cooldown=90)
    quick = harness.target("quick", refused(401), fine("quick"), cooldown=60)
    asked = harness.target("asked", refused(429, retry_after="10"))
    with pytest.raises(GatewayError):
        await harness.executor.begin(job(), [slow, quick, asked])
    harness.asked.clear()
    assert await words_of(await harness.executor.begin(job(), [slow, quick, asked])) == "quick"
    assert harness.names == ["quick"]


async def test_backoff_is_slept_with_the_clock(harness: ExecutorHarness) -> None:
    """Between tries on one target, within jittered doubling bounds; not before the next target."""
    target = harness.target("a", *(refused(500) for _ in range(4)), retry={"attempts": 4, "backoff": 1})
    await words_of(await harness.executor.begin(job(), [target, harness.target("b", fine())]))
    assert len(harness.clock.slept) == 3
    assert all(0 <= slept <= bound for slept, bound in zip(harness.clock.slept, (1, 2, 4), strict=True))
    assert len(set(harness.clock.slept)) == 3


async def test_a_short_wait_that_was_asked_for_is_waited(harness: ExecutorHarness) -> None:
    """To the second, then the same target answers."""
    target = harness.target("a", refused(529, retry_after="3"), fine())
    await words_of(await harness.executor.begin(job(), [target]))
    assert harness.clock.slept == [3]


async def test_no_retry_waits_for_a_key_in_cooldown(harness: ExecutorHarness) -> None:
    """Answer at once, without a retry, when the only key is in cooldown for long."""
    target = harness.target("a", refused(429), retry={"attempts": 3, "backoff": 5})
    with pytest.raises(UpstreamRateLimited):
        await harness.executor.begin(job(), [target])
    assert harness.clock.slept == []
    again = harness.target("b", refused(429), fine(), retry={"attempts": 3, "backoff": 5}, cooldown=0)
    await words_of(await harness.executor.begin(job(), [again]))
    assert len(harness.clock.slept) == 1


async def test_a_call_that_is_over_its_total_begins_no_further_wait(harness: ExecutorHarness) -> None:
    """Leave no wait behind that is never awaited, however long the loop was blocked."""

    def late() -> FakeAnswer:
        time.sleep(0.02)
        return fine()

    target = harness.target("a", retry={"attempts": 1}, timeout={"total": "10ms"})
    harness.answers["a"] = [late]
    with pytest.raises(UpstreamTimeout):
        await harness.executor.begin(job(), [target])
    gc.collect()  # a coroutine that was never awaited says so now, which fails this test


async def test_a_success_forgets_earlier_failures(harness: ExecutorHarness) -> None:
    """Count only consecutive failures towards a cooldown."""
    row = [refused(500) for _ in range(FAILURE_THRESHOLD - 1)]
    target = harness.target("a", *row, fine(), refused(500), fine(), retry={"attempts": 10, "backoff": 0})
    await words_of(await harness.executor.begin(job(), [target]))
    await words_of(await harness.executor.begin(job(), [target]))
    assert harness.cooldowns.active(target, target.provider.credentials[0]) is None
