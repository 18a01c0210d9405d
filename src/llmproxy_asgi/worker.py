"""One thread for the steps that would hold an event loop for long: there, large bodies are read and written.

Python's interpreter lock changes hands every few milliseconds, so that the loop goes on meanwhile. It is one thread,
because more of them would make the loop wait longer for its turn and finish no sooner.
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
    """Runs functions in a thread of its own, in the order in which they came.

    The thread is started when it is first needed, and anew in a process that was forked.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a function, and return what it returns or raise what it raises.

        If the waiting task is cancelled, a function that has begun runs to its end unheard.
        """
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._running(), lambda: context.run(function, *args, **kwargs)
        )

    def close(self) -> None:
        """End the thread when it has done what it was given. A later `run` starts another."""
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
