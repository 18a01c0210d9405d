"""The models that upstreams list, for providers whose configuration does not list them all.

Requested only when a caller lists models or looks one up, never for a call. A list is cached for minutes, a failure
briefly, and after a failure the known models are listed. Concurrent callers, on any event loop, share one request.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import GatewayError, UpstreamError, UpstreamFailed, UpstreamProtocolError
from llmproxy_asgi.execution.reasons import describe_response, redact_error
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.providers.listing import read_page
from llmproxy_asgi.transport import Pool

CACHE_TTL = 300.0
"""Seconds that a list is cached."""
FAILURE_TTL = 30.0
"""Seconds after a failure until the next request."""
TIMEOUT = 10.0
"""Seconds that all pages of an upstream may take beside connecting; a caller waits for them."""
_WAIT_TIMEOUT = 2 * TIMEOUT
"""Seconds that a caller waits if the event loop of the request is stopped meanwhile."""
MAX_MODELS = 5000
"""Names of one upstream that are cached."""
MAX_PAGES = 20
_MAX_PAGE = 8 * 1024 * 1024
"""Bytes of one page."""

_log = logging.getLogger("llmproxy_asgi.upstreams")


class _CachedList(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    until: float
    whole: frozenset[str] | None = None
    """The names, if the last response had all of them; None: it failed, or there were too many."""


class Listings:
    """The cached lists of models, by provider.

    Args:
        pools: Returns a provider's connection pool.
        clock: Measures the age of a list.
    """

    def __init__(self, pools: Callable[[Provider], Pool], *, clock: Clock = SYSTEM) -> None:
        self._pools = pools
        self._clock = clock
        self._cache: dict[tuple[object, ...], _CachedList] = {}
        self._requests: dict[tuple[object, ...], tuple[concurrent.futures.Future[None], asyncio.AbstractEventLoop]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()

    def known(self, providers: Iterable[Provider]) -> Mapping[str, Sequence[str]]:
        """Return the known models of each provider, without a request."""
        cached = {provider.name: self._cache.get(_key(provider)) for provider in providers}
        return {name: found.names for name, found in cached.items() if found is not None}

    def may_serve(self, provider: Provider, model: str) -> bool:
        """Return whether an upstream may serve a model: it lists it, or its list is unknown."""
        cached = self._cache.get(_key(provider))
        return cached is None or cached.whole is None or model.removeprefix("models/") in cached.whole

    async def refresh(self, providers: Iterable[Provider]) -> None:
        """Request the lists that are not cached, and wait for them; failures change nothing."""
        now = self._clock.monotonic()
        listing = [each for each in providers if each.models_request("") is not None]
        due = [each for each in listing if (cached := self._cache.get(_key(each))) is None or cached.until <= now]
        if due:
            # This wait cancels nothing when it is cancelled, because other callers may wait for the same request.
            await asyncio.wait([asyncio.wrap_future(self._request_once(each)) for each in due], timeout=_WAIT_TIMEOUT)

    def _request_once(self, provider: Provider) -> "concurrent.futures.Future[None]":
        """Return the pending request for a list, or start one; a caller who disconnects does not cancel it."""
        key = _key(provider)
        loop = asyncio.get_running_loop()
        with self._lock:
            pending, its_loop = self._requests.get(key, (None, loop))
            if pending is not None and not its_loop.is_closed():
                return pending
            pending = concurrent.futures.Future()
            self._requests[key] = (pending, loop)
        task = loop.create_task(self._request(provider, key))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._on_done(key, done))
        return pending

    def _on_done(self, key: tuple[object, ...], task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        with self._lock:
            pending, _ = self._requests.pop(key, (None, None))
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("listing models failed unexpectedly", exc_info=failure)
        if pending is not None and not pending.done():
            pending.set_result(None)

    async def _request(self, provider: Provider, key: tuple[object, ...]) -> None:
        before = self._cache.get(key)
        names, ttl, whole = before.names if before is not None else (), FAILURE_TTL, None
        timeout = provider.config.timeout
        try:
            async with asyncio.timeout(timeout.connect + min(timeout.first_byte, TIMEOUT)):
                names, is_whole = await self._list(provider)
                ttl, whole = CACHE_TTL, frozenset(names) if is_whole else None
        except TimeoutError:
            _log.info("%s did not list its models in time", provider.name)
        except GatewayError as error:
            why = error.reason if isinstance(error, UpstreamError) and error.reason else error.message
            _log.info("%s does not list its models: %s", provider.name, why)
        finally:
            self._cache[key] = _CachedList(names, self._clock.monotonic() + ttl, whole)

    async def _list(self, provider: Provider) -> tuple[tuple[str, ...], bool]:
        failure: GatewayError | None = None
        for credential in provider.credentials:
            try:
                return await self._pages(provider, credential)
            except GatewayError as error:
                failure = redact_error(error, provider.mask(credential), sent=b"", model="")
        assert failure is not None, "every provider has a credential, which may be empty"
        raise failure

    async def _pages(self, provider: Provider, credential: Credential) -> tuple[tuple[str, ...], bool]:
        """Return the names, and whether they are all that the upstream lists."""
        names: dict[str, None] = {}
        after, mask = "", provider.mask(credential)
        for _ in range(MAX_PAGES):
            page = read_page(await self._page(provider, credential, after))
            # Callers read these names: leave out those that contain the credential.
            names.update(dict.fromkeys(name for name in page.names if mask.known(name) == name))
            if not page.after or page.after == after:
                return tuple(names)[:MAX_MODELS], len(names) <= MAX_MODELS
            if len(names) >= MAX_MODELS:
                break
            after = page.after
        return tuple(names)[:MAX_MODELS], False

    async def _page(self, provider: Provider, credential: Credential, after: str) -> bytes:
        request = provider.models_request(after)
        assert request is not None, "only providers with a list are listed"
        headers = (*provider.headers(provider.enabled_protocols[0], credential), *request.headers)
        answer = await self._pools(provider).open(
            "GET", request.address, headers, b"", connect=provider.config.timeout.connect
        )
        try:
            pieces, size = [], 0
            while data := await answer.chunk():
                pieces.append(data)
                size += len(data)
                if size > _MAX_PAGE:
                    raise UpstreamProtocolError("The upstream's list of models is too large.")
            page = b"".join(pieces)
            if answer.status != 200:
                raise UpstreamFailed(
                    "The upstream does not list its models.",
                    upstream_status=answer.status,
                    reason=describe_response(answer, request.address, page),
                )
            return page
        finally:
            await answer.aclose()


def _key(provider: Provider) -> tuple[object, ...]:
    """Return the key of a provider's list: a reload that changes the address or the keys requests it again."""
    return (provider.name, provider.type, provider.root, tuple(each.fingerprint for each in provider.credentials))
