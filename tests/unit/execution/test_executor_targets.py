"""Which targets are tried, in which order, and which are skipped."""

import asyncio
import json
from typing import Any

import pytest

from llmproxy_asgi.conversation import (
    Failed,
)
from llmproxy_asgi.errors import (
    BadRequest,
    Unsupported,
    UpstreamFailed,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnreachable,
)
from llmproxy_asgi.execution.attempt import Job
from llmproxy_asgi.execution.cooldown import FAILURE_THRESHOLD
from llmproxy_asgi.execution.lazy_request import LazyRequest
from llmproxy_asgi.translators.registry import translator
from support.answers import FakeAnswer
from support.execution import (
    PICTURE,
    ExecutorHarness,
    fine,
    first_frame,
    frame,
    job,
    refused,
    streamed,
    words_of,
)

pytestmark = pytest.mark.anyio


async def test_targets_are_tried_in_order(harness: ExecutorHarness) -> None:
    """Ask the next target when the one before has used up its tries, and none after the one that answers."""
    targets = [
        harness.target("a", refused(500), UpstreamUnreachable("gone")),
        harness.target("b", refused(503), refused(529)),
        harness.target("c", fine("from c")),
        harness.target("d"),
    ]
    assert await words_of(await harness.executor.begin(job(), targets)) == "from c"
    assert harness.names == ["a", "a", "b", "b", "c"]


async def test_the_last_failure_is_raised(harness: ExecutorHarness) -> None:
    """Name the provider of the last failure, for the log."""
    targets = [
        harness.target("a", refused(500), retry={"attempts": 1}),
        harness.target("b", FakeAnswer(b"no JSON"), FakeAnswer(b"")),
    ]
    with pytest.raises(UpstreamProtocolError) as caught:
        await harness.executor.begin(job(), targets)
    assert caught.value.provider == "b"


async def test_a_target_that_cannot_say_it_is_passed_over(harness: ExecutorHarness) -> None:
    """Send an image to the target that accepts images, and nothing to the other one."""
    blind = harness.target("blind", type="anthropic", overrides={"images": False})
    seeing = harness.target("seeing", fine("seen"))
    asked = job(messages=[{"role": "user", "content": [PICTURE]}])
    assert await words_of(await harness.executor.begin(asked, [blind, seeing])) == "seen"
    assert harness.names == ["seeing"]


@pytest.mark.parametrize("order", [("blind", "proud"), ("proud", "blind")], ids="-".join)
async def test_where_no_target_can_express_a_request_the_first_one_gives_the_reason(
    harness: ExecutorHarness, order: tuple[str, str]
) -> None:
    """Refuse a request that no target can express, and ask no upstream."""
    targets = {
        "blind": harness.target("blind", type="anthropic", overrides={"images": False, "prefill": True}),
        "proud": harness.target("proud", type="anthropic", overrides={"images": True, "prefill": False}),
    }
    asked = job(messages=[{"role": "user", "content": [PICTURE]}, {"role": "assistant", "content": "It is"}])
    with pytest.raises(Unsupported) as caught:
        await harness.executor.begin(asked, [targets[name] for name in order])
    assert ("image" in caught.value.message) == (order[0] == "blind")
    assert harness.asked == []


async def test_what_one_of_an_upstreams_protocols_cannot_say_another_may(harness: ExecutorHarness) -> None:
    """Responses gives one answer; Chat, of the same upstream, gives several."""
    both = harness.target("a", fine(), type="openai", protocol=["openai-responses", "openai-chat"])
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
    attempt = await harness.executor.begin(asked, [both])
    await attempt.close()
    assert harness.asked[0].body["n"] == 2
    alone = harness.target("b", type="openai", protocol="openai-responses")
    with pytest.raises(Unsupported) as caught:
        await harness.executor.begin(asked, [alone])
    assert caught.value.param == "generationConfig.candidateCount"


async def test_a_failure_outweighs_an_earlier_misfit(harness: ExecutorHarness) -> None:
    """Report the failure of the target that was tried, not that another one can't express the request."""
    blind = harness.target("blind", type="anthropic", overrides={"images": False})
    failing = harness.target("failing", refused(500), refused(500))
    with pytest.raises(UpstreamFailed):
        await harness.executor.begin(job(messages=[{"role": "user", "content": [PICTURE]}]), [blind, failing])


async def test_a_broken_request_ends_the_call(harness: ExecutorHarness) -> None:
    """It is as broken for the next target."""
    orphan = [{"role": "tool", "tool_call_id": "call_x", "content": "?"}]
    targets = [harness.target("a", type="anthropic"), harness.target("b", fine())]
    with pytest.raises(BadRequest) as caught:
        await harness.executor.begin(job(messages=orphan), targets)
    assert not isinstance(caught.value, Unsupported)
    assert harness.asked == []


@pytest.mark.parametrize("status", [400, 409, 413, 422])
async def test_a_refused_request_goes_to_no_other_target(harness: ExecutorHarness, status: int) -> None:
    """Answer with the refusal: no retry, no other target."""
    targets = [harness.target("a", refused(status)), harness.target("b")]
    with pytest.raises(UpstreamRefused) as caught:
        await harness.executor.begin(job(), targets)
    assert caught.value.status == status
    assert harness.names == ["a"]


async def test_a_model_that_is_not_there_may_be_elsewhere(harness: ExecutorHarness) -> None:
    """Try the next target after a 404, which concerns one upstream's model, and start no cooldown."""
    answers = [refused(404) for _ in range(FAILURE_THRESHOLD)]
    lacking = harness.target("lacking", *answers, type="anthropic")
    for _ in answers:
        assert await words_of(await harness.executor.begin(job(), [lacking, harness.target("b", fine())])) == "fine"
    assert harness.names == ["lacking", "b"] * FAILURE_THRESHOLD
    assert harness.cooldowns.active(lacking, lacking.provider.credentials[0]) is None


async def test_a_target_that_begins_to_rest_meanwhile_is_passed_over(harness: ExecutorHarness) -> None:
    """What other calls learnt while this one was busy elsewhere counts."""
    resting = harness.target("resting")

    def others_fail() -> FakeAnswer:
        for _ in range(FAILURE_THRESHOLD):
            harness.cooldowns.failed(resting, resting.provider.credentials[0], UpstreamFailed(""), 30)
        return refused(500)

    first = harness.target("first", retry={"attempts": 1})
    harness.answers["first"] = [others_fail]
    asked = job()
    assert (
        await words_of(await harness.executor.begin(asked, [first, resting, harness.target("last", fine())])) == "fine"
    )
    assert harness.names == ["first", "last"]
    assert [(step.target, step.outcome, step.why) for step in asked.context.steps] == [
        ("first/upstream-model", "failed", "upstream"),
        ("resting/upstream-model", "skipped", "resting"),
        ("last/upstream-model", "served", ""),
    ]


async def test_after_rate_limits_alone_the_shortest_wait_is_raised(harness: ExecutorHarness) -> None:
    """Raise the shortest wait, after which a target is free."""
    targets = [harness.target("a", refused(429, retry_after="20")), harness.target("b", refused(429, retry_after="90"))]
    with pytest.raises(UpstreamRateLimited) as caught:
        await harness.executor.begin(job(), targets)
    assert caught.value.retry_after == 20


async def test_the_nearest_resting_target_is_tried_once(harness: ExecutorHarness) -> None:
    """A try for want of anything better is not repeated."""
    target = harness.target("a", refused(500), retry={"attempts": 3}, cooldown=30)
    for _ in range(FAILURE_THRESHOLD):
        harness.cooldowns.failed(target, target.provider.credentials[0], UpstreamFailed(""), 30)
    with pytest.raises(UpstreamFailed):
        await harness.executor.begin(job(), [target])
    assert harness.names == ["a"]


async def test_while_one_call_tries_a_half_open_target_others_go_elsewhere(harness: ExecutorHarness) -> None:
    """One caller at a time is risked."""
    target, other = harness.target("a", streamed(first_frame(), ...)), harness.target("b", fine())
    for _ in range(FAILURE_THRESHOLD):
        harness.cooldowns.failed(target, target.provider.credentials[0], UpstreamFailed(""), 30)
    harness.clock.at += 30
    harness.answers["a"] = [streamed(...)]
    trying = asyncio.create_task(harness.executor.begin(job(stream=True), [target, other]))
    await asyncio.sleep(0)
    assert await words_of(await harness.executor.begin(job(), [target, other])) == "fine"
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    harness.answers["a"] = [fine("back")]
    assert await words_of(await harness.executor.begin(job(), [target, other])) == "back"


async def test_a_stream_that_breaks_off_counts_against_its_upstream(harness: ExecutorHarness) -> None:
    """Put an upstream whose streams always break off into cooldown."""
    target = harness.target("a", type="openai-compatible")
    credential = target.provider.credentials[0]
    for _ in range(FAILURE_THRESHOLD):
        assert harness.cooldowns.active(target, credential) is None
        harness.answers["a"] = [streamed(first_frame(), UpstreamUnreachable("gone"))]
        attempt = await harness.executor.begin(job(stream=True), [target])
        while await attempt.next() is not None:
            pass
        await attempt.close()
    assert harness.cooldowns.active(target, credential) is not None


async def test_a_stream_may_be_so_long(harness: ExecutorHarness) -> None:
    """Longer ones break off, however small their events are; a limit for whole answers does not count."""
    piece, end = first_frame(), frame(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    for times, failed in ((150_000 // len(piece), False), (200_000 // len(piece) + 1, True)):
        target = harness.target("a", streamed(*[piece] * times, end))
        attempt = await harness.executor.begin(job(stream=True), [target])
        last: Any = None
        while (batch := await attempt.next()) is not None:
            last = batch.events[-1] if batch.events else last
        assert isinstance(last, Failed) is failed
        await attempt.close()
