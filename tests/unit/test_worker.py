"""The worker thread: the garbage collector is paused while it runs, and only then."""

import asyncio
import gc
import os
import threading
from collections.abc import Iterator

import pytest

from llmproxy_asgi.worker import Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()
    gc.enable()


def test_the_collector_is_paused_while_a_function_runs(worker: Worker) -> None:
    """And enabled again after its result or its exception."""
    assert asyncio.run(worker.run(gc.isenabled)) is False
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(worker.run(lambda: 1 // 0))
    assert gc.isenabled()


def test_the_collector_stays_paused_for_the_last_function(worker: Worker) -> None:
    """Two gateways in one process have a worker each."""
    other, entered, leave = Worker(), threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        leave.wait(20)

    async def run() -> None:
        waiting = asyncio.create_task(worker.run(wait))
        await asyncio.to_thread(entered.wait)
        assert await other.run(gc.isenabled) is False
        assert not gc.isenabled()
        leave.set()
        await waiting

    asyncio.run(run())
    assert gc.isenabled()
    other.close()


def test_a_collector_that_the_host_disabled_stays_disabled(worker: Worker) -> None:
    """The gateway enables only what it disabled."""
    gc.disable()
    asyncio.run(worker.run(lambda: None))
    assert not gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_its_collector(worker: Worker) -> None:
    """A process that is forked while a function runs does not wait for its end."""

    def fork() -> int:
        child = os.fork()
        if not child:
            os._exit(0 if gc.isenabled() else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert asyncio.run(worker.run(fork)) == 0
