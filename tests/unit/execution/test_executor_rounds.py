"""Answers that pause and are continued in further requests."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from typing_extensions import override

from llmproxy_asgi.conversation import (
    Batch,
    Ended,
    Failed,
    Finished,
    FinishReason,
    Response,
    Started,
    StreamEvent,
    UsageReported,
)
from llmproxy_asgi.errors import (
    UpstreamRateLimited,
)
from llmproxy_asgi.execution.attempt import Attempt
from llmproxy_asgi.execution.continuation import Continuation
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import UpstreamRequest
from llmproxy_asgi.worker import Worker
from support.answers import FakeAnswer
from support.execution import (
    CHAT,
    MESSAGES,
    ExecutorHarness,
    events_of,
    fine,
    job,
    message,
    message_stream,
    message_wire,
    read,
    refused,
    streamed,
    text_delta,
    text_start,
    text_stop,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("size", [1, 7, 64, 500, 10_000])
async def test_rounds_are_one_legal_stream_however_they_are_cut(harness: ExecutorHarness, size: int) -> None:
    """One start, dense parts, growing usage, one finish, one end."""
    target = harness.target(
        "a",
        message_stream("One. ", "Two. ", stop="pause_turn", size=size),
        message_stream("Three. ", stop="pause_turn", size=size),
        message_stream("Four. ", "Five.", size=size),
        type="anthropic",
    )
    events = await events_of(await harness.executor.begin(job(stream=True), [target]))
    assert [type(event) for event in events].count(Started) == 1
    assert [event.finish.reason for event in events if isinstance(event, Finished)] == [FinishReason.STOP]
    assert [type(event) for event in events].count(Ended) == 1
    totals = [event.usage.input for event in events if isinstance(event, UsageReported)]
    assert totals == sorted(totals)
    whole = fold(events)
    assert [part.text for part in whole.candidates[0].parts if hasattr(part, "text")] == [
        "One. ",
        "Two. ",
        "Three. ",
        "Four. ",
        "Five.",
    ]
    assert (whole.usage.input, whole.usage.output) == (30, 9)
    assert [len(asked.body["messages"]) for asked in harness.asked] == [1, 2, 2]
    assert len(harness.asked[2].body["messages"][1]["content"]) == 3


async def test_a_long_round_goes_back_whole(harness: ExecutorHarness) -> None:
    """What is remembered in little room is still every word, part by part."""
    long = "".join(chr(97 + number % 26) for number in range(1000))
    target = harness.target(
        "a", message_stream(long, "z" * 300, stop="pause_turn", size=50), message_stream("."), type="anthropic"
    )
    await events_of(await harness.executor.begin(job(stream=True), [target]))
    turn = harness.asked[1].body["messages"][1]["content"]
    assert turn == [{"type": "text", "text": long}, {"type": "text", "text": "z" * 300}]


async def test_parts_that_overlap_go_back_apart(harness: ExecutorHarness) -> None:
    """However an upstream mixes the pieces of two texts, each comes back as it was."""
    mixed = [text_start(0), text_start(1)]
    for number in range(300):
        mixed += [text_delta(0, f"a{number} "), text_delta(1, f"b{number} ")]
    mixed += [text_stop(0), text_stop(1)]
    target = harness.target("a", streamed(message_wire(mixed, "pause_turn")), message_stream("."), type="anthropic")
    await events_of(await harness.executor.begin(job(stream=True), [target]))
    texts = [block["text"] for block in harness.asked[1].body["messages"][1]["content"]]
    assert texts == ["".join(f"{letter}{number} " for number in range(300)) for letter in "ab"]


class OneByOne(Attempt):
    """An attempt whose every batch holds one event."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting: list[StreamEvent] = []

    @override
    async def next(self) -> Batch | None:
        if self.first is not None or not self._waiting:
            batch = await super().next()
            if batch is None:
                return None
            self._waiting = [*batch.events, *self._waiting]
        return Batch((self._waiting.pop(0),))


async def test_a_pause_and_its_end_may_come_apart(harness: ExecutorHarness) -> None:
    """Hold a finish back until it is known to be one, however events are grouped into batches."""
    target = harness.target("a", message_stream("One. ", stop="pause_turn"), message_stream("Two."), type="anthropic")
    asked, credential = job(stream=True), target.provider.credentials[0]

    async def begun(upstream_request: UpstreamRequest | None = None) -> Attempt:
        attempt = OneByOne(asked, target, credential, upstream_request=upstream_request)
        await attempt.begin(harness.pool(target.provider), largest=10_000, worker=Worker())
        return attempt

    events = await events_of(Continuation(await begun(), begun))
    assert [event.finish.reason for event in events if isinstance(event, Finished)] == [FinishReason.STOP]
    assert fold(events).text == "One. Two."


async def test_a_whole_answer_in_rounds_is_the_first_one_gone_on_with(harness: ExecutorHarness) -> None:
    """It keeps the first round's id, adds up parts and usage, and says what was lost when it went back."""
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    target = harness.target(
        "a",
        message(unsigned, "One. ", stop="pause_turn", id="msg_first"),
        message("Two.", stop="max_tokens", id="msg_last"),
        type="anthropic",
    )
    attempt = await harness.executor.begin(job(), [target])
    await attempt.close()
    assert isinstance(attempt.whole, Response)
    assert attempt.whole.id == "msg_first"
    assert (attempt.whole.reasoning, attempt.whole.text) == ("hm", "One. Two.")
    assert attempt.whole.finish_reason is FinishReason.LENGTH
    assert attempt.whole.usage.total == 26
    assert attempt.upstream_request.warnings == ("dropped:reasoning",)


async def test_a_failed_round_ends_the_stream_for_good(harness: ExecutorHarness) -> None:
    """Report the failure once, with its provider, and count it against the credential."""
    target = harness.target(
        "a", message_stream("One.", stop="pause_turn"), refused(429, retry_after="30"), type="anthropic"
    )
    attempt = await harness.executor.begin(job(stream=True), [target])
    last = [batch async for batch in read(attempt)][-1].events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamRateLimited)
    assert last.error.provider == "a"
    assert await attempt.next() is None
    await attempt.close()
    assert harness.cooldowns.active(target, target.provider.credentials[0])


@pytest.mark.parametrize("begun", [False, True], ids=["beginning", "reading"])
async def test_cancelling_a_later_round_closes_it(harness: ExecutorHarness, begun: bool) -> None:
    """Whichever attempt is open when a caller leaves is closed, and the earlier one already was."""
    head = b'data: {"type":"message_start","message":{"id":"msg_2"}}\n\n'
    second = streamed(head, ...) if begun else streamed(...)
    target = harness.target("a", message_stream("One.", stop="pause_turn"), second, type="anthropic")
    attempt = await harness.executor.begin(job(stream=True), [target])
    task = asyncio.ensure_future(events_of(attempt))
    await second.awaited.wait()
    assert harness.given[0].closed
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await attempt.close()
    assert second.closed


async def test_cancelling_a_whole_answer_in_a_later_round_closes_it(harness: ExecutorHarness) -> None:
    """Likewise where the caller has seen nothing yet."""
    second = FakeAnswer(...)
    target = harness.target("a", message("One.", stop="pause_turn"), second, type="anthropic")
    task = asyncio.ensure_future(harness.executor.begin(job(), [target]))
    await second.awaited.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert second.closed


async def test_who_reads_events_is_told_the_pause(harness: ExecutorHarness) -> None:
    """A call made in Python can say pause itself; nothing is sent on its behalf."""
    target = harness.target("a", message("One.", stop="pause_turn"), type="anthropic")
    attempt = await harness.executor.begin(job(python=True), [target])
    await attempt.close()
    assert isinstance(attempt.whole, Response)
    assert attempt.whole.finish_reason is FinishReason.PAUSE


@pytest.mark.parametrize(
    ("protocol", "kind", "answer"),
    [(CHAT, "openai-compatible", fine), (MESSAGES, "anthropic", message)],
    ids=["chat", "messages"],
)
async def test_passthroughs_are_read_without_a_layer(
    harness: ExecutorHarness, protocol: str, kind: str, answer: Callable[[], FakeAnswer]
) -> None:
    """Where bytes are passed on there is nothing between the attempt and its reader."""
    attempt = await harness.executor.begin(job(protocol), [harness.target("a", answer(), type=kind)])
    await attempt.close()
    assert type(attempt) is Attempt


async def test_a_whole_answer_in_one_round_is_as_it_came(harness: ExecutorHarness) -> None:
    """Looking for a pause changes nothing where there is none."""
    target = harness.target("a", message("One.", "Two."), type="anthropic")
    attempt = await harness.executor.begin(job(), [target])
    await attempt.close()
    assert isinstance(attempt.whole, Response)
    assert attempt.whole.text == "One.Two."
    assert attempt.whole.usage.extras["anthropic-messages"]["input_tokens"] == 10
    assert attempt.upstream_request.warnings == ()
