"""Facts are told to everybody who listens, and no listener can break a call."""

import logging

import pytest

from llmproxy_asgi.facts import AnyFact, Course, CredentialRecovered, Observers
from llmproxy_asgi.telemetry.logs import CallLog
from support.telemetry import RecordingObserver

FACT = CredentialRecovered(provider="one", credential="one:00")


class Breaking:
    """Fails at everything."""

    def notice(self, fact: AnyFact) -> None:
        raise RuntimeError("an observer's own trouble")


def test_everybody_is_told_in_order() -> None:
    """Each observer is told each fact once, and the flag says that somebody listens."""
    first, second = RecordingObserver(), RecordingObserver()
    observers = Observers([first, second])
    observers.notice(FACT)
    assert observers.listening
    assert first.facts == second.facts == [FACT]


def test_nobody_listens() -> None:
    """Without observers the flag is down, so that no fact need be made."""
    assert not Observers().listening


def test_facts_are_made_for_those_who_want_them() -> None:
    """A log that is not read needs neither what begins nor what ended well, unless another observer is there."""
    assert not Observers().hears_beginnings
    observers = Observers([CallLog()])
    assert observers.listening
    assert not observers.hears_beginnings
    observers.add(RecordingObserver())
    assert observers.hears_beginnings
    assert observers.hears_good_ends()
    observers.add(CallLog())
    assert observers.hears_beginnings


@pytest.mark.parametrize(("level", "hears"), [(logging.INFO, True), (logging.WARNING, False)])
def test_a_log_hears_good_ends_while_it_is_read(caplog: pytest.LogCaptureFixture, level: int, *, hears: bool) -> None:
    """The level counts when a call ends, not when the log was made."""
    observers = Observers([CallLog(), CallLog()])
    with caplog.at_level(level, "llmproxy_asgi.calls"):
        assert observers.hears_good_ends() is hears


def test_a_broken_observer_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """One that raises is logged once, with its traceback, and the others are told all the same."""
    observer = RecordingObserver()
    observers = Observers([Breaking(), observer, Breaking()])
    with caplog.at_level(logging.ERROR, "llmproxy_asgi.observers"):
        for _ in range(3):
            observers.notice(FACT)
    assert observer.facts == [FACT] * 3
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_attempts_are_numbered_from_one() -> None:
    """A call's attempts have numbers of their own, counted where the call is."""
    course = Course()
    assert [course.next_attempt(), course.next_attempt()] == [1, 2]
    assert course.attempts == 2
