"""A single thread for steps that would block an event loop for long, such as decoding and encoding large bodies.

Python's interpreter lock switches every few milliseconds, so the event loop continues to run. There is one thread,
because more threads would delay the loop further and finish no sooner.
"""

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
        return await asyncio.get_running_loop().run_in_executor(
            self._running(), lambda: context.run(function, *args, **kwargs)
        )

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
