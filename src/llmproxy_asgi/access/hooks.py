"""The host's own code that is asked about a connection: who is calling, and whether a CSRF token is right.

Imported where a host brings such code, because only then are Starlette's connections and ways to threads needed. What
its answer comes to is decided in `identify`.
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

_AT_ONCE = 40
"""Plain hooks that are at work in threads together."""

_log = logging.getLogger("llmproxy_asgi.access")


class Hooks:
    """What a host has given.

    Args:
        identify: Says who is calling; sync or async.
        csrf: Checks a CSRF token.
        nobody: What a caller is told whom the host has turned away.

    Raises:
        MisuseError: `csrf` is asynchronous.
    """

    def __init__(
        self,
        *,
        identify: Callable[[HTTPConnection], object] | None,
        csrf: Callable[[HTTPConnection], bool] | None,
        nobody: str,
    ) -> None:
        self._identify = identify
        self._is_async = identify is not None and _is_async(identify)
        if csrf is not None and _is_async(csrf):
            raise MisuseError(
                "csrf must be a plain function: what an asynchronous one returns would always count as true."
            )
        self._csrf = csrf
        self._nobody = nobody
        self._threads: tuple[asyncio.AbstractEventLoop, CapacityLimiter] | None = None

    async def who(self, scope: Scope) -> object:
        """Whatever `identify` says of whoever sent this; None without one.

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
            raise InternalError("The application could not tell who is calling.") from error

    def vouch(self, scope: Scope) -> bool:
        """Whether the host's check takes the CSRF token that came; no without one.

        Raises:
            InternalError: The check failed; the log says how.
        """
        if self._csrf is None:
            return False
        try:
            return bool(self._csrf(HTTPConnection(scope)))
        except Exception as error:
            if isinstance(error, HTTPException) and error.status_code < 500:
                return False  # how a framework's own check says no
            _log.exception("the host's csrf hook failed")
            raise InternalError("The application could not check its CSRF token.") from error

    async def _in_thread(self, identify: Callable[[HTTPConnection], object], connection: HTTPConnection) -> object:
        """A plain hook may wait for a database, so it waits in a thread, beside those of other callers.

        Django's connections belong to one thread, which it cleans up after each request: there hooks take turns in it.
        Elsewhere they have threads of their own: the host's may all be waiting for calls that are to be identified.
        """
        if "django" in sys.modules:
            return await sync_to_async(identify, thread_sensitive=True)(connection)
        loop = asyncio.get_running_loop()
        if self._threads is None or self._threads[0] is not loop:
            self._threads = loop, CapacityLimiter(_AT_ONCE)
        return await to_thread.run_sync(identify, connection, limiter=self._threads[1])

    def _refused(self, error: HTTPException) -> CallerError:
        """The host's own refusal, raised as its framework does it."""
        if error.status_code == 403:
            return Forbidden("The application refused this call.")
        return Unauthenticated(self._nobody)


def _is_async(hook: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(
        getattr(hook, "__call__", None)  # noqa: B004  it is the method that tells, not whether there is one
    )
