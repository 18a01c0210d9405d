"""Which target is asked with which credential, how often, and what is left behind: executor and pools of ours."""

import asyncio
import gc
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from typing_extensions import override

from llmproxy_asgi.clock import SYSTEM
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
    BadRequest,
    GatewayError,
    Unsupported,
    UpstreamFailed,
    UpstreamProtocolError,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from llmproxy_asgi.execution.admission import LiveGates, TargetAdmission
from llmproxy_asgi.execution.attempt import Attempt, Job
from llmproxy_asgi.execution.continuation import Continuation
from llmproxy_asgi.execution.cooldown import FAILURES_BEFORE_REST
from llmproxy_asgi.execution.executor import Executor, Opened
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.translators.assemble import fold
from llmproxy_asgi.translators.base import Outgoing
from llmproxy_asgi.translators.grammar import Grammar
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.transport import Answer, Pool
from llmproxy_asgi.worker import Worker

pytestmark = pytest.mark.anyio

CHAT, MESSAGES = "openai-chat", "anthropic-messages"
PICTURE = {"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "c2lnbmF0dXJl"}


# ── the world outside ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class FakeClock:
    """A clock that only a test turns; sleeping turns it."""

    at: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.at

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds


class Told(Answer):
    """An answer out of these pieces; an error among them is raised in its turn, and `...` never comes."""

    def __init__(self, *pieces: Any, status: int = 200, **headers: str) -> None:
        super().__init__(status, None)
        self._pieces = list(pieces)
        self._told = headers
        self.closed = 0
        self.awaited = asyncio.Event()
        """Somebody waits for what never comes."""

    @property
    @override
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        return [(name.replace("_", "-").encode(), value.encode()) for name, value in self._told.items()]

    @override
    async def raw(self) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if piece is ...:
            self.awaited.set()
            await asyncio.Event().wait()
        if isinstance(piece, Exception):
            raise piece
        return bytes(piece)

    @override
    async def aclose(self) -> None:
        self.closed += 1


@dataclass
class Asked:
    """One request as the pool was given it."""

    provider: str
    key: str
    body: dict[str, Any]


class World:
    """Providers by name, what each answers to its next requests, and what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, list[Told | Exception | Callable[[], Told]]] = {}
        self.given: list[Told] = []
        self.clock = FakeClock()
        self.cooldowns = TargetCooldowns(self.clock)
        self.admission: TargetAdmission | None = None
        self.executor = Executor(
            self.pool,
            self.cooldowns,
            largest_answer=10_000,
            largest_stream=200_000,
            clock=self.clock,
            draw=random.Random(7),
        )

    def target(self, name: str, *answers: Told | Exception, type: str = "openai-compatible", **block: Any) -> Target:  # noqa: A002  as in the configuration
        """A target whose provider gives these answers; then the test fails."""
        capabilities = block.pop("overrides", None)
        made = provider_class(type)
        config = made.Config(type=type, **{"base_url": "http://127.0.0.1/v1", "api_key": ["key-1"], **block})
        self.answers[name] = list(answers)
        return Target(made(name, config), "upstream-model", asked="m", overrides=capabilities)

    def pool(self, provider: Provider) -> Pool:
        return OnePool(self, provider.name)

    @property
    def names(self) -> list[str]:
        """Who was asked, in order."""
        return [asked.provider for asked in self.asked]


class OnePool(Pool):
    """A provider's connections, without any."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    @override
    async def open(
        self, method: str, url: Any, headers: Any, body: bytes, *, connect: float, progress: Any = None
    ) -> Answer:
        named = {name.decode(): value.decode() for name, value in headers}
        key = named.get("x-api-key") or named.get("authorization", "").removeprefix("Bearer ")
        self._world.asked.append(Asked(self._name, key, json.loads(body)))
        answers = self._world.answers[self._name]
        assert answers, f"{self._name} was asked more often than it should"
        answer = answers.pop(0)
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        self._world.given.append(answer)
        return answer


def job(protocol: str = CHAT, *, stream: bool = False, python: bool = False, **fields: Any) -> Job:
    """A call as the engine makes it."""
    body = {"model": "m", "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    inbound = translator(protocol).inbound
    intake = inbound.open(json.dumps(body).encode(), headers={})
    request = inbound.decode(intake)
    return Job(protocol=protocol, stream=stream, request=lambda: request, intake=None if python else intake)


def fine(words: str = "fine") -> Told:
    """A whole Chat answer."""
    message = {"role": "assistant", "content": words}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return Told(json.dumps({"id": "chatcmpl-1", "created": 1, "model": "u", "choices": choices}).encode())


def frame(**chunk: Any) -> bytes:
    return b"data: " + json.dumps({"id": "chatcmpl-1", "created": 1, "model": "u", **chunk}).encode() + b"\n\n"


def first_frame() -> bytes:
    return frame(choices=[{"index": 0, "delta": {"role": "assistant", "content": "x"}}])


def streamed(*pieces: Any) -> Told:
    return Told(*pieces, content_type="text/event-stream")


def refused(status: int = 400, message: str = "no", **headers: str) -> Told:
    return Told(json.dumps({"error": {"message": message}}).encode(), status=status, **headers)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Whatever happens in a test, no answer stays open behind it that nobody was given."""
    made = World()
    yield made
    assert all(answer.closed for answer in made.given), "an answer was left open"


async def words_of(attempt: Opened) -> str:
    """The words of a whole answer that was relayed; the attempt is closed."""
    whole = attempt.whole
    await attempt.close()
    assert isinstance(whole, Batch)
    assert whole.raw is not None
    content = json.loads(whole.raw)["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


# ── targets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_targets_are_asked_in_their_order(world: World) -> None:
    """The next one is asked when the one before it has used up its tries, and nobody after the one that answers."""
    targets = [
        world.target("a", refused(500), UpstreamUnreachable("gone")),
        world.target("b", refused(503), refused(529)),
        world.target("c", fine("from c")),
        world.target("d"),
    ]
    assert await words_of(await world.executor.begin(job(), targets)) == "from c"
    assert world.names == ["a", "a", "b", "b", "c"]


async def test_the_last_failure_is_the_one_that_is_told(world: World) -> None:
    """It names its provider, for the log."""
    targets = [world.target("a", refused(500), retry={"attempts": 1}), world.target("b", Told(b"no JSON"), Told(b""))]
    with pytest.raises(UpstreamProtocolError) as caught:
        await world.executor.begin(job(), targets)
    assert caught.value.provider == "b"


async def test_a_target_that_cannot_say_it_is_passed_over(world: World) -> None:
    """A picture goes to the target that takes pictures; the other one is never asked."""
    blind = world.target("blind", type="anthropic", overrides={"images": False})
    seeing = world.target("seeing", fine("seen"))
    asked = job(messages=[{"role": "user", "content": [PICTURE]}])
    assert await words_of(await world.executor.begin(asked, [blind, seeing])) == "seen"
    assert world.names == ["seeing"]


@pytest.mark.parametrize("order", [("blind", "proud"), ("proud", "blind")], ids="-".join)
async def test_where_no_target_can_say_it_the_first_one_tells_why(world: World, order: tuple[str, str]) -> None:
    """A request that nobody can express is the caller's to change; no upstream is asked."""
    targets = {
        "blind": world.target("blind", type="anthropic", overrides={"images": False, "prefill": True}),
        "proud": world.target("proud", type="anthropic", overrides={"images": True, "prefill": False}),
    }
    asked = job(messages=[{"role": "user", "content": [PICTURE]}, {"role": "assistant", "content": "It is"}])
    with pytest.raises(Unsupported) as caught:
        await world.executor.begin(asked, [targets[name] for name in order])
    assert ("image" in caught.value.message) == (order[0] == "blind")
    assert world.asked == []


async def test_what_one_of_an_upstreams_protocols_cannot_say_another_may(world: World) -> None:
    """Responses gives one answer; Chat, of the same upstream, gives several."""
    both = world.target("a", fine(), type="openai", protocol=["openai-responses", "openai-chat"])
    body = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"candidateCount": 2}}
    inbound = translator("gemini").inbound
    intake = inbound.open(json.dumps(body).encode(), headers={}, path={"model": "m", "method": "generateContent"})
    asked = Job(protocol="gemini", stream=False, request=lambda: inbound.decode(intake), intake=intake)
    attempt = await world.executor.begin(asked, [both])
    await attempt.close()
    assert world.asked[0].body["n"] == 2
    alone = world.target("b", type="openai", protocol="openai-responses")
    with pytest.raises(Unsupported) as caught:
        await world.executor.begin(asked, [alone])
    assert caught.value.param == "generationConfig.candidateCount"


async def test_a_failure_outweighs_an_earlier_misfit(world: World) -> None:
    """Who was really asked and failed says how the call ended."""
    blind = world.target("blind", type="anthropic", overrides={"images": False})
    failing = world.target("failing", refused(500), refused(500))
    with pytest.raises(UpstreamFailed):
        await world.executor.begin(job(messages=[{"role": "user", "content": [PICTURE]}]), [blind, failing])


async def test_a_broken_request_ends_the_call(world: World) -> None:
    """It is as broken for the next target."""
    orphan = [{"role": "tool", "tool_call_id": "call_x", "content": "?"}]
    targets = [world.target("a", type="anthropic"), world.target("b", fine())]
    with pytest.raises(BadRequest) as caught:
        await world.executor.begin(job(messages=orphan), targets)
    assert not isinstance(caught.value, Unsupported)
    assert world.asked == []


@pytest.mark.parametrize("status", [400, 409, 413, 422])
async def test_a_refused_request_is_nobody_elses(world: World, status: int) -> None:
    """A refusal is the answer: no retry, no other target."""
    targets = [world.target("a", refused(status)), world.target("b")]
    with pytest.raises(UpstreamRefused) as caught:
        await world.executor.begin(job(), targets)
    assert caught.value.status == status
    assert world.names == ["a"]


async def test_a_model_that_is_not_there_may_be_elsewhere(world: World) -> None:
    """A 404 is about one upstream's model; the next target has its own, and no credential rests for it."""
    answers = [refused(404) for _ in range(FAILURES_BEFORE_REST)]
    lacking = world.target("lacking", *answers, type="anthropic")
    for _ in answers:
        assert await words_of(await world.executor.begin(job(), [lacking, world.target("b", fine())])) == "fine"
    assert world.names == ["lacking", "b"] * FAILURES_BEFORE_REST
    assert world.cooldowns.resting(lacking, lacking.provider.credentials[0]) is None


# ── what rests or is full is passed over ─────────────────────────────────────────────────────────────────────────────


async def test_a_target_that_begins_to_rest_meanwhile_is_passed_over(world: World) -> None:
    """What other calls learnt while this one was busy elsewhere counts."""
    resting = world.target("resting")

    def others_fail() -> Told:
        for _ in range(FAILURES_BEFORE_REST):
            world.cooldowns.failed(resting, resting.provider.credentials[0], UpstreamFailed(""), 30)
        return refused(500)

    first = world.target("first", retry={"attempts": 1})
    world.answers["first"] = [others_fail]
    asked = job()
    assert await words_of(await world.executor.begin(asked, [first, resting, world.target("last", fine())])) == "fine"
    assert world.names == ["first", "last"]
    assert [(step.target, step.outcome, step.why) for step in asked.course.steps] == [
        ("first/upstream-model", "failed", "upstream"),
        ("resting/upstream-model", "skipped", "resting"),
        ("last/upstream-model", "served", ""),
    ]


async def test_after_waits_alone_the_shortest_one_is_told(world: World) -> None:
    """Whoever comes back then finds somebody."""
    targets = [world.target("a", refused(429, retry_after="20")), world.target("b", refused(429, retry_after="90"))]
    with pytest.raises(UpstreamRateLimited) as caught:
        await world.executor.begin(job(), targets)
    assert caught.value.retry_after == 20


async def test_the_nearest_resting_target_is_tried_once(world: World) -> None:
    """A try for want of anything better is not repeated."""
    target = world.target("a", refused(500), retry={"attempts": 3}, cooldown=30)
    for _ in range(FAILURES_BEFORE_REST):
        world.cooldowns.failed(target, target.provider.credentials[0], UpstreamFailed(""), 30)
    with pytest.raises(UpstreamFailed):
        await world.executor.begin(job(), [target])
    assert world.names == ["a"]


async def test_while_one_call_tries_a_half_open_target_others_go_elsewhere(world: World) -> None:
    """One caller at a time is risked."""
    target, other = world.target("a", streamed(first_frame(), ...)), world.target("b", fine())
    for _ in range(FAILURES_BEFORE_REST):
        world.cooldowns.failed(target, target.provider.credentials[0], UpstreamFailed(""), 30)
    world.clock.at += 30
    world.answers["a"] = [streamed(...)]
    trying = asyncio.create_task(world.executor.begin(job(stream=True), [target, other]))
    await asyncio.sleep(0)
    assert await words_of(await world.executor.begin(job(), [target, other])) == "fine"
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    world.answers["a"] = [fine("back")]
    assert await words_of(await world.executor.begin(job(), [target, other])) == "back"


async def test_a_stream_that_breaks_off_counts_against_its_upstream(world: World) -> None:
    """So one that always does rests in the end; one that ends well forgets it all."""
    target = world.target("a", type="openai-compatible")
    credential = target.provider.credentials[0]
    for _ in range(FAILURES_BEFORE_REST):
        assert world.cooldowns.resting(target, credential) is None
        world.answers["a"] = [streamed(first_frame(), UpstreamUnreachable("gone"))]
        attempt = await world.executor.begin(job(stream=True), [target])
        while await attempt.next() is not None:
            pass
        await attempt.close()
    assert world.cooldowns.resting(target, credential) is not None


async def test_a_stream_may_be_so_long(world: World) -> None:
    """Longer ones break off, however small their events are; a limit for whole answers does not count."""
    piece, end = first_frame(), frame(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    for times, failed in ((150_000 // len(piece), False), (200_000 // len(piece) + 1, True)):
        target = world.target("a", streamed(*[piece] * times, end))
        attempt = await world.executor.begin(job(stream=True), [target])
        last: Any = None
        while (batch := await attempt.next()) is not None:
            last = batch.events[-1] if batch.events else last
        assert isinstance(last, Failed) is failed
        await attempt.close()


def with_limits(world: World, *targets: Target) -> None:
    """From here on the providers' limits hold."""
    world.admission = LiveGates(SYSTEM).targets([target.provider for target in targets])
    world.executor = Executor(
        world.pool,
        world.cooldowns,
        largest_answer=10_000,
        largest_stream=200_000,
        admission=world.admission,
        clock=world.clock,
        draw=random.Random(7),
    )


ONE_PLACE: dict[str, Any] = {"max_concurrency": 1, "rate_limit": {"queue_timeout": 60}}


async def test_a_full_target_is_passed_over_and_waited_for_if_nothing_else_serves(world: World) -> None:
    """Somebody else's room first; then the first room there is."""
    full = world.target("full", streamed(first_frame(), ...), max_concurrency=1, rate_limit={"queue_timeout": 60})
    with_limits(world, full)
    holding = await world.executor.begin(job(stream=True), [full])
    asked = job()
    assert await words_of(await world.executor.begin(asked, [full, world.target("b", fine("b"))])) == "b"
    assert [(step.outcome, step.why) for step in asked.course.steps] == [("skipped", "full"), ("served", "")]
    world.answers["full"] = [fine("room")]
    waiting = asyncio.create_task(world.executor.begin(job(), [full]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    await holding.close()
    assert await words_of(await waiting) == "room"


async def test_who_waited_goes_on_to_the_next_full_target_when_the_first_one_fails(world: World) -> None:
    """Having waited costs no call its other targets."""
    first = world.target("first", streamed(first_frame(), ...), retry={"attempts": 1}, **ONE_PLACE)
    second = world.target("second", streamed(first_frame(), ...), **ONE_PLACE)
    with_limits(world, first, second)
    holding = [await world.executor.begin(job(stream=True), [target]) for target in (first, second)]
    world.answers |= {"first": [UpstreamUnreachable("gone")], "second": [fine("second")]}
    asked = job()
    waiting = asyncio.create_task(world.executor.begin(asked, [first, second]))
    for held in holding:
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        await held.close()
    assert await words_of(await waiting) == "second"
    assert [step.outcome for step in asked.course.steps] == ["skipped", "skipped", "failed", "served"]


async def in_line(world: World, target: Target) -> tuple[Job, asyncio.Task[Opened]]:
    """A call that waits for room with a target."""
    asked = job()
    waiting = asyncio.create_task(world.executor.begin(asked, [target]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    return asked, waiting


async def test_who_waited_is_tried_again_like_everybody_else(world: World) -> None:
    """A reset that a second try mends is mended, though there was a wait for room before."""
    target = world.target("a", streamed(first_frame(), ...), retry={"attempts": 2}, **ONE_PLACE)
    with_limits(world, target)
    held = await world.executor.begin(job(stream=True), [target])
    asked, waiting = await in_line(world, target)
    world.answers["a"] = [UpstreamUnreachable("gone"), fine("mended")]
    await held.close()
    assert await words_of(await waiting) == "mended"
    assert [step.outcome for step in asked.course.steps] == ["skipped", "failed", "served"]


@pytest.mark.parametrize("others", [0, 1])
async def test_who_waited_and_found_one_key_told_off_goes_on_to_the_next(world: World, others: int) -> None:
    """What binds one key says nothing of the other: that is tried at once, or waited for where others are first."""
    block: dict[str, Any] = {"api_key": ["key-1", "key-2"], "max_concurrency": 1}
    limits = {"queue_timeout": 60, "scope": "credential", "requests_per_second": 1000, "burst": 1000}
    target = world.target("a", streamed(first_frame(), ...), rate_limit=limits, **block)
    with_limits(world, target)
    held = await world.executor.begin(job(stream=True), [target])
    world.asked.clear()
    _, waiting = await in_line(world, target)
    behind = [(await in_line(world, target))[1] for _ in range(others)]
    world.answers["a"] = [refused(429, retry_after="60"), *(fine("behind") for _ in behind), fine("the other")]
    await held.close()
    for other in behind:
        assert await words_of(await other) == "behind"
    assert await words_of(await waiting) == "the other"
    assert len({world.asked[0].key, world.asked[-1].key}) == 2


async def test_room_with_a_key_that_has_begun_to_rest_is_not_used(world: World) -> None:
    """An upstream that asked for a pause while somebody waited for it gets it, and the caller is told how long."""
    target = world.target("a", streamed(first_frame(), ...), **ONE_PLACE)
    with_limits(world, target)
    held = await world.executor.begin(job(stream=True), [target])
    asked, waiting = await in_line(world, target)
    world.asked.clear()
    credential = target.provider.credentials[0]
    world.cooldowns.failed(target, credential, UpstreamRateLimited("slower", retry_after=20.0), 30.0)
    await held.close()
    with pytest.raises(UpstreamRateLimited) as told:
        await waiting
    assert told.value.retry_after == 20.0
    assert told.value.message.endswith("Try again in 20 s.")
    assert not world.asked
    assert [(step.outcome, step.why) for step in asked.course.steps] == [("skipped", "full"), ("skipped", "resting")]
    world.clock.at += 21
    world.answers["a"] = [fine("again")]
    assert await words_of(await world.executor.begin(job(), [target])) == "again"


async def test_who_leaves_the_line_takes_nothing(world: World) -> None:
    """The place is free for the next one."""
    full = world.target("full", streamed(first_frame(), ...), max_concurrency=1, rate_limit={"queue_timeout": 60})
    with_limits(world, full)
    holding = await world.executor.begin(job(stream=True), [full])
    leaving = asyncio.create_task(world.executor.begin(job(), [full]))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await holding.close()
    world.answers["full"] = [fine("room")]
    assert await words_of(await world.executor.begin(job(), [full])) == "room"


async def test_what_was_waited_for_is_said_in_another_protocol_where_the_first_cannot(world: World) -> None:
    """Room was made; that one of the upstream's protocols has no word for it is found out only then."""
    both = world.target(
        "a",
        streamed(first_frame(), ...),
        type="openai",
        protocol=["openai-responses", "openai-chat"],
        max_concurrency=1,
        rate_limit={"queue_timeout": 60},
    )
    with_limits(world, both)
    holding = await world.executor.begin(job(stream=True), [both])
    body = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"candidateCount": 2}}
    inbound = translator("gemini").inbound
    intake = inbound.open(json.dumps(body).encode(), headers={}, path={"model": "m", "method": "generateContent"})
    asked = Job(protocol="gemini", stream=False, request=lambda: inbound.decode(intake), intake=intake)
    waiting = asyncio.create_task(world.executor.begin(asked, [both]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    world.answers["a"] = [fine()]
    await holding.close()
    await (await waiting).close()
    assert world.asked[-1].body["n"] == 2


async def test_a_request_that_cannot_be_said_takes_no_room(world: World) -> None:
    """What was set aside for it is given back whole."""
    blind = world.target("blind", type="anthropic", overrides={"images": False}, max_concurrency=1)
    with_limits(world, blind)
    for _ in range(3):
        with pytest.raises(Unsupported):
            await world.executor.begin(job(messages=[{"role": "user", "content": [PICTURE]}]), [blind])
    assert world.admission is not None
    assert world.admission.try_take(blind, blind.provider.credentials[0], 1) is not None


# ── credentials and rests ────────────────────────────────────────────────────────────────────────────────────────────


async def test_credentials_are_taken_in_turn(world: World) -> None:
    """Call after call starts with the next one."""
    target = world.target("a", *(fine() for _ in range(6)), api_key=["key-1", "key-2", "key-3"])
    for _ in range(6):
        await words_of(await world.executor.begin(job(), [target]))
    assert [asked.key for asked in world.asked] == ["key-1", "key-2", "key-3"] * 2


@pytest.mark.parametrize("status", [401, 402, 429])
async def test_what_binds_one_credential_is_tried_with_the_next_at_once(world: World, status: int) -> None:
    """No backoff: the other key need not share the trouble. The first one rests."""
    target = world.target("a", refused(status), fine(), fine(), api_key=["key-1", "key-2"])
    await words_of(await world.executor.begin(job(), [target]))
    assert [asked.key for asked in world.asked] == ["key-1", "key-2"]
    assert world.clock.slept == []
    await words_of(await world.executor.begin(job(), [target]))
    assert world.asked[-1].key == "key-2"


async def test_attempts_bound_the_credentials_tried(world: World) -> None:
    """`attempts` counts all tries on a target, with whatever credential."""
    target = world.target("a", refused(401), refused(401), api_key=["key-1", "key-2", "key-3"])
    other = world.target("b", fine())
    await words_of(await world.executor.begin(job(), [target, other]))
    assert world.names == ["a", "a", "b"]


async def test_resting_targets_are_skipped(world: World) -> None:
    """While another can serve, nobody asks the one that rests; when its rest is over it is first again."""
    busy = world.target("busy", refused(429, retry_after="30"), fine("busy again"))
    other = world.target("other", *(fine("other") for _ in range(2)))
    for _ in range(2):
        assert await words_of(await world.executor.begin(job(), [busy, other])) == "other"
    assert world.names == ["busy", "other", "other"]
    world.clock.at += 30
    assert await words_of(await world.executor.begin(job(), [busy, other])) == "busy again"


async def test_when_all_were_asked_to_wait_the_caller_gets_the_shortest_wait(world: World) -> None:
    """Nobody is asked; the answer is a 429 with what is left of the nearest rest."""
    targets = [
        world.target("a", refused(429, retry_after="40")),
        world.target("b", refused(429, retry_after="25")),
    ]
    with pytest.raises(UpstreamRateLimited):
        await world.executor.begin(job(), targets)
    world.clock.at += 5
    with pytest.raises(UpstreamRateLimited) as caught:
        await world.executor.begin(job(), targets)
    assert caught.value.retry_after == 20
    assert world.names == ["a", "b"]


async def test_when_all_rest_unasked_the_one_nearest_its_end_is_tried(world: World) -> None:
    """A rest of our own making must not turn into an outage; what an upstream asked for is kept all the same."""
    slow = world.target("slow", refused(401), cooldown=90)
    quick = world.target("quick", refused(401), fine("quick"), cooldown=60)
    asked = world.target("asked", refused(429, retry_after="10"))
    with pytest.raises(GatewayError):
        await world.executor.begin(job(), [slow, quick, asked])
    world.asked.clear()
    assert await words_of(await world.executor.begin(job(), [slow, quick, asked])) == "quick"
    assert world.names == ["quick"]


# ── retries ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_backoff_is_slept_with_the_clock(world: World) -> None:
    """Between tries on one target, within jittered doubling bounds; not before the next target."""
    target = world.target("a", *(refused(500) for _ in range(4)), retry={"attempts": 4, "backoff": 1})
    await words_of(await world.executor.begin(job(), [target, world.target("b", fine())]))
    assert len(world.clock.slept) == 3
    assert all(0 <= slept <= bound for slept, bound in zip(world.clock.slept, (1, 2, 4), strict=True))
    assert len(set(world.clock.slept)) == 3


async def test_a_short_wait_that_was_asked_for_is_waited(world: World) -> None:
    """To the second, then the same target answers."""
    target = world.target("a", refused(529, retry_after="3"), fine())
    await words_of(await world.executor.begin(job(), [target]))
    assert world.clock.slept == [3]


async def test_nobody_waits_for_a_key_that_will_still_rest(world: World) -> None:
    """A refusal that makes the only key rest for long is told at once, and costs no retry."""
    target = world.target("a", refused(429), retry={"attempts": 3, "backoff": 5})
    with pytest.raises(UpstreamRateLimited):
        await world.executor.begin(job(), [target])
    assert world.clock.slept == []
    again = world.target("b", refused(429), fine(), retry={"attempts": 3, "backoff": 5}, cooldown=0)
    await words_of(await world.executor.begin(job(), [again]))
    assert len(world.clock.slept) == 1


async def test_a_call_that_is_over_its_total_begins_no_further_wait(world: World) -> None:
    """Whatever held the loop up: no wait is left behind that nobody awaits."""

    def late() -> Told:
        time.sleep(0.02)
        return fine()

    target = world.target("a", retry={"attempts": 1}, timeout={"total": "10ms"})
    world.answers["a"] = [late]
    with pytest.raises(UpstreamTimeout):
        await world.executor.begin(job(), [target])
    gc.collect()  # a coroutine that was never awaited says so now, which fails this test


async def test_a_success_forgets_earlier_failures(world: World) -> None:
    """Failures make a rest only in a row."""
    row = [refused(500) for _ in range(FAILURES_BEFORE_REST - 1)]
    target = world.target("a", *row, fine(), refused(500), fine(), retry={"attempts": 10, "backoff": 0})
    await words_of(await world.executor.begin(job(), [target]))
    await words_of(await world.executor.begin(job(), [target]))
    assert world.cooldowns.resting(target, target.provider.credentials[0]) is None


# ── what is left behind ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: refused(500),
        lambda: refused(400),
        streamed,
        lambda: streamed(UpstreamUnreachable("broke")),
        lambda: streamed(b"data: {broken\n\n"),
        lambda: Told(b"<html>", content_type="text/html"),
        lambda: Told(b"x" * 20_000),
        lambda: Told(b'{"half', UpstreamUnreachable("broke"), status=500),
    ],
    ids=["500", "400", "empty", "broken", "unreadable", "html", "too large", "error cut"],
)
async def test_every_failed_attempt_is_closed(world: World, make: Callable[[], Told], stream: bool) -> None:
    """Whatever was wrong with an answer, its connection is let go before the next try (the fixture looks)."""
    answer = make()
    target = world.target("a", answer, retry={"attempts": 1})
    with pytest.raises(GatewayError):
        await world.executor.begin(job(stream=stream), [target])
    assert answer.closed


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_cancelled_call_closes_its_attempt(world: World, stream: bool) -> None:
    """A caller who leaves while an upstream thinks takes the attempt along; nobody else is asked."""
    silent = streamed(...) if stream else Told(...)
    targets = [world.target("a", silent), world.target("b")]
    task = asyncio.ensure_future(world.executor.begin(job(stream=stream), targets))
    await silent.awaited.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert silent.closed
    assert world.names == ["a"]


async def test_nothing_is_retried_after_the_first_event(world: World) -> None:
    """A stream that breaks after its first event ends with the failure, and no other target is asked."""
    targets = [world.target("a", streamed(first_frame(), UpstreamUnreachable("broke"))), world.target("b")]
    attempt = await world.executor.begin(job(stream=True), targets)
    batches = [batch async for batch in read(attempt)]
    assert isinstance(batches[-1].events[-1], Failed)
    assert await attempt.next() is None
    await attempt.close()
    assert world.names == ["a"]


# ── reasoning that is refused ────────────────────────────────────────────────────────────────────────────────────────

THINKING_TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "So."}]},
    {"role": "user", "content": "and?"},
]


async def test_leaving_reasoning_out_counts_no_try_and_rests_nobody(world: World) -> None:
    """With a single attempt allowed, and with the same credential; the warning says what is gone."""
    target = world.target(
        "a", refused(400), message("fine"), type="anthropic", api_key=["key-1", "key-2"], retry={"attempts": 1}
    )
    attempt = await world.executor.begin(job(MESSAGES, messages=THINKING_TURNS), [target])
    assert attempt.relays is not None
    assert attempt.outgoing.warnings == ("dropped:reasoning",)
    await attempt.close()
    assert [asked.key for asked in world.asked] == ["key-1", "key-1"]
    assert [asked.body["messages"][1]["content"] for asked in world.asked] == [
        [THOUGHT, {"type": "text", "text": "So."}],
        [{"type": "text", "text": "So."}],
    ]
    assert world.clock.slept == []
    assert all(world.cooldowns.resting(target, one) is None for one in target.provider.credentials)


async def test_the_second_refusal_is_the_answer(world: World) -> None:
    """Twice, and never a third time; no other target either."""
    target = world.target("a", refused(400), refused(400, "still no"), type="anthropic", retry={"attempts": 9})
    with pytest.raises(UpstreamRefused, match="still no"):
        await world.executor.begin(job(MESSAGES, messages=THINKING_TURNS), [target, world.target("b")])
    assert world.names == ["a", "a"]


async def test_another_target_gets_the_reasoning_again(world: World) -> None:
    """Where the second try fails otherwise the next target is asked with everything."""
    first = world.target("a", refused(400), refused(500), type="anthropic", retry={"attempts": 1})
    second = world.target("b", message("fine"), type="anthropic")
    attempt = await world.executor.begin(job(MESSAGES, messages=THINKING_TURNS), [first, second])
    await attempt.close()
    assert attempt.outgoing.warnings == ()
    assert world.asked[-1].body["messages"] == THINKING_TURNS


# ── answers that pause ───────────────────────────────────────────────────────────────────────────────────────────────


USAGE = {"input_tokens": 10, "output_tokens": 3}


def message(*words: str | dict[str, Any], stop: str = "end_turn", id: str = "msg_1") -> Told:  # noqa: A002  as on the wire
    """A whole Messages answer with a text for each of the words."""
    content = [{"type": "text", "text": word} if isinstance(word, str) else word for word in words]
    whole = {"id": id, "type": "message", "model": "u", "content": content, "stop_reason": stop, "usage": USAGE}
    return Told(json.dumps(whole).encode())


def message_stream(*words: str, stop: str = "end_turn", size: int = 10_000) -> Told:
    """The same as a stream, in pieces of `size` bytes."""
    events = []
    for index, word in enumerate(words):
        events += [text_start(index), *(text_delta(index, letter) for letter in word), text_stop(index)]
    data = message_wire(events, stop)
    return streamed(*(data[at : at + size] for at in range(0, len(data), size)))


def text_start(index: int) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}


def text_delta(index: int, text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


def text_stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def message_wire(events: Sequence[dict[str, Any]], stop: str) -> bytes:
    head = {"type": "message_start", "message": {"id": "msg_1", "usage": USAGE}}
    tail = [{"type": "message_delta", "delta": {"stop_reason": stop}, "usage": USAGE}, {"type": "message_stop"}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in [head, *events, *tail])


async def read(attempt: Opened) -> AsyncIterator[Batch]:
    while (batch := await attempt.next()) is not None:
        yield batch


async def events_of(attempt: Opened) -> list[StreamEvent]:
    """All events of a stream, held to the grammar; the attempt is closed."""
    grammar, events = Grammar(), []
    async for batch in read(attempt):
        assert batch.events, "a batch tells something"
        for event in batch.events:
            grammar.check(event)
            events.append(event)
    assert grammar.complete
    await attempt.close()
    return events


@pytest.mark.parametrize("size", [1, 7, 64, 500, 10_000])
async def test_rounds_are_one_legal_stream_however_they_are_cut(world: World, size: int) -> None:
    """One start, dense parts, growing usage, one finish, one end."""
    target = world.target(
        "a",
        message_stream("One. ", "Two. ", stop="pause_turn", size=size),
        message_stream("Three. ", stop="pause_turn", size=size),
        message_stream("Four. ", "Five.", size=size),
        type="anthropic",
    )
    events = await events_of(await world.executor.begin(job(stream=True), [target]))
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
    assert [len(asked.body["messages"]) for asked in world.asked] == [1, 2, 2]
    assert len(world.asked[2].body["messages"][1]["content"]) == 3


async def test_a_long_round_goes_back_whole(world: World) -> None:
    """What is remembered in little room is still every word, part by part."""
    long = "".join(chr(97 + number % 26) for number in range(1000))
    target = world.target(
        "a", message_stream(long, "z" * 300, stop="pause_turn", size=50), message_stream("."), type="anthropic"
    )
    await events_of(await world.executor.begin(job(stream=True), [target]))
    turn = world.asked[1].body["messages"][1]["content"]
    assert turn == [{"type": "text", "text": long}, {"type": "text", "text": "z" * 300}]


async def test_parts_that_overlap_go_back_apart(world: World) -> None:
    """However an upstream mixes the pieces of two texts, each comes back as it was."""
    mixed = [text_start(0), text_start(1)]
    for number in range(300):
        mixed += [text_delta(0, f"a{number} "), text_delta(1, f"b{number} ")]
    mixed += [text_stop(0), text_stop(1)]
    target = world.target("a", streamed(message_wire(mixed, "pause_turn")), message_stream("."), type="anthropic")
    await events_of(await world.executor.begin(job(stream=True), [target]))
    texts = [block["text"] for block in world.asked[1].body["messages"][1]["content"]]
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


async def test_a_pause_and_its_end_may_come_apart(world: World) -> None:
    """A finish is not told before it is known whether it is one; nothing depends on what shares a batch."""
    target = world.target("a", message_stream("One. ", stop="pause_turn"), message_stream("Two."), type="anthropic")
    asked, credential = job(stream=True), target.provider.credentials[0]

    async def begun(outgoing: Outgoing | None = None) -> Attempt:
        attempt = OneByOne(asked, target, credential, outgoing=outgoing)
        await attempt.begin(world.pool(target.provider), largest=10_000, worker=Worker())
        return attempt

    events = await events_of(Continuation(await begun(), begun))
    assert [event.finish.reason for event in events if isinstance(event, Finished)] == [FinishReason.STOP]
    assert fold(events).text == "One. Two."


async def test_a_whole_answer_in_rounds_is_the_first_one_gone_on_with(world: World) -> None:
    """It keeps the first round's id, adds up parts and usage, and says what was lost when it went back."""
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    target = world.target(
        "a",
        message(unsigned, "One. ", stop="pause_turn", id="msg_first"),
        message("Two.", stop="max_tokens", id="msg_last"),
        type="anthropic",
    )
    attempt = await world.executor.begin(job(), [target])
    await attempt.close()
    assert isinstance(attempt.whole, Response)
    assert attempt.whole.id == "msg_first"
    assert (attempt.whole.reasoning, attempt.whole.text) == ("hm", "One. Two.")
    assert attempt.whole.finish_reason is FinishReason.LENGTH
    assert attempt.whole.usage.total == 26
    assert attempt.outgoing.warnings == ("dropped:reasoning",)


async def test_a_failed_round_ends_the_stream_for_good(world: World) -> None:
    """The failure is told once, names its provider, and counts against the credential."""
    target = world.target(
        "a", message_stream("One.", stop="pause_turn"), refused(429, retry_after="30"), type="anthropic"
    )
    attempt = await world.executor.begin(job(stream=True), [target])
    last = [batch async for batch in read(attempt)][-1].events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, UpstreamRateLimited)
    assert last.error.provider == "a"
    assert await attempt.next() is None
    await attempt.close()
    assert world.cooldowns.resting(target, target.provider.credentials[0])


@pytest.mark.parametrize("begun", [False, True], ids=["beginning", "reading"])
async def test_cancelling_a_later_round_closes_it(world: World, begun: bool) -> None:
    """Whichever attempt is open when a caller leaves is closed, and the earlier one already was."""
    head = b'data: {"type":"message_start","message":{"id":"msg_2"}}\n\n'
    second = streamed(head, ...) if begun else streamed(...)
    target = world.target("a", message_stream("One.", stop="pause_turn"), second, type="anthropic")
    attempt = await world.executor.begin(job(stream=True), [target])
    task = asyncio.ensure_future(events_of(attempt))
    await second.awaited.wait()
    assert world.given[0].closed
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await attempt.close()
    assert second.closed


async def test_cancelling_a_whole_answer_in_a_later_round_closes_it(world: World) -> None:
    """Likewise where the caller has seen nothing yet."""
    second = Told(...)
    target = world.target("a", message("One.", stop="pause_turn"), second, type="anthropic")
    task = asyncio.ensure_future(world.executor.begin(job(), [target]))
    await second.awaited.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert second.closed


async def test_who_reads_events_is_told_the_pause(world: World) -> None:
    """A call made in Python can say pause itself; nothing is sent on its behalf."""
    target = world.target("a", message("One.", stop="pause_turn"), type="anthropic")
    attempt = await world.executor.begin(job(python=True), [target])
    await attempt.close()
    assert isinstance(attempt.whole, Response)
    assert attempt.whole.finish_reason is FinishReason.PAUSE


@pytest.mark.parametrize(
    ("protocol", "kind", "answer"),
    [(CHAT, "openai-compatible", fine), (MESSAGES, "anthropic", message)],
    ids=["chat", "messages"],
)
async def test_relays_are_read_without_a_layer(
    world: World, protocol: str, kind: str, answer: Callable[[], Told]
) -> None:
    """Where bytes are passed on there is nothing between the attempt and its reader."""
    attempt = await world.executor.begin(job(protocol), [world.target("a", answer(), type=kind)])
    await attempt.close()
    assert type(attempt) is Attempt


async def test_a_whole_answer_in_one_round_is_as_it_came(world: World) -> None:
    """Looking for a pause changes nothing where there is none."""
    target = world.target("a", message("One.", "Two."), type="anthropic")
    attempt = await world.executor.begin(job(), [target])
    await attempt.close()
    assert isinstance(attempt.whole, Response)
    assert attempt.whole.text == "One.Two."
    assert attempt.whole.usage.extras["anthropic-messages"]["input_tokens"] == 10
    assert attempt.outgoing.warnings == ()
