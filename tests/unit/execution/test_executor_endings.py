"""What failed and cancelled attempts leave behind, and requests that are repeated without reasoning."""

import asyncio
from collections.abc import Callable

import pytest

from llmproxy_asgi.conversation import (
    Failed,
)
from llmproxy_asgi.errors import (
    GatewayError,
    UpstreamRefused,
    UpstreamUnreachable,
)
from support.answers import FakeAnswer
from support.execution import (
    MESSAGES,
    THOUGHT,
    ExecutorHarness,
    first_frame,
    job,
    message,
    read,
    refused,
    streamed,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: refused(500),
        lambda: refused(400),
        streamed,
        lambda: streamed(UpstreamUnreachable("broke")),
        lambda: streamed(b"data: {broken\n\n"),
        lambda: FakeAnswer(b"<html>", content_type="text/html"),
        lambda: FakeAnswer(b"x" * 20_000),
        lambda: FakeAnswer(b'{"half', UpstreamUnreachable("broke"), status=500),
    ],
    ids=["500", "400", "empty", "broken", "unreadable", "html", "too large", "error cut"],
)
async def test_every_failed_attempt_is_closed(
    harness: ExecutorHarness, make: Callable[[], FakeAnswer], stream: bool
) -> None:
    """Close the connection before the next try, whatever was wrong with the answer; the fixture checks it."""
    answer = make()
    target = harness.target("a", answer, retry={"attempts": 1})
    with pytest.raises(GatewayError):
        await harness.executor.begin(job(stream=stream), [target])
    assert answer.closed


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_cancelled_call_closes_its_attempt(harness: ExecutorHarness, stream: bool) -> None:
    """Close the attempt of a caller who disconnects before the answer, and ask no other target."""
    silent = streamed(...) if stream else FakeAnswer(...)
    targets = [harness.target("a", silent), harness.target("b")]
    task = asyncio.ensure_future(harness.executor.begin(job(stream=stream), targets))
    await silent.awaited.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert silent.closed
    assert harness.names == ["a"]


async def test_nothing_is_retried_after_the_first_event(harness: ExecutorHarness) -> None:
    """End a stream that breaks after its first event with the failure, and try no other target."""
    targets = [harness.target("a", streamed(first_frame(), UpstreamUnreachable("broke"))), harness.target("b")]
    attempt = await harness.executor.begin(job(stream=True), targets)
    batches = [batch async for batch in read(attempt)]
    assert isinstance(batches[-1].events[-1], Failed)
    assert await attempt.next() is None
    await attempt.close()
    assert harness.names == ["a"]


THINKING_TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "So."}]},
    {"role": "user", "content": "and?"},
]


async def test_leaving_reasoning_out_counts_no_try_and_starts_no_cooldown(harness: ExecutorHarness) -> None:
    """Repeat with the same credential although one attempt is allowed, and warn of what was left out."""
    target = harness.target(
        "a", refused(400), message("fine"), type="anthropic", api_key=["key-1", "key-2"], retry={"attempts": 1}
    )
    attempt = await harness.executor.begin(job(MESSAGES, messages=THINKING_TURNS), [target])
    assert attempt.passthrough is not None
    assert attempt.upstream_request.warnings == ("dropped:reasoning",)
    await attempt.close()
    assert [asked.key for asked in harness.asked] == ["key-1", "key-1"]
    assert [asked.body["messages"][1]["content"] for asked in harness.asked] == [
        [THOUGHT, {"type": "text", "text": "So."}],
        [{"type": "text", "text": "So."}],
    ]
    assert harness.clock.slept == []
    assert all(harness.cooldowns.active(target, one) is None for one in target.provider.credentials)


async def test_the_second_refusal_is_the_answer(harness: ExecutorHarness) -> None:
    """Twice, and never a third time; no other target either."""
    target = harness.target("a", refused(400), refused(400, "still no"), type="anthropic", retry={"attempts": 9})
    with pytest.raises(UpstreamRefused, match="still no"):
        await harness.executor.begin(job(MESSAGES, messages=THINKING_TURNS), [target, harness.target("b")])
    assert harness.names == ["a", "a"]


async def test_another_target_gets_the_reasoning_again(harness: ExecutorHarness) -> None:
    """Send the next target everything, if the second attempt fails for another reason."""
    first = harness.target("a", refused(400), refused(500), type="anthropic", retry={"attempts": 1})
    second = harness.target("b", message("fine"), type="anthropic")
    attempt = await harness.executor.begin(job(MESSAGES, messages=THINKING_TURNS), [first, second])
    await attempt.close()
    assert attempt.upstream_request.warnings == ()
    assert harness.asked[-1].body["messages"] == THINKING_TURNS
