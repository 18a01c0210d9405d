"""Workers that die are replaced, and not in a loop where no new one could serve."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from llmproxy_asgi.cli import supervisor
from llmproxy_asgi.cli.supervisor import EARLY_EXIT, FIRST_WAIT, LONGEST_WAIT, Supervisor
from llmproxy_asgi.errors import ConfigError


class Worker:
    """A process that lives as long as a test wants."""

    def __init__(self, *_: Any) -> None:
        self.alive: bool = True
        self.process = SimpleNamespace(is_alive=lambda: self.alive, exitcode=1, pid=None)
        self.pid = 7

    def is_alive(self, timeout: float) -> bool:
        return self.alive

    def start(self) -> None:
        STARTED.append(self)

    def kill(self) -> None:
        self.alive = False

    def join(self) -> None:
        pass

    def terminate(self) -> None:
        pass


STARTED: list[Worker] = []


class House:
    """A supervisor of two workers, a clock that is turned by hand, and a configuration that may be wrong."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        STARTED.clear()
        self.at = 1000.0
        self.wrong = ""
        self.reads = 0
        patch.setattr(supervisor, "Process", Worker)
        patch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: self.at))
        patch.setattr(supervisor, "worker_config", self.read)
        patch.setattr("signal.signal", lambda *_: None)
        self.parent = Supervisor.over(SimpleNamespace(workers=2, uds=None), None)  # type: ignore[arg-type]
        self.workers: list[Any] = [Worker(), Worker()]
        self.parent.processes = self.workers
        self.parent._started_at = {0: self.at, 1: self.at}

    def read(self) -> None:
        self.reads += 1
        if self.wrong:
            raise ConfigError([self.wrong])

    def pass_by(self, seconds: float) -> None:
        """Let time go by as the supervisor does, which looks twice a second."""
        for _ in range(int(seconds * 2)):
            self.at += 0.5
            self.parent.keep_subprocess_alive()


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def test_a_worker_that_served_is_replaced_at_once(house: House) -> None:
    """A crash after minutes of service is no reason to wait."""
    house.pass_by(EARLY_EXIT)
    house.workers[1].alive = False
    house.pass_by(1)
    assert len(STARTED) == 1
    assert house.workers[1] is STARTED[0]


def test_workers_that_die_young_are_started_more_and_more_rarely(house: House) -> None:
    """The wait doubles up to its bound, and the other worker is left alone."""
    other = house.workers[0]
    house.workers[1].alive = False
    for _ in range(600 * 2):
        house.pass_by(0.5)
        house.workers[1].alive = False
    assert 600 / LONGEST_WAIT <= len(STARTED) <= 600 / LONGEST_WAIT + 6
    assert house.workers[0] is other
    assert other.alive
    assert not house.parent.should_exit.is_set()


def test_a_broken_configuration_starts_no_worker_and_is_told_once(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Files are read again with growing intervals; another error is reported anew; valid files start a worker."""
    caplog.set_level(logging.ERROR, logger="llmproxy_asgi.serve")
    house.workers[1].alive = False
    house.wrong = "a.yaml:1: provders: unknown key"
    house.pass_by(300)
    assert not STARTED
    assert 300 / LONGEST_WAIT <= house.reads <= 300 / LONGEST_WAIT + 6
    house.wrong = "a.yaml:2: other"
    house.pass_by(LONGEST_WAIT + 1)
    told = [record.getMessage() for record in caplog.records]
    assert [text.rpartition(": provders")[0] or text.rpartition(": other")[0] for text in told] == [
        "No worker is started while the configuration is wrong: a.yaml:1",
        "No worker is started while the configuration is wrong: a.yaml:2",
    ]
    house.wrong = ""
    house.pass_by(LONGEST_WAIT + 1)
    assert len(STARTED) == 1


def test_hang_up_tries_at_once(house: House) -> None:
    """Who has mended the files and says so does not wait for the next try."""
    house.workers[1].alive = False
    house.wrong = "a.yaml: wrong"
    house.pass_by(300)
    house.wrong = ""
    house.parent.handle_hup()
    house.pass_by(0.5)
    assert len(STARTED) == 1
    assert FIRST_WAIT <= house.parent._wait < LONGEST_WAIT


@pytest.mark.parametrize("others", [False, True])
def test_a_start_that_is_refused_ends_the_parent_only_if_nothing_else_serves(house: House, others: bool) -> None:
    """At the first start nothing would ever serve; later the other workers go on."""
    for worker in house.workers if not others else house.workers[:1]:
        worker.alive = False
        worker.process.exitcode = 3
    house.pass_by(0.5)
    assert house.parent.should_exit.is_set() is not others
