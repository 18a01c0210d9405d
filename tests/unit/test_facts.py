"""Facts reach every observer, and no observer can break a call."""

import logging

import pytest

from llmproxy_asgi.facts import AnyFact, CallContext, CredentialRecovered, Observers
from llmproxy_asgi.telemetry.logs import CallLog
from support.telemetry import RecordingObserver

FACT = CredentialRecovered(provider="one", credential="one:00")


class Breaking:
    """An observer that always raises."""

    def notice(self, fact: AnyFact) -> None:
        raise RuntimeError("a failing observer")


def test_every_observer_receives_facts() -> None:
    """Each observer receives each fact once, and `listening` is set."""
    first, second = RecordingObserver(), RecordingObserver()
    observers = Observers([first, second])
    observers.notice(FACT)
    assert observers.listening
    assert first.facts == second.facts == [FACT]


def test_without_observers_nothing_listens() -> None:
    """Without observers `listening` is not set, so that no fact need be made."""
    assert not Observers().listening


def test_facts_are_made_only_for_observers_that_want_them() -> None:
    """A disabled log needs facts of neither starts nor successes, unless there is another observer."""
    assert not Observers().wants_starts
    observers = Observers([CallLog()])
    assert observers.listening
    assert not observers.wants_starts
    observers.add(RecordingObserver())
    assert observers.wants_starts
    assert observers.wants_successes()
    observers.add(CallLog())
    assert observers.wants_starts


@pytest.mark.parametrize(("level", "wants"), [(logging.INFO, True), (logging.WARNING, False)])
def test_an_enabled_log_wants_successes(caplog: pytest.LogCaptureFixture, level: int, *, wants: bool) -> None:
    """The log level counts when a call ends, not when the log was created."""
    observers = Observers([CallLog(), CallLog()])
    with caplog.at_level(level, "llmproxy_asgi.calls"):
        assert observers.wants_successes() is wants


def test_a_broken_observer_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises is logged once, with its traceback, and the others receive all facts."""
    observer = RecordingObserver()
    observers = Observers([Breaking(), observer, Breaking()])
    with caplog.at_level(logging.ERROR, "llmproxy_asgi.observers"):
        for _ in range(3):
            observers.notice(FACT)
    assert observer.facts == [FACT] * 3
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_attempts_are_numbered_from_one() -> None:
    """The attempts of a call are numbered from 1."""
    context = CallContext()
    assert [context.next_attempt(), context.next_attempt()] == [1, 2]
    assert context.attempts == 2
