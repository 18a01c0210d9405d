"""A single thread for steps that would block an event loop for long, such as decoding and encoding large bodies.

Python's interpreter lock switches every few milliseconds, so the event loop continues to run. There is one thread,
because more threads would delay the loop further and finish no sooner.

A function here creates up to millions of objects, few of them in cycles. A full collection of them, and of all objects
of the host, would hold the interpreter lock for its whole length. So the cyclic garbage collector is paused meanwhile.
"""

import asyncio
import contextvars
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Collector:
    """Pauses the garbage collector, which all threads share, while at least one function runs."""

    def __init__(self) -> None:
        self._reset()

    def __enter__(self) -> None:
        with self._lock:
            if not self._running and gc.isenabled():
                gc.disable()
                self._is_paused = True
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running and self._is_paused:
                self._is_paused = False
                gc.enable()

    def resume_in_child(self) -> None:
        """Enable it in a forked process, which has no copy of the running functions."""
        if self._is_paused:
            gc.enable()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._is_paused = False


_collector = _Collector()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_collector.resume_in_child)


class Worker:
    """Runs functions in a separate thread, in order.

    The thread is started when it is first needed, and again in a forked process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a function, and return its result or raise its exception.

        If the waiting task is cancelled, a running function continues to its end and its result is discarded.
        """
        context = contextvars.copy_context()

        def step() -> _T:
            with _collector:
                return context.run(function, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._running(), step)

    def close(self) -> None:
        """End the thread after its queued functions have run. A later `run` starts another one."""
        with self._lock:
            executor, self._executor = self._executor, None
            if executor is not None and self._pid == os.getpid():
                executor.shutdown(wait=False)

    def _running(self) -> ThreadPoolExecutor:
        if self._executor is None or self._pid != os.getpid():
            if self._pid != os.getpid():
                self._lock = threading.Lock()  # the parent's may have been held when it forked
            with self._lock:
                if self._executor is None or self._pid != os.getpid():
                    self._executor = ThreadPoolExecutor(1, thread_name_prefix="llmproxy-worker")
                    self._pid = os.getpid()
        return self._executor
