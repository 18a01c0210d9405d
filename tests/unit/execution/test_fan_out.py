"""Several requests read as one response: numbered, summed, bounded, and closed together."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import cast

import pytest
from typing_extensions import override

from llmproxy_asgi.clock import SYSTEM
from llmproxy_asgi.conversation import (
    Batch,
    Candidate,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    Message,
    PartDelta,
    PartEnded,
    PartStarted,
    Passed,
    Request,
    Response,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import GatewayError, Unsupported, UpstreamFailed, UpstreamOverloaded
from llmproxy_asgi.execution.admission_queue import UNLIMITED, AdmissionQueue
from llmproxy_asgi.execution.attempt import Attempt, Job
from llmproxy_asgi.execution.concurrency import Slots
from llmproxy_asgi.execution.fan_out import MAX_CONCURRENCY, MAX_REQUESTS, FanOutAttempt, TryAdmit
from llmproxy_asgi.execution.lazy_request import AnyRequest, LazyRequest
from llmproxy_asgi.providers.base import Credential
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import UpstreamRequest
from llmproxy_asgi.translators.stream_validator import StreamValidator

pytestmark = pytest.mark.anyio

BORN = datetime(2026, 1, 1, tzinfo=UTC)
STOP = Finish(reason=FinishReason.STOP)
NOWHERE = cast("Target", None)  # only handed on
NOBODY = cast("Credential", None)  # likewise


class FakeAttempt:
    """An attempt that responds with its prompt."""

    def __init__(self, executor: "FakeExecutor", job: Job) -> None:
        asked = job.request.decode()
        assert isinstance(asked, Request)
        part = asked.messages[0].parts[0]
        assert isinstance(part, Text)
        self.words = part.text
        self.upstream_request = UpstreamRequest(body=b"", stream=job.stream, warnings=("dropped:seed",))
        self.whole = None if job.stream else self._whole(asked)
        self._events = self._stream(asked)
        self._executor = executor

    def _whole(self, asked: Request) -> Response:
        texts = (Text(text=self.words),)
        candidates = tuple(Candidate(index=each, parts=texts, finish=STOP) for each in range(asked.candidates))
        usage = Usage(input=1, output=2, server_tool_calls={"web_search": 1})
        return Response(id=self.words, model="m", created_at=BORN, candidates=candidates, usage=usage)

    def _stream(self, asked: Request) -> Iterator[Sequence[StreamEvent]]:
        yield [Started(self.words, "m", BORN, Usage(input=1))]
        for each in range(asked.candidates):
            yield [PartStarted(each, 0, Text(text="")), Passed("p", None, b"")]
            for letter in self.words:
                yield [PartDelta(each, 0, TextDelta(letter))]
            yield [PartEnded(each, 0), Finished(each, STOP)]
        yield [UsageReported(Usage(input=1, output=2)), Ended()]

    async def next(self) -> Batch | None:
        await asyncio.sleep(0)
        if self.words in self._executor.breaks:
            return Batch((Failed(self._executor.breaks[self.words]),))
        found = next(self._events, None)
        return None if found is None else Batch(found)

    async def close(self) -> None:
        self._executor.open.discard(self.words)


class Prompts(LazyRequest):
    """A batch that may only be decoded prompt by prompt."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.is_batch = True
        self._requests = requests

    @override
    def decode(self) -> AnyRequest:
        pytest.fail("a batch must be decoded prompt by prompt")

    @override
    def decode_each(self) -> Sequence[Request]:
        return self._requests


class FakeExecutor:
    """Begins fake attempts and knows which are open."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.most_open = 0
        self.refuses: dict[str, Exception] = {}
        self.breaks: dict[str, GatewayError] = {}
        self.gate: asyncio.Event | None = None
        self.full = asyncio.Event()
        self.try_admit: TryAdmit = lambda: UNLIMITED

    async def begin(self, job: Job) -> Attempt:
        made = FakeAttempt(self, job)
        self.open.add(made.words)
        self.most_open = max(self.most_open, len(self.open))
        try:
            await self._said(made.words)
        except BaseException:
            self.open.discard(made.words)
            raise
        return cast("Attempt", made)

    async def _said(self, words: str) -> None:
        await asyncio.sleep(0)
        if len(self.open) == MAX_CONCURRENCY:
            self.full.set()
        if self.gate is not None:
            await self.gate.wait()
        if words in self.refuses:
            raise self.refuses[words]

    def fan_out(self, *prompts: str, stream: bool = False, candidates: int = 1) -> FanOutAttempt:
        requests = [
            Request(
                protocol="openai-completions",
                model="m",
                messages=(Message(role="user", parts=(Text(text=prompt),)),),
                candidates=candidates,
                stream=stream,
            )
            for prompt in prompts
        ]
        job = Job(protocol="openai-completions", stream=stream, request=Prompts(requests))
        return FanOutAttempt(job, NOWHERE, NOBODY, self.begin, self.try_admit)


async def read(fan_out: FanOutAttempt) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    while (batch := await fan_out.next()) is not None:
        events += batch.events
    return events


async def test_whole_responses_follow_each_other() -> None:
    """Join responses in the order of the prompts, whichever came first, and sum their usage."""
    executor = FakeExecutor()
    fan_out = executor.fan_out("a", "b", "c", candidates=2)
    await fan_out.begin()
    whole = fan_out.whole
    await fan_out.close()
    assert whole is not None
    assert whole.id == "a"
    assert [candidate.index for candidate in whole.candidates] == [0, 1, 2, 3, 4, 5]
    texts = [part.text for each in whole.candidates for part in each.parts if isinstance(part, Text)]
    assert texts == ["a", "a", "b", "b", "c", "c"]
    assert (whole.usage.input, whole.usage.output, whole.usage.server_tool_calls) == (3, 6, {"web_search": 3})
    assert fan_out.upstream_request.warnings == ("dropped:seed",)
    assert executor.open == set()


@pytest.mark.parametrize("prompts", [["abc", "de"], [f"prompt {number}" for number in range(20)]], ids=len)
async def test_streams_are_one_legal_stream(prompts: list[str]) -> None:
    """Merge streams into one start, parts by candidate, and one end."""
    fan_out = FakeExecutor().fan_out(*prompts, stream=True, candidates=2)
    await fan_out.begin()
    events = await read(fan_out)
    await fan_out.close()
    validator = StreamValidator()
    for event in events:
        validator.check(event)
    assert validator.complete
    answer = fold(events)
    texts = ["".join(part.text for part in each.parts if isinstance(part, Text)) for each in answer.candidates]
    assert texts == [prompt for prompt in prompts for _ in range(2)]
    assert (answer.usage.input, answer.usage.output) == (len(prompts), 2 * len(prompts))


async def test_only_a_few_run_at_once() -> None:
    """Bound concurrency, however many prompts there are."""
    executor = FakeExecutor()
    fan_out = executor.fan_out(*map(str, range(30)))
    await fan_out.begin()
    await fan_out.close()
    assert executor.most_open == MAX_CONCURRENCY


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("places", [1, 2, 3, 9])
async def test_no_more_run_at_once_than_their_provider_admits(places: int, *, stream: bool) -> None:
    """Take a permit for each request beside the call's own; without any, send them one after another; release all."""
    slots = Slots(places)
    queue = AdmissionQueue(None, slots, queue_timeout=0, max_queue=0, clock=SYSTEM)
    assert queue.try_admit(0) is not None  # the call's own
    executor = FakeExecutor()
    executor.try_admit = lambda: queue.try_admit(0)
    fan_out = executor.fan_out(*map(str, range(12)), stream=stream)
    await fan_out.begin()
    assert await read(fan_out) if stream else fan_out.whole
    assert executor.most_open == min(places, MAX_CONCURRENCY)
    await fan_out.close()
    assert slots.used == 1


async def test_a_cancelled_call_releases_every_permit() -> None:
    """Release permits also while some requests wait."""
    slots = Slots(3)
    queue = AdmissionQueue(None, slots, queue_timeout=0, max_queue=0, clock=SYSTEM)
    executor = FakeExecutor()
    executor.try_admit = lambda: queue.try_admit(0)
    executor.gate = asyncio.Event()
    fan_out = executor.fan_out(*map(str, range(12)))
    beginning = asyncio.create_task(fan_out.begin())
    await executor.full.wait()
    assert slots.used == 3
    beginning.cancel()
    await asyncio.wait([beginning])
    await fan_out.close()
    assert (slots.used, executor.open) == (0, set())


async def test_a_cancelled_close_releases_the_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Release the provider's limits although the closing of an attempt is cancelled."""
    closing = asyncio.Event()

    async def close(_fake: FakeAttempt) -> None:
        closing.set()
        await asyncio.Event().wait()

    slots = Slots(1)
    fan_out = FakeExecutor().fan_out("x" * 1000, stream=True)
    await fan_out.begin()
    permit = AdmissionQueue(None, slots, queue_timeout=0, max_queue=0, clock=SYSTEM).try_admit(0)
    assert permit is not None
    fan_out.permit = permit
    monkeypatch.setattr(FakeAttempt, "close", close)
    closing_task = asyncio.create_task(fan_out.close())
    await closing.wait()
    closing_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing_task
    assert slots.used == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_failure_before_the_first_event_is_raised(stream: bool) -> None:
    """Raise the failure as an attempt does, and leave nothing open."""
    executor = FakeExecutor()
    executor.refuses = {each: UpstreamOverloaded("busy") for each in "abc"}
    fan_out = executor.fan_out("a", "b", "c", stream=stream)
    with pytest.raises(UpstreamOverloaded):
        await fan_out.begin()
    await fan_out.close()
    assert executor.open == set()


async def test_one_failure_fails_a_whole_answer() -> None:
    """Fail a whole answer when one of its requests fails, even if the others succeed."""
    executor = FakeExecutor()
    executor.refuses = {"b": Unsupported("no")}
    fan_out = executor.fan_out("a", "b", "c")
    with pytest.raises(Unsupported):
        await fan_out.begin()
    await fan_out.close()


@pytest.mark.parametrize("late", ["refuses", "breaks"])
async def test_a_failure_after_the_first_event_ends_the_stream(late: str) -> None:
    """End the stream with the failure as its last event; closing closes the other attempts."""
    executor = FakeExecutor()
    prompts = [str(number) for number in range(2 * MAX_CONCURRENCY)]
    getattr(executor, late)[prompts[-1]] = UpstreamFailed("gone")
    fan_out = executor.fan_out(*prompts, stream=True)
    await fan_out.begin()
    events = await read(fan_out)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Failed)
    assert not any(isinstance(event, Ended) for event in events)
    assert await fan_out.next() is None
    await fan_out.close()
    assert executor.open == set()


async def test_a_bug_is_no_event() -> None:
    """Raise an exception that is no gateway error."""
    executor = FakeExecutor()
    executor.refuses = {"a": ZeroDivisionError()}
    fan_out = executor.fan_out("a", "b")
    with pytest.raises(ZeroDivisionError):
        await fan_out.begin()
    await fan_out.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_cancelled_begin_closes_all(stream: bool) -> None:
    """Close every running attempt, and never begin the waiting one."""
    executor = FakeExecutor()
    executor.gate = asyncio.Event()
    fan_out = executor.fan_out("a", "b", "c", "d", "e", stream=stream)
    beginning = asyncio.create_task(fan_out.begin())
    await executor.full.wait()
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    await fan_out.close()
    assert executor.open == set()


async def test_a_slow_reader_stops_reading_ahead() -> None:
    """Bound the batches that are read ahead."""
    executor = FakeExecutor()
    fan_out = executor.fan_out("x" * 1000, "y" * 1000, stream=True)
    await fan_out.begin()
    for _ in range(3000):
        await asyncio.sleep(0)
    assert executor.open == {"x" * 1000, "y" * 1000}
    assert len(await read(fan_out)) > 2000
    await fan_out.close()
    assert executor.open == set()


async def test_the_requests_of_one_call_are_bounded() -> None:
    """Refuse more prompts, naming the field."""
    with pytest.raises(Unsupported) as refused:
        FakeExecutor().fan_out(*["p"] * (MAX_REQUESTS + 1))
    assert refused.value.param == "prompt"
