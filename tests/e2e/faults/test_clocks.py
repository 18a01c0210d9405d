"""The machine's clock is set forward and back by ten minutes, or the machine sleeps, while calls run and keys rest."""

import ast
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest

import llmproxy_asgi
from llmproxy_asgi import LLMProxy
from llmproxy_asgi.clock import SystemClock
from llmproxy_asgi.execution.rate_limit import TokenBucket
from llmproxy_asgi.testing import Hold, ThreadedUpstream, Upstream, error_answer, json_answer, sse_answer
from support.clock import FakeClock
from support.gateway import chat_answer, chat_delta, chat_frames, messages_body, served
from support.servers import CHAT, MESSAGES, chat, configuration

pytestmark = pytest.mark.fault(42)
JUMPS = pytest.mark.parametrize("minutes", [10, -10], ids=["forward", "back"])
SOURCE = Path(llmproxy_asgi.__file__).parent

TELLS_TIME = re.compile(r"^(import|from) (time|datetime)\b", re.MULTILINE)

Jump = Callable[[int], None]


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread() as made:
        yield made


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Set what the gateway takes for the time of day, by so many minutes."""

    def by(minutes: int) -> None:
        monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + timedelta(minutes=minutes))

    return by


@JUMPS
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_rest_is_as_long_as_was_asked(upstream: ThreadedUpstream, jump: Jump, minutes: int, form: str) -> None:
    """Neither ends it early or late; a wait given as a date counts from the upstream's own clock."""
    theirs = datetime(2020, 1, 1, tzinfo=UTC)
    date = {"date": format_datetime(theirs, usegmt=True)}
    until = {"retry-after": format_datetime(theirs + timedelta(seconds=100), usegmt=True), **date}
    body = {"error": {"message": "slow down"}}
    upstream.default = error_answer(429, body, headers=until if form == "date" else {"retry-after": "100"})
    with served(LLMProxy(configuration(upstream.base_url))) as base, httpx2.Client(trust_env=False) as client:
        for before in (True, False):
            if not before:
                jump(minutes)
            for path, asked in ((CHAT, chat(stream=False)), (MESSAGES, messages_body(model="up/m"))):
                answer = client.post(base + path, json=asked)
                assert answer.status_code == 429
                assert 40 < int(answer.headers["retry-after"]) <= 100
    assert len(upstream.requests) == 1


@JUMPS
def test_a_limit_is_not_filled_up_by_a_jump(upstream: ThreadedUpstream, jump: Jump, minutes: int) -> None:
    """One call in a hundred seconds is one, whatever the clock on the wall says."""
    upstream.default = json_answer(200, chat_answer("x"))
    rate = {"requests_per_second": 0.01, "burst": 1}
    limited = {"access": {"mode": "open", "default": {"rate_limit": rate}}}
    config = configuration(upstream.base_url, **limited)
    with served(LLMProxy(config)) as base, httpx2.Client(trust_env=False) as client:
        assert client.post(base + CHAT, json=chat(stream=False)).status_code == 200
        jump(minutes)
        assert client.post(base + CHAT, json=chat(stream=False)).status_code == 429


@JUMPS
def test_a_stream_goes_on(upstream: ThreadedUpstream, jump: Jump, minutes: int) -> None:
    """No clock of a call runs out because the machine's was set."""
    held = sse_answer([chat_delta({"content": "so far"}), Hold(), *chat_frames("the end")[1:]])
    upstream.default = held
    with (
        served(LLMProxy(configuration(upstream.base_url))) as base,
        httpx2.Client(trust_env=False, timeout=30) as client,
        client.stream("POST", base + CHAT, json=chat()) as stream,
    ):
        text = stream.iter_text()
        assert "so far" in next(text)
        jump(minutes)
        assert next(text).startswith(": keep-alive")
        held.gate.set()
        assert "the end" in "".join(text)


def test_a_machine_that_slept_owes_nobody_more_than_a_bucket() -> None:
    """Where the monotonic clock continues during sleep, an hour fills a bucket and does not overflow it."""
    clock = FakeClock()
    bucket = TokenBucket(1.0, 5.0, clock)
    clock.turn(3600)
    taken = 0
    while bucket.wait(1) == 0:
        bucket.take(1)
        taken += 1
    assert taken == 5


def test_nothing_is_measured_by_the_clock_on_the_wall() -> None:
    """The time of day is read in `clock`, for the dates that stand in an answer, and where an upstream names a date."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if TELLS_TIME.search(text) else ():
            match node:
                case ast.Attribute(value=ast.Name(id="time"), attr="time" | "time_ns" | "localtime" | "gmtime"):
                    found.add((path.name, node.attr))
                case ast.Attribute(value=ast.Name(id="datetime"), attr="now" | "utcnow" | "today"):
                    found.add((path.name, node.attr))
    assert found == {
        ("clock.py", "now"),
        ("attempt.py", "now"),  # created_at
        ("response_encoder.py", "time"),  # completed_at
        ("retry_after.py", "now"),  # "wait until this instant", from an upstream that sends no Date
    }
