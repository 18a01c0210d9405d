"""Active health checks: send an upstream its cheapest request on an interval.

Passive checks are elsewhere: every call reports its result to `cooldown`. A provider with `health:` is checked on an
interval, with jitter so that many processes do not check at once. After two failed checks in a row the upstream cools
down until a check succeeds; a successful check ends only this cooldown, never one that calls caused. Checking a
configuration is `diagnosis`.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import UpstreamError
from llmproxy_asgi.execution.reasons import MAX_REASON, describe_response, redact_error
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.facts import NO_OBSERVERS, Observers, TargetStateChanged
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.transport import Pool, ResponseTimeout
from llmproxy_asgi.transport.failures import shortened

FAILURES_BEFORE_DOWN = 2
"""Failed checks in a row that mark an upstream as down."""
JITTER = 0.1
"""The share of the interval by which the time between two checks varies."""
MAX_CHECK = 30.0
"""Seconds that a check may take beside connecting, however long a call may wait for its first byte."""
_LARGEST = 64 * 1024
"""Bytes of a response to read, so that its connection can be reused; the rest is not awaited."""

_log = logging.getLogger("llmproxy_asgi.health")


class Health(msgspec.Struct, frozen=True):
    """The result of a provider's last check."""

    healthy: bool
    reason: str
    """The status or the failed connection, in one line without secrets; empty where it is healthy."""
    checked_at: datetime
    seconds: float
    """The duration of the check."""


class HealthChecks:
    """Check providers in the background, from the first call on.

    Args:
        pools: Returns a provider's connection pool.
        cooldowns: Receive the results.
        observers: Receive changes of state.
        clock: Waits between two checks.
        draw: The source of jitter.
    """

    def __init__(
        self,
        pools: Callable[[Provider], Pool],
        cooldowns: TargetCooldowns,
        *,
        observers: Observers = NO_OBSERVERS,
        clock: Clock = SYSTEM,
        draw: random.Random | None = None,
    ) -> None:
        self._pools = pools
        self._cooldowns = cooldowns
        self._observers = observers
        self._clock = clock
        self._draw = draw or random.Random()  # noqa: S311  spreads load, guards nothing
        self._watched: tuple[Provider, ...] = ()
        self._states: dict[str, Health] = {}
        self._failed: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def states(self) -> Mapping[str, Health]:
        """The last result by provider name."""
        return self._states

    def watch(self, providers: Iterable[Provider]) -> None:
        """Check these providers from now on, and forget removed ones."""
        providers = tuple(providers)
        self._watched = tuple(each for each in providers if each.config.health is not None)
        names = {each.name for each in providers}
        self._states = {name: state for name, state in self._states.items() if name in names}
        self._failed = {name: count for name, count in self._failed.items() if name in names}
        self._cancel()

    def keep_running(self) -> None:
        """Start the checks unless they run already. This is on the hot path: every call calls it."""
        if not self._watched:
            return
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                return  # another loop of this process runs them
            self._loop = loop
            self._tasks = [loop.create_task(self._check_forever(each)) for each in self._watched]

    async def aclose(self) -> None:
        """Stop the checks; the next call starts them again."""
        tasks, loop = self._tasks, self._loop
        self._cancel()
        if loop is asyncio.get_running_loop():
            await asyncio.gather(*tasks, return_exceptions=True)

    async def check(self, provider: Provider) -> Health:
        """Check one provider now, and record the result."""
        since = self._clock.monotonic()
        reason = ""
        for credential in provider.credentials:
            reason = await self._ask(provider, credential)
            if not reason:
                break
        health = self._result(reason, since)
        self._record(provider, health)
        return health

    async def ask(self, provider: Provider, credential: Credential) -> Health:
        """Check one provider now with one of its credentials, without recording the result."""
        since = self._clock.monotonic()
        return self._result(await self._ask(provider, credential), since)

    def _result(self, reason: str, since: float) -> Health:
        return Health(not reason, reason, self._clock.now(), self._clock.monotonic() - since)

    async def _check_forever(self, provider: Provider) -> None:
        assert provider.config.health is not None
        interval = provider.config.health.interval
        # Many processes start at once, so the first check falls anywhere in the interval.
        wait = self._draw.uniform(0, interval)
        while True:
            await self._clock.sleep(wait)
            try:
                await self.check(provider)
            except Exception:  # noqa: BLE001  a bug, here or in a provider, must not end the checks
                _log.exception("a health check of %s failed unexpectedly", provider.name)
            wait = interval * self._draw.uniform(1 - JITTER, 1 + JITTER)

    async def _ask(self, provider: Provider, credential: Credential) -> str:
        """Return why the check failed, in one line without secrets; empty if it succeeded."""
        request = provider.health_request()
        if request is None:
            return ""
        timeout = provider.config.timeout
        headers = (*provider.headers(provider.enabled_protocols[0], credential), *request.headers)
        try:
            async with ResponseTimeout(timeout.connect, min(timeout.first_byte, MAX_CHECK)) as progress:
                answer = await self._pools(provider).open(
                    "GET", request.address, headers, b"", connect=timeout.connect, progress=progress
                )
                try:
                    body = b""
                    while len(body) < _LARGEST and (data := await answer.chunk()):
                        body += data
                finally:
                    await answer.aclose()
        except TimeoutError:
            return f"no answer in time: {request.address.host_port}"
        except UpstreamError as error:
            redact_error(error, provider.mask(credential), sent=b"", model="")
            return error.reason
        if not _is_failure(answer.status):
            return ""
        return shortened(provider.mask(credential).text(describe_response(answer, request.address, body)), MAX_REASON)

    def _record(self, provider: Provider, health: Health) -> None:
        name = provider.name
        before = self._states.get(name)
        self._states[name] = health
        count = self._failed[name] = 0 if health.healthy else self._failed.get(name, 0) + 1
        if health.healthy:
            self._cooldowns.found_up(name)
        elif count >= FAILURES_BEFORE_DOWN and provider.config.health is not None:
            self._cooldowns.found_down(name, 2 * provider.config.health.interval)
        if before is None or before.healthy != health.healthy:
            self._observers.notice(TargetStateChanged(provider=name, healthy=health.healthy, reason=health.reason))

    def _cancel(self) -> None:
        tasks, loop = self._tasks, self._loop
        self._tasks, self._loop = [], None
        if loop is not None and not loop.is_closed():
            for task in tasks:
                if loop is _running():
                    task.cancel()
                else:
                    loop.call_soon_threadsafe(task.cancel)


def _is_failure(status: int) -> bool:
    """Whether calls would fail with this status, too; any other response shows that the upstream is available."""
    return status in (401, 403) or status >= 500


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
