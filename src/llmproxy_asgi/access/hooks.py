"""Call the host's own hooks: `identify` for the principal, `csrf` to check a CSRF token.

This is imported only for hosts with hooks, since only they need Starlette's connections and threads. `identify` decides
what the results mean.
"""

import asyncio
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter, to_thread
from asgiref.sync import sync_to_async
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from llmproxy_asgi.errors import CallerError, Forbidden, GatewayError, InternalError, MisuseError, Unauthenticated

_MAX_THREADS = 40
"""Synchronous hooks that run in threads at the same time."""

_log = logging.getLogger("llmproxy_asgi.access")


class Hooks:
    """The host's hooks.

    Args:
        identify: Returns the principal of a request; sync or async.
        csrf: Checks a CSRF token.
        refusal: The message for a caller that the host refuses as unauthenticated.

    Raises:
        MisuseError: `csrf` is asynchronous.
    """

    def __init__(
        self,
        *,
        identify: Callable[[HTTPConnection], object] | None,
        csrf: Callable[[HTTPConnection], bool] | None,
        refusal: str,
    ) -> None:
        self._identify = identify
        self._is_async = identify is not None and _is_async(identify)
        if csrf is not None and _is_async(csrf):
            raise MisuseError("csrf must be a synchronous function: a coroutine would always count as true.")
        self._csrf = csrf
        self._refusal = refusal
        self._threads: tuple[asyncio.AbstractEventLoop, CapacityLimiter] | None = None

    async def identify(self, scope: Scope) -> object:
        """Return the result of `identify` for a request; None without a hook.

        Raises:
            CallerError: The host refuses the caller.
            InternalError: The hook failed; the log says how.
        """
        identify = self._identify
        if identify is None:
            return None
        connection = HTTPConnection(scope)
        try:
            found: Any = identify(connection) if self._is_async else await self._in_thread(identify, connection)
            return await found if inspect.isawaitable(found) else found
        except GatewayError:
            raise
        except Exception as error:
            if isinstance(error, HTTPException) and error.status_code < 500:
                raise self._refused(error) from error
            _log.exception("the host's identify hook failed")
            raise InternalError("The application could not identify the caller.") from error

    def check_csrf(self, scope: Scope) -> bool:
        """Whether the host's check accepts the CSRF token; False without a check.

        Raises:
            InternalError: The check failed; the log says how.
        """
        if self._csrf is None:
            return False
        try:
            return bool(self._csrf(HTTPConnection(scope)))
        except Exception as error:
            if isinstance(error, HTTPException) and error.status_code < 500:
                return False  # how a framework's own check refuses
            _log.exception("the host's csrf hook failed")
            raise InternalError("The application could not check its CSRF token.") from error

    async def _in_thread(self, identify: Callable[[HTTPConnection], object], connection: HTTPConnection) -> object:
        """Run a synchronous hook in a thread, as it may block on a database.

        Under Django all hooks share one thread, as its database connections belong to a thread. Elsewhere they have
        their own thread limiter: all of the host's threads may be waiting for calls that are to be identified.
        """
        if "django" in sys.modules:
            return await sync_to_async(identify, thread_sensitive=True)(connection)
        loop = asyncio.get_running_loop()
        if self._threads is None or self._threads[0] is not loop:
            self._threads = loop, CapacityLimiter(_MAX_THREADS)
        return await to_thread.run_sync(identify, connection, limiter=self._threads[1])

    def _refused(self, error: HTTPException) -> CallerError:
        """Convert a refusal of the host's framework."""
        if error.status_code == 403:
            return Forbidden("The application refused this call.")
        return Unauthenticated(self._refusal)


def _is_async(hook: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
        getattr(hook, "__call__", None)  # noqa: B004  the method itself is needed
    )
