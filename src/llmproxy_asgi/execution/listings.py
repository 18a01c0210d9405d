"""What upstreams say that they serve, for providers whose configuration does not list it all.

Asked only when a caller lists models or looks one up, never for a call. An answer is kept for minutes, a failure is
remembered briefly, and whatever an upstream answers, the listing goes on with what is known. However many callers list
models at once, on whatever event loops, an upstream is asked once.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from llmproxy_asgi.clock import SYSTEM, Clock
from llmproxy_asgi.errors import GatewayError, UpstreamError, UpstreamFailed, UpstreamProtocolError
from llmproxy_asgi.execution.reasons import answered, disclosed
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.providers.listing import read_page
from llmproxy_asgi.transport import Pool

KEPT = 300.0
"""Seconds that an answer is kept."""
KEPT_FAILURE = 30.0
"""Seconds after a failure until an upstream is asked again."""
LONGEST = 10.0
"""Seconds that an upstream's pages may take all together, beside connecting; a caller waits for them."""
_PATIENCE = 2 * LONGEST
"""Seconds that a caller waits at most, should the event loop that asks be stopped meanwhile."""
MOST = 5000
"""Names of one upstream that are kept."""
MOST_PAGES = 20
_LARGEST = 8 * 1024 * 1024
"""Bytes of one page."""

_log = logging.getLogger("llmproxy_asgi.upstreams")


class _Kept(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    until: float
    whole: frozenset[str] | None = None
    """The names, where the upstream's last answer held all of them; None: it failed, or there were too many."""


class Listings:
    """The listings of upstreams, by their providers' names.

    Args:
        pools: The connection pool of a provider.
        clock: What they are kept by.
    """

    def __init__(self, pools: Callable[[Provider], Pool], *, clock: Clock = SYSTEM) -> None:
        self._pools = pools
        self._clock = clock
        self._kept: dict[tuple[object, ...], _Kept] = {}
        self._asking: dict[tuple[object, ...], tuple[concurrent.futures.Future[None], asyncio.AbstractEventLoop]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()

    def known(self, providers: Iterable[Provider]) -> Mapping[str, Sequence[str]]:
        """What is known now, without asking."""
        kept = {provider.name: self._kept.get(_key(provider)) for provider in providers}
        return {name: listing.names for name, listing in kept.items() if listing is not None}

    def may_serve(self, provider: Provider, model: str) -> bool:
        """Whether an upstream may know a model: it lists it, or its list is not known."""
        kept = self._kept.get(_key(provider))
        return kept is None or kept.whole is None or model.removeprefix("models/") in kept.whole

    async def refresh(self, providers: Iterable[Provider]) -> None:
        """Ask those that have not been asked lately, and wait for their answers; failures change nothing."""
        now = self._clock.monotonic()
        listing = [each for each in providers if each.models_request("") is not None]
        due = [each for each in listing if (kept := self._kept.get(_key(each))) is None or kept.until <= now]
        if due:
            # Waiting so cancels nothing: what one caller no longer waits for, others may.
            await asyncio.wait([asyncio.wrap_future(self._ask_once(each)) for each in due], timeout=_PATIENCE)

    def _ask_once(self, provider: Provider) -> "concurrent.futures.Future[None]":
        """The answer that somebody waits for already, else a new one; a caller who leaves breaks nothing off."""
        key = _key(provider)
        loop = asyncio.get_running_loop()
        with self._lock:
            asking, theirs = self._asking.get(key, (None, loop))
            if asking is not None and not theirs.is_closed():
                return asking
            asking = concurrent.futures.Future()
            self._asking[key] = (asking, loop)
        task = loop.create_task(self._ask(provider, key))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._over(key, done))
        return asking

    def _over(self, key: tuple[object, ...], task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        with self._lock:
            asking, _ = self._asking.pop(key, (None, None))
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("listing models failed unexpectedly", exc_info=failure)
        if asking is not None and not asking.done():
            asking.set_result(None)

    async def _ask(self, provider: Provider, key: tuple[object, ...]) -> None:
        before = self._kept.get(key)
        names, lasts, whole = before.names if before is not None else (), KEPT_FAILURE, None
        timeout = provider.config.timeout
        try:
            async with asyncio.timeout(timeout.connect + min(timeout.first_byte, LONGEST)):
                names, is_whole = await self._by_some_credential(provider)
                lasts, whole = KEPT, frozenset(names) if is_whole else None
        except TimeoutError:
            _log.info("%s did not list its models in time", provider.name)
        except GatewayError as error:
            why = error.reason if isinstance(error, UpstreamError) and error.reason else error.message
            _log.info("%s does not list its models: %s", provider.name, why)
        finally:
            self._kept[key] = _Kept(names, self._clock.monotonic() + lasts, whole)

    async def _by_some_credential(self, provider: Provider) -> tuple[tuple[str, ...], bool]:
        failure: GatewayError | None = None
        for credential in provider.credentials:
            try:
                return await self._pages(provider, credential)
            except GatewayError as error:
                failure = disclosed(error, provider.mask(credential), sent=b"", model="")
        assert failure is not None, "a provider has a credential, if only an empty one"
        raise failure

    async def _pages(self, provider: Provider, credential: Credential) -> tuple[tuple[str, ...], bool]:
        """The names, and whether they are all that the upstream lists."""
        names: dict[str, None] = {}
        after, mask = "", provider.mask(credential)
        for _ in range(MOST_PAGES):
            page = read_page(await self._page(provider, credential, after))
            # Callers read these names: leave out those in which an upstream quotes the credential.
            names.update(dict.fromkeys(name for name in page.names if mask.known(name) == name))
            if not page.after or page.after == after:
                return tuple(names)[:MOST], len(names) <= MOST
            if len(names) >= MOST:
                break
            after = page.after
        return tuple(names)[:MOST], False

    async def _page(self, provider: Provider, credential: Credential, after: str) -> bytes:
        question = provider.models_request(after)
        assert question is not None, "only those are asked that can be"
        headers = (*provider.headers(provider.enabled_protocols[0], credential), *question.headers)
        answer = await self._pools(provider).open(
            "GET", question.address, headers, b"", connect=provider.config.timeout.connect
        )
        try:
            pieces, size = [], 0
            while data := await answer.chunk():
                pieces.append(data)
                size += len(data)
                if size > _LARGEST:
                    raise UpstreamProtocolError("The upstream's list of models is too large.")
            page = b"".join(pieces)
            if answer.status != 200:
                raise UpstreamFailed(
                    "The upstream does not list its models.",
                    upstream_status=answer.status,
                    reason=answered(answer, question.address, page),
                )
            return page
        finally:
            await answer.aclose()


def _key(provider: Provider) -> tuple[object, ...]:
    """Whose listing it is: a reload that changes the address or the keys asks anew."""
    return (provider.name, provider.type, provider.root, tuple(each.fingerprint for each in provider.credentials))
