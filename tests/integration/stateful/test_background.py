"""Background responses over every upstream: they continue without their client and can be resumed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai
import pytest
from typing_extensions import override

from llmproxy_asgi import Gateway, LLMProxy
from llmproxy_asgi.errors import Unavailable
from llmproxy_asgi.facts import CallFinished, CallStarted
from llmproxy_asgi.principal import SCOPE_KEY, Owner, Principal
from llmproxy_asgi.responses_api.background import MAX_RUNS_PER_OWNER, Background, Run
from llmproxy_asgi.responses_api.turn import ConversationTurn
from llmproxy_asgi.stores.memory import MemoryStore
from llmproxy_asgi.testing import Hold, Scenario, Upstream, error_answer
from llmproxy_asgi.translators.registry import translator
from support.gateway import served
from support.pairs import Reply
from support.pairs.harness import gateway_config
from support.pairs.owners import ALICE, OwnersHarness, owners_harness, protocol_of
from support.pairs.wires import CHAT, GEMINI, MESSAGES, RESPONSES, sse
from support.telemetry import RecordingObserver

UPSTREAMS = (CHAT, RESPONSES, MESSAGES, GEMINI)
TALE = Reply(texts=("Once ", "upon ", "a ", "time."))


@pytest.fixture(scope="module")
def shared() -> Iterator[OwnersHarness]:
    with owners_harness() as made:
        yield made


@pytest.fixture
def harness(shared: OwnersHarness) -> Iterator[OwnersHarness]:
    shared.reset()
    yield shared
    errors, shared.upstream.errors = shared.upstream.errors, []
    assert errors == []


def held(protocol: str, reply: Reply = TALE, *, after: int = 5) -> Scenario:
    """A stream that stops after some frames until its gate opens."""
    frames = reply.frames(protocol)
    return sse([*frames[:after], Hold(), *frames[after:]])


def until(done: Callable[[], Any]) -> Any:
    """Return the first true result of `done`."""
    for _ in range(2_000):
        if found := done():
            return found
        time.sleep(0.01)
    raise AssertionError("it never came")


def ended(client: openai.OpenAI, response_id: str) -> Any:
    """Return a response that has ended."""

    def look() -> Any:
        found = client.responses.retrieve(response_id)
        return found if found.status not in {"queued", "in_progress"} else None

    return until(look)


# ── going on alone ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_it_continues_without_its_client(harness: OwnersHarness, upstream: str) -> None:
    """Respond to the client at once; it polls, finds the response, and can continue from it."""
    scenario = held(upstream)
    harness.play(scenario)
    queued = harness.alice.responses.create(model=harness.model(upstream), input="A tale", background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    harness.upstream.wait_for_requests(1)
    until(lambda: harness.alice.responses.retrieve(queued.id).status == "in_progress")
    with pytest.raises(openai.BadRequestError):
        harness.alice.responses.create(model=harness.model(upstream), input="x", previous_response_id=queued.id)
    scenario.gate.set()
    answer = ended(harness.alice, queued.id)
    assert (answer.status, answer.output_text, answer.id) == ("completed", "Once upon a time.", queued.id)
    assert (answer.background, answer.store, answer.usage.output_tokens > 0) == (True, True, True)
    assert answer.created_at
    harness.play(Reply(texts=("No more.",)))
    following = harness.alice.responses.create(
        model=harness.model(upstream), input="Go on.", previous_response_id=queued.id
    )
    assert following.output_text == "No more."
    assert b"Once upon a time." in harness.upstream.requests[-1].body


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_stream_is_resumed_from_any_event(harness: OwnersHarness, upstream: str) -> None:
    """After the first reader disconnects, later ones read the same events from any number."""
    scenario = held(upstream)
    harness.play(scenario)
    request: Any = {"model": harness.model(upstream), "input": "A tale", "background": True, "stream": True}
    before = []
    with harness.alice.responses.create(**request) as stream:
        for event in stream:
            before.append(event)
            if event.type == "response.output_text.delta":
                break
    response_id = before[0].response.id
    assert [event.type for event in before[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert before[0].response.status == "queued"
    with harness.alice.responses.retrieve(response_id, stream=True) as other:
        live = [next(other) for _ in before]
        assert live == before
        scenario.gate.set()
        whole = [*live, *other]
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    assert whole[-1].type == "response.completed"
    assert {event.response.id for event in whole if hasattr(event, "response")} == {response_id}
    assert whole[-1].response == harness.alice.responses.retrieve(response_id)
    for number in range(len(whole)):
        resumed = list(harness.alice.responses.retrieve(response_id, stream=True, starting_after=number))
        assert resumed == whole[number + 1 :]
    with pytest.raises(openai.NotFoundError):
        harness.bob.responses.retrieve(response_id, stream=True)
    for wrong in ("-1", "x", "1e3"):
        with pytest.raises(openai.BadRequestError) as refused:
            harness.alice.responses.retrieve(response_id, extra_query={"stream": "true", "starting_after": wrong})
        assert refused.value.param == "starting_after"


def test_a_resumed_stream_has_past_and_future_events(harness: OwnersHarness) -> None:
    """A reader that attaches within the run gets the events that it missed, then the new ones."""
    scenario = held(CHAT, after=3)
    harness.play(scenario)
    queued = harness.alice.responses.create(model=harness.model(CHAT), input="A tale", background=True)
    harness.upstream.wait_for_requests(1)
    with harness.alice.responses.retrieve(queued.id, stream=True, starting_after=1) as stream:
        first = next(stream)
        assert (first.type, first.sequence_number) == ("response.in_progress", 2)
        scenario.gate.set()
        rest = list(stream)
    assert [event.sequence_number for event in rest] == list(range(3, 3 + len(rest)))
    assert rest[-1].type == "response.completed"


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_cancelling_closes_the_upstream(harness: OwnersHarness, upstream: str) -> None:
    """Close the connection at once, end the readers' streams, and store the response as cancelled."""
    harness.play(held(upstream))
    queued = harness.alice.responses.create(model=harness.model(upstream), input="A tale", background=True)
    harness.upstream.wait_for_requests(1)
    with pytest.raises(openai.NotFoundError):
        harness.bob.responses.cancel(queued.id)
    with harness.alice.responses.retrieve(queued.id, stream=True) as stream:
        next(stream)
        cancelled = harness.alice.responses.cancel(queued.id)
        *_, last = stream
    harness.upstream.wait_closed(0)
    assert (cancelled.status, cancelled.id) == ("cancelled", queued.id)
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")  # type: ignore[union-attr]
    assert harness.alice.responses.cancel(queued.id) == harness.alice.responses.retrieve(queued.id) == cancelled
    assert list(harness.alice.responses.retrieve(queued.id, stream=True))[-1] == last
    with pytest.raises(openai.BadRequestError):
        harness.alice.responses.create(model=harness.model(upstream), input="x", previous_response_id=queued.id)


def test_deleting_cancels_it(harness: OwnersHarness) -> None:
    """No run continues for an owner that was forgotten, and nothing of it is stored."""
    harness.play(held(CHAT))
    queued = harness.alice.responses.create(model=harness.model(CHAT), input="A tale", background=True)
    harness.upstream.wait_for_requests(1)
    harness.alice.responses.delete(queued.id)
    harness.upstream.wait_closed(0)
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError):
            harness.alice.responses.retrieve(queued.id, stream=stream)


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_an_upstream_that_refuses_fails_it(harness: OwnersHarness, upstream: str) -> None:
    """An upstream's error becomes the error of the response, in its stream as well."""
    harness.play(error_answer(400))
    queued = harness.alice.responses.create(model=harness.model(upstream), input="A tale", background=True)
    failed = ended(harness.alice, queued.id)
    assert (failed.status, failed.error.code) == ("failed", "invalid_prompt")
    *_, last = harness.alice.responses.retrieve(queued.id, stream=True)
    assert (last.type, last.response) == ("response.failed", failed)  # type: ignore[union-attr]


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_broken_stream_fails_it(harness: OwnersHarness, upstream: str) -> None:
    """Send the earlier events, then the failure with the next number."""
    frames = TALE.frames(upstream)[:4]
    harness.play(sse(frames))
    queued = harness.alice.responses.create(model=harness.model(upstream), input="A tale", background=True)
    failed = ended(harness.alice, queued.id)
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    events = list(harness.alice.responses.retrieve(queued.id, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.failed"
    assert events[-1].response.id == queued.id


def test_an_invalid_request_is_refused_at_once(harness: OwnersHarness) -> None:
    """Respond with a status, not with a failed response, to an unknown conversation or an unknown tool."""
    create = harness.alice.responses.create
    with pytest.raises(openai.NotFoundError):
        create(model=harness.model(CHAT), input="x", background=True, previous_response_id="resp_1")
    bad: Any = [{"type": "function"}]
    with pytest.raises(openai.BadRequestError) as refused:
        create(model=harness.model(CHAT), input="x", background=True, tools=bad)
    assert refused.value.param == "tools[0].name"
    assert harness.upstream.requests == []


def test_a_browser_of_another_site_changes_nothing() -> None:
    """Cancelling and deleting with a cookie require a page of the same site, as every change does."""
    providers = {"house": {"type": "simulated", "protocol": "openai-chat"}}
    with served(LLMProxy({"providers": providers}, identify=lambda connection: connection.cookies.get("who"))) as base:
        own = {"cookie": "who=alice", "sec-fetch-site": "same-origin"}
        body = {"model": "house/echo", "input": "x", "background": True}
        made = httpx2.post(f"{base}/v1/responses", json=body, headers=own, trust_env=False).json()
        path = f"{base}/v1/responses/{made['id']}"
        for method, address in (("POST", f"{path}/cancel"), ("DELETE", path)):
            for site, status in (("cross-site", 403), ("same-origin", 200)):
                headers = {"cookie": "who=alice", "sec-fetch-site": site}
                assert httpx2.request(method, address, headers=headers, trust_env=False).status_code == status


# ── bounds, and the end of the gateway ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as made:
        yield made


def gateway_of(upstream: Upstream) -> Gateway:
    return Gateway(gateway_config(upstream))  # type: ignore[arg-type]  # only its address is looked at


def background_of(gateway: Gateway) -> Background:
    return gateway.endpoints.stored._background


@pytest.mark.anyio
async def test_closing_the_gateway_fails_all_runs(upstream: Upstream) -> None:
    """Fail every run, close its upstream and leave no task, also for a run that has just begun."""
    upstream.default = held(CHAT)
    before = asyncio.all_tasks()
    gateway = gateway_of(upstream)
    async with gateway.openai(principal="alice") as client:
        ids = [(await client.responses.create(model="openai/house-1", input="x", background=True)).id for _ in range(3)]
        await upstream.wait_for_requests(1)
        await gateway.aclose()
        for response_id in ids:
            found = await client.responses.retrieve(response_id)
            assert (found.status, found.error and found.error.code) == ("failed", "server_error")
    assert asyncio.all_tasks() == before
    await upstream.wait_closed(0)


@pytest.mark.anyio
async def test_draining_waits_for_runs_and_then_ends_them(upstream: Upstream) -> None:
    """A run may end within the window and fails after it; no new one begins."""
    quick, slow = held(CHAT), held(CHAT)
    upstream.enqueue(quick, slow)
    gateway = gateway_of(upstream)
    request: Any = {"model": "openai/house-1", "input": "x", "background": True}
    async with gateway, gateway.openai(principal="alice", max_retries=0) as alice:
        first, second = [await alice.responses.create(**request) for _ in range(2)]
        await upstream.wait_for_requests(2)
        draining = asyncio.create_task(gateway.drain(0.2))
        await asyncio.sleep(0)
        quick.gate.set()
        with pytest.raises(openai.InternalServerError) as refused:
            await alice.responses.create(**request)
        assert refused.value.status_code == 503
        await draining
        statuses = {(await alice.responses.retrieve(each.id)).status for each in (first, second)}
        assert "failed" in statuses
        assert statuses <= {"completed", "failed"}


@pytest.mark.anyio
async def test_runs_are_bounded(upstream: Upstream) -> None:
    """Limit the runs of one caller and of all callers, and answer a caller beyond the limit with a wait."""
    upstream.default = held(CHAT)
    gateway = gateway_of(upstream)
    request: Any = {"model": "openai/house-1", "input": "x", "background": True}
    async with gateway, gateway.openai(principal="alice", max_retries=0) as alice:
        first = await alice.responses.create(**request)
        for _ in range(MAX_RUNS_PER_OWNER - 1):
            await alice.responses.create(**request)
        with pytest.raises(openai.RateLimitError) as refused:
            await alice.responses.create(**request)
        assert int(refused.value.response.headers["retry-after"]) > 0
        background_of(gateway)._max_runs = MAX_RUNS_PER_OWNER
        async with gateway.openai(principal="bob", max_retries=0) as bob:
            with pytest.raises(openai.InternalServerError) as full:
                await bob.responses.create(**request)
            assert full.value.status_code == 503
            await alice.responses.cancel(first.id)
            assert (await bob.responses.create(**request)).status == "queued"


@pytest.mark.anyio
async def test_a_long_response_drops_its_first_events(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold events up to a bound; refuse a request for earlier ones, and still return the answer."""
    monkeypatch.setattr("llmproxy_asgi.responses_api.background.Run.max_bytes", 6_000)
    reply = Reply(texts=tuple(f"word{number} " for number in range(60)))
    upstream.default = sse(reply.frames(CHAT))
    gateway = gateway_of(upstream)
    async with gateway, gateway.openai(principal="alice", max_retries=0) as alice:
        queued = await alice.responses.create(model="openai/house-1", input="x", background=True)
        found = queued
        while found.status in {"queued", "in_progress"}:
            await asyncio.sleep(0.01)
            found = await alice.responses.retrieve(queued.id)
        assert found.output_text == "".join(reply.texts)
        with pytest.raises(openai.BadRequestError) as refused:
            await alice.responses.retrieve(queued.id, stream=True)
        assert refused.value.param == "stream"


class Slow:
    """A client that reads a response's stream and accepts nothing of its first piece until `takes` is set."""

    def __init__(self, response_id: str) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": f"/v1/responses/{response_id}",
            "query_string": b"stream=true",
            "headers": [],
            SCOPE_KEY: Principal("ada"),
        }
        self.sent: list[Any] = []
        self.takes = asyncio.Event()
        self.waits = asyncio.Event()

    async def receive(self) -> Any:
        await asyncio.Event().wait()

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not self.waits.is_set():
            self.waits.set()
            await self.takes.wait()

    async def read(self, gateway: Gateway) -> None:
        async with asyncio.timeout(60):
            await gateway.endpoints(self.scope, self.receive, self.send)


async def begun(gateway: Gateway, model: str = "story") -> Run:
    """Start a background response of Ada."""
    inbound = translator("openai-responses").inbound
    inbound_request = inbound.open(b'{"model": "%b", "input": "x", "background": true}' % model.encode(), headers={})
    return await background_of(gateway).begin(inbound_request, inbound, gateway._grant("ada"))


@pytest.mark.anyio
async def test_a_reader_that_is_too_slow_gets_an_error_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reader whose missed events are no longer stored gets an error event and the end of the stream."""
    monkeypatch.setattr(Run, "max_bytes", 6_000)
    async with Gateway({"providers": {"simulated": {}}}) as gateway:
        run = await begun(gateway)
        caller = Slow(run.id)
        reading = asyncio.create_task(caller.read(gateway))
        await caller.waits.wait()
        assert run.task is not None
        await run.task
        caller.takes.set()
        await reading
    assert [message["status"] for message in caller.sent if message["type"] == "http.response.start"] == [200]
    assert caller.sent[-2]["body"].startswith(b"event: error\n")
    assert b"no longer stored" in caller.sent[-2]["body"]
    assert caller.sent[-1]["more_body"] is False


@pytest.mark.anyio
async def test_a_reader_of_stored_events_has_a_write_timeout() -> None:
    """End a stream that is not read quietly, as any other response."""
    config = {"providers": {"simulated": {}}, "limits": {"write_timeout": 0.05}, "keepalive": 0.05}
    async with Gateway(config) as gateway:
        run = await begun(gateway)
        assert run.task is not None
        await run.task
        caller = Slow(run.id)
        await asyncio.create_task(caller.read(gateway))
    assert len(caller.sent) == 2
    assert b"response.completed" in caller.sent[-1]["body"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "data",
    [b'{"type":"x"}', b'{"type" : "x" , "sequence_number" : 7' + b" " * 30 + b"}"],
    ids=["unnumbered", "spaced"],
)
async def test_kept_events_are_bounded(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """The bound counts the numbered events, however the upstream formatted them."""
    monkeypatch.setattr(Run, "max_bytes", 2_000)
    async with Gateway({"providers": {"simulated": {}}}) as gateway:
        run = await begun(gateway, "stall")
        sizes = []
        for _ in range(2_000):
            run.add("x", data)
            sizes.append(sum(len(bytes(event.data)) for event in run.events))
        assert all(900 < size <= 2_000 for size in sizes[200:])
        await background_of(gateway).cancel(run.owner, run.id)


class Waiting(MemoryStore):
    """A store that responds slowly, as a database does."""

    @override
    async def put(self, owner: Owner, key: str, value: bytes, *, ttl: float, replacing: bool = False) -> bool:
        for _ in range(10):
            await asyncio.sleep(0)
        return await super().put(owner, key, value, ttl=ttl, replacing=replacing)


@pytest.mark.anyio
async def test_two_cancellations_cancel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second close does not interrupt the records that the first one still writes, whatever else waits for it."""
    async with Gateway({"providers": {"simulated": {}}}) as gateway:
        monkeypatch.setattr(gateway.endpoints.stored.stateful.responses, "_store", Waiting())
        background, run = background_of(gateway), await begun(gateway, "stall")
        await run.read(after=1).next()
        asked = [asyncio.create_task(background.cancel(run.owner, run.id)) for _ in range(2)]
        for _ in range(3):
            await asyncio.sleep(0)
        asked.append(asyncio.create_task(background.cancel(run.owner, run.id)))
        assert all(await asyncio.gather(*asked))
        assert background._runs == {}
        found = await run.responses.find(run.owner, run.id)
        assert found is not None
        assert found.status == "cancelled"
        assert await run.responses.events(run.owner, run.id)


class Stuck(MemoryStore):
    """A store that never stores a complete response."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    @override
    async def put(self, owner: Owner, key: str, value: bytes, *, ttl: float, replacing: bool = False) -> bool:
        if b'"status":"completed"' in value:
            self.asked.set()
            await asyncio.Event().wait()
        return await super().put(owner, key, value, ttl=ttl, replacing=replacing)


@pytest.mark.anyio
async def test_a_run_cancelled_before_it_is_stored_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete response that is not stored counts as cancelled, and does not stay in progress."""
    async with Gateway({"providers": {"simulated": {}}}) as gateway:
        store = Stuck()
        monkeypatch.setattr(gateway.endpoints.stored.stateful.responses, "_store", store)
        run = await begun(gateway, "echo")
        await store.asked.wait()
        assert await background_of(gateway).cancel(run.owner, run.id)
        found = await run.responses.find(run.owner, run.id)
        assert found is not None
        assert found.status == "cancelled"
        assert run.events[-1].name == "response.incomplete"


@pytest.mark.anyio
async def test_a_run_is_recorded_with_the_id_of_its_request() -> None:
    """Logs and observers get the id that the client received in `x-request-id`."""
    observer = RecordingObserver()
    async with (
        Gateway({"providers": {"simulated": {}}}, observers=[observer]) as gateway,
        gateway.openai(principal="alice") as alice,
    ):
        begun = await alice.responses.with_raw_response.create(model="echo", input="x", background=True)
        for run in list(background_of(gateway)._runs.values()):
            assert run.task is not None
            await run.task
    ids = {fact.request_id for fact in observer.facts if isinstance(fact, CallStarted | CallFinished)}
    assert ids == {begun.headers["x-request-id"]}


@pytest.mark.anyio
async def test_foreground_calls_leave_no_task(upstream: Upstream) -> None:
    """A foreground call leaves no task, stored or not."""
    upstream.default = lambda received: TALE.scenario(protocol_of(received), stream=True)
    gateway = gateway_of(upstream)
    before = asyncio.all_tasks()
    async with gateway, gateway.openai(principal="alice") as alice:
        request: Any = {"model": "openai/house-1", "input": "x", "stream": True}
        assert [event.type async for event in await alice.responses.create(**request)][-1] == "response.completed"
        assert background_of(gateway)._runs == {}
    assert asyncio.all_tasks() == before


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def limited(**limits: Any) -> Iterator[OwnersHarness]:
    """An owners_harness with limits for Alice."""
    with owners_harness(keys=[{"name": "alice", "key": ALICE, **limits}]) as made:
        yield made


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_limit_refuses_a_background_request_at_once(*, stream: bool) -> None:
    """Respond to the POST with a 429 and a wait, without a request to an upstream."""
    with limited(requests_per_minute=1) as harness:
        harness.play(TALE)
        request: Any = {"model": harness.model(CHAT), "input": "A tale", "background": True}
        first = harness.alice.responses.create(**request)
        with pytest.raises(openai.RateLimitError) as refused:
            harness.alice.responses.create(**request, stream=stream)
        assert int(refused.value.response.headers["retry-after"]) > 0
        assert ended(harness.alice, first.id).status == "completed"
        assert len(harness.upstream.requests) == 1


def test_a_permit_is_held_from_the_post_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Release it however the run ends: cancelled, or never begun because it could not be stored."""
    with limited(max_concurrency=1) as harness:
        request: Any = {"model": harness.model(CHAT), "input": "A tale", "background": True}
        harness.play(held(CHAT))
        first = harness.alice.responses.create(**request)
        with pytest.raises(openai.RateLimitError, match="limit of 1 call at once"):
            harness.alice.responses.create(**request)
        harness.alice.responses.cancel(first.id)
        with monkeypatch.context() as patch:

            async def full(_: ConversationTurn) -> bytes:
                raise Unavailable("Nothing can be kept.")

            patch.setattr(ConversationTurn, "enqueue", full)
            with pytest.raises(openai.InternalServerError, match="kept"):
                harness.alice.responses.create(**request)
        harness.play(TALE)
        assert ended(harness.alice, harness.alice.responses.create(**request).id).status == "completed"


@pytest.mark.anyio
async def test_a_run_that_never_started_releases_its_permit() -> None:
    """A run that is cancelled before its first step releases its permit."""
    config = {"providers": {"simulated": {}}, "access": {"default": {"max_concurrency": 1}}}
    async with Gateway(config) as gateway:
        background = gateway.endpoints.stored._background
        inbound = translator("openai-responses").inbound
        inbound_request = inbound.open(b'{"model": "echo", "input": "x", "background": true}', headers={})
        grant = gateway._grant("ada")
        for _ in range(2):
            run = await background.begin(inbound_request, inbound, grant)
            assert await background.cancel(run.owner, run.id)
        assert (
            await gateway.complete(model="echo", messages=[{"role": "user", "content": "hi"}], principal="ada")
        ).text
