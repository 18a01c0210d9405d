"""How a call's end is recorded: one outcome, one status, one kind, for each way it can end."""

import asyncio
from typing import Any

import pytest

from llmproxy_asgi.conversation import Batch, Ended, Failed, Usage, UsageReported
from llmproxy_asgi.disconnect import ClientDisconnected
from llmproxy_asgi.errors import BadRequest, InternalError, UpstreamOverloaded, UpstreamUnreachable
from llmproxy_asgi.facts import CallContext, CallFinished, CallStarted, Observers
from llmproxy_asgi.telemetry.call_recorder import Caller, CallRecorder
from support.clock import FakeClock
from support.telemetry import RecordingObserver

GUESS = Usage(input=9, estimated=True)


class RecordedCall:
    """A call that is recorded, on a fake clock."""

    def __init__(self, *, stream: bool = True) -> None:
        self.observer = RecordingObserver()
        self.clock = FakeClock()
        caller = Caller(
            principal="ada", principal_kind="user", tenant="t", protocol="openai-chat", model="m", stream=stream
        )
        context = CallContext(call=7, request_id="req", attempts=2, queue_seconds=1.5)
        self.recorder = CallRecorder(Observers([self.observer]), self.clock, context, caller)
        self.recorder.start()

    def end(self, error: BaseException | None) -> CallFinished:
        self.recorder.finish(error, None, ("dropped:seed",), guess=lambda: GUESS)
        (fact,) = self.observer.finished()
        return fact


BROKE = UpstreamUnreachable("gone")


@pytest.mark.parametrize(
    ("stream", "begun", "events", "error", "expected"),
    [
        pytest.param(True, True, [UsageReported(Usage(input=1)), Ended()], None, ("ok", 200, "", "exact"), id="ok"),
        pytest.param(True, True, [Ended()], asyncio.CancelledError(), ("ok", 200, "", "none"), id="left at the end"),
        pytest.param(True, True, [], asyncio.CancelledError(), ("cancelled", 200, "", "estimated"), id="left"),
        pytest.param(True, True, [], GeneratorExit(), ("cancelled", 200, "", "estimated"), id="no longer read"),
        pytest.param(True, True, [], ClientDisconnected(), ("cancelled", 200, "", "estimated"), id="not writable"),
        pytest.param(True, False, [], asyncio.CancelledError(), ("cancelled", 499, "", "none"), id="left early"),
        pytest.param(
            True, True, [Failed(BROKE)], None, ("interrupted", 200, "upstream", "estimated"), id="interrupted"
        ),
        pytest.param(
            True,
            True,
            [Failed(BROKE)],
            BROKE,
            ("interrupted", 200, "upstream", "estimated"),
            id="interrupted and raised",
        ),
        pytest.param(
            True, True, [], InternalError("x"), ("interrupted", 200, "internal", "estimated"), id="our own failure"
        ),
        pytest.param(True, False, [], UpstreamOverloaded("x"), ("error", 503, "overloaded", "none"), id="failed"),
        pytest.param(False, True, [], ValueError("x"), ("error", 500, "internal", "none"), id="a bug"),
        pytest.param(False, True, [], OSError("disk"), ("error", 500, "internal", "none"), id="a host's store broke"),
        pytest.param(False, False, [], BadRequest("x"), ("error", 400, "bad_request", "none"), id="refused"),
    ],
)
def test_outcomes(stream: bool, begun: bool, events: list[Any], error: BaseException | None, expected: object) -> None:
    """Each way of ending is one outcome with its status, cause and exactness."""
    call = RecordedCall(stream=stream)
    if begun:
        call.recorder.begin(None)
    for event in events:
        call.recorder.see(event)
    end = call.end(error)
    assert (end.outcome, end.status, end.kind, end.exactness) == expected
    assert bool(end.error) == bool(end.kind)
    assert end.usage == (GUESS if end.exactness == "estimated" else call.recorder.usage)


def test_it_is_recorded_once() -> None:
    """However often it is ended, a call's end is recorded once, and its error is marked as reported."""
    call = RecordedCall()
    error = UpstreamOverloaded("x")
    error.provider = "up"
    assert call.end(error).provider == "up"
    call.recorder.finish(None, None)
    assert len(call.observer.finished()) == 1
    assert error.reported


def test_times_and_counts() -> None:
    """Times are from the call's making to its first event and its end; attempts and waits are the context's."""
    call = RecordedCall(stream=False)
    call.clock.turn(2)
    call.recorder.begin(Batch((UsageReported(Usage(input=4, output=5)),), b"{}"))
    call.clock.turn(3)
    end = call.end(None)
    assert (end.first_seconds, end.seconds, end.queue_seconds, end.attempts) == (2, 5, 1.5, 2)
    assert end.usage == Usage(input=4, output=5)
    assert (end.call, end.request_id, end.warnings) == (7, "req", ("dropped:seed",))
    start = call.observer.facts[0]
    assert isinstance(start, CallStarted)
    assert (start.call, start.principal, start.tenant, start.stream) == (7, "ada", "t", False)


def test_without_observers_nothing_is_recorded() -> None:
    """Without observers nothing is recorded, and the error is not marked as reported."""
    caller = Caller(principal="ada", principal_kind="user", tenant="", protocol="openai-chat", model="m", stream=False)
    recorder = CallRecorder(Observers(), FakeClock(), CallContext(), caller)
    error = BadRequest("x")
    recorder.start()
    recorder.finish(error, None)
    assert not error.reported
