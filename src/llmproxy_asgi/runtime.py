"""The immutable runtime of one configuration, and the state that outlives it.

A `Runtime` is built from a `Config` and never changes: a call takes one and keeps it. `SharedState` holds what must
outlive a reload (connection pools, cooldowns), by provider, so that the next runtime finds it again.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from llmproxy_asgi.access.admins import Admins
from llmproxy_asgi.access.failed_attempts import FailedAttempts
from llmproxy_asgi.access.identify import Authenticator, Csrf, Identify
from llmproxy_asgi.clock import SYSTEM, AlarmClock, Clock
from llmproxy_asgi.config.schema import Config
from llmproxy_asgi.conversation_state import reasoning
from llmproxy_asgi.conversation_state.reasoning import ReasoningCache
from llmproxy_asgi.execution.admission import AdmissionQueues, CallerQueues
from llmproxy_asgi.execution.bodies import Bodies
from llmproxy_asgi.execution.budget import RetryBudgets
from llmproxy_asgi.execution.cooldown import Cooldown, Subject
from llmproxy_asgi.execution.counting import Counting
from llmproxy_asgi.execution.executor import Executor
from llmproxy_asgi.execution.health import HealthChecks
from llmproxy_asgi.execution.listings import Listings
from llmproxy_asgi.execution.open_calls import OpenCalls
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.facts import CredentialCooled, CredentialRecovered, Observer, Observers
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.routing.affinity import Affinities
from llmproxy_asgi.routing.catalog import Catalog, name_filter
from llmproxy_asgi.routing.strategies import Latencies, Strategies
from llmproxy_asgi.stores.base import MIB, RecordStore
from llmproxy_asgi.stores.base import Bounds as StoreBounds
from llmproxy_asgi.stores.nothing import NothingStore
from llmproxy_asgi.stores.open import open_store
from llmproxy_asgi.telemetry.collector import Names
from llmproxy_asgi.transport import Pool
from llmproxy_asgi.wire.json_body import Bounds
from llmproxy_asgi.worker import Worker

if TYPE_CHECKING:
    from llmproxy_asgi.telemetry.metrics import Metrics
    from llmproxy_asgi.transport import HostTransport

RESPONSE_BOUNDS = StoreBounds(total_bytes=256 * MIB, owner_bytes=64 * MIB, owner_records=20_000)


class SharedState:
    """Connection pools, cooldowns, latencies, affinities and stores; kept across reloads.

    Args:
        transports: The host's own httpx2 clients or transports, by provider name; `*` for every other provider.
        clock: Measures cooldowns and limits.
        observers: Receive all facts.
    """

    def __init__(
        self,
        *,
        transports: "Mapping[str, HostTransport] | None" = None,
        clock: AlarmClock = SYSTEM,
        observers: Iterable[Observer] = (),
    ) -> None:
        self.clock = clock
        self.observers = Observers(observers)
        self.metrics: Metrics | None = None
        self.cooldowns = TargetCooldowns(clock, on_change=self._cooldown_changed)
        self.catalog: Catalog | None = None
        """Of the current runtime."""
        self.budgets = RetryBudgets(clock)
        self.admission_queues = AdmissionQueues(clock)
        self.failed_attempts = FailedAttempts(clock)
        self.open_calls = OpenCalls()
        self.worker = Worker()
        self.bodies = Bodies()
        self.health = HealthChecks(self.pool, self.cooldowns, observers=self.observers, clock=clock)
        self.listings = Listings(self.pool, clock=clock)
        self.latencies = Latencies(clock)
        self.strategies = Strategies(self.latencies)
        self.affinities = Affinities(clock)
        self._stores: dict[str, Stores] = {}
        self._transports = transports or {}
        self._pools: dict[tuple[object, ...], Pool] = {}

    def pool(self, provider: Provider) -> Pool:
        """Return a provider's connection pool; the first use creates it."""
        key = provider.connection_key
        pool = self._pools.get(key)
        if pool is None:
            given = self._transports.get(provider.name, self._transports.get("*"))
            pool = self._pools[key] = Pool(transport=provider.transport() or given, proxies=provider.proxies)
        return pool

    def stores(self, address: str) -> "Stores":
        """Return the stores at an address; the first use opens them."""
        stores = self._stores.get(address)
        if stores is None:
            stores = self._stores[address] = Stores(
                responses=open_store(address, kind="responses", bounds=RESPONSE_BOUNDS, clock=self.clock),
                reasoning=open_store(address, kind="reasoning", bounds=reasoning.BOUNDS, clock=self.clock),
            )
        return stores

    def cooling(self) -> list[str]:
        """List the providers of current cooldowns, one entry for each model by a credential, credential or upstream."""
        return [subject.provider for subject, _ in self.cooldowns.all_active()]

    def degraded(self) -> list[str]:
        """List the models that no target can serve now; `provider/*` where a provider lists none."""
        if self.catalog is None or self.cooldowns.is_empty:
            return []
        ready = self.cooldowns.is_ready
        return [name for name, targets in self.catalog.monitored() if not any(map(ready, targets))]

    def _cooldown_changed(self, subject: Subject, rest: Cooldown | None) -> None:
        if not self.observers.listening:
            return
        provider, credential, model = subject
        self.observers.notice(
            CredentialRecovered(provider=provider, credential=credential, model=model)
            if rest is None
            else CredentialCooled(
                provider=provider,
                credential=credential,
                model=model,
                seconds=rest.seconds,
                asked=rest.asked,
                kind=rest.reason,
                reason=rest.cause,
            )
        )

    def enable_metrics(self, names: Names) -> "Metrics":
        """Return the metrics, and start to count if nothing did yet; labels hold these names from now on."""
        if self.metrics is None:
            from llmproxy_asgi.telemetry.metrics import Metrics, shared_directory

            self.metrics = Metrics(names, cooling=self.cooling, degraded=self.degraded, directory=shared_directory())
            self.observers.add(self.metrics)
        else:
            self.metrics.rename(names)
        return self.metrics

    def response_records(self) -> list[RecordStore]:
        """List the stores of responses at all addresses."""
        return [stores.responses for stores in self._stores.values()]

    async def forget(self, owner: Owner, *, responses: int = 0, background: int = 0) -> "Forgotten":
        """Delete everything that is stored or counted for one owner, except responses.

        Args:
            owner: The owner.
            responses: The number of stored responses that were deleted before.
            background: The number of running background responses that were cancelled before.

        Raises:
            Unavailable: A store cannot be reached; it keeps its records.
        """
        stores = tuple(self._stores.values())
        return Forgotten(
            background=background,
            responses=responses,
            reasoning=sum([await each.reasoning.erase(owner) for each in stores]),
            conversations=self.affinities.forget(owner),
            limits=self.admission_queues.callers.forget(owner),
        )

    async def drop_stores(self) -> None:
        """Close all stores; those in this process's memory lose their records."""
        stores, self._stores = self._stores, {}
        for each in stores.values():
            await each.responses.aclose()
            await each.reasoning.aclose()

    async def close_removed(self, providers: Iterable[Provider]) -> None:
        """Close the connections of all providers but these, after their open responses have ended."""
        kept = {each.connection_key for each in providers}
        for key in [key for key in self._pools if key not in kept]:
            await self._pools.pop(key).aclose()

    async def aclose(self) -> None:
        """Close the stores and all idle connections; calls close their own open responses."""
        if self.metrics is not None:
            self.metrics.stop()
        await self.health.aclose()
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()
        self.worker.close()
        for stores in self._stores.values():
            await stores.responses.aclose()
            await stores.reasoning.aclose()


class Stores(msgspec.Struct, frozen=True):
    """The stores at one address."""

    responses: RecordStore
    reasoning: RecordStore


NO_STORES = Stores(NothingStore(), NothingStore())
"""The stores of `store: never`."""


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """How many records of one owner were deleted."""

    responses: int
    """Stored responses."""
    background: int
    """Running background responses that were cancelled."""
    reasoning: int
    """Tool calls and messages with reasoning state."""
    conversations: int
    """Conversations with a remembered target."""
    limits: int
    """Limits that had counted calls or tokens."""


class Runtime(msgspec.Struct, frozen=True):
    """What a call needs to know, immutable; one for each loaded configuration."""

    config: Config
    providers: Mapping[str, Provider]
    catalog: Catalog
    authenticator: Authenticator
    executor: Executor
    callers: CallerQueues
    open_calls: OpenCalls
    health: HealthChecks
    listings: Listings
    counting: Counting
    reasoning: ReasoningCache
    response_records: RecordStore
    strategies: Strategies
    affinities: Affinities
    observers: Observers
    metrics: "Metrics | None"
    degraded: Callable[[], list[str]]
    """See `SharedState.degraded`."""
    admins: Admins
    clock: Clock
    bounds: Bounds
    worker: Worker
    bodies: Bodies

    @classmethod
    def build(
        cls,
        config: Config,
        shared: SharedState,
        *,
        identify: Identify | None = None,
        csrf: Csrf | None = None,
    ) -> "Runtime":
        """Build the runtime of a configuration.

        Args:
            config: A validated configuration.
            shared: The state that outlives this runtime.
            identify: The host's hook that returns the principal of a request.
            csrf: The host's own check of a CSRF token.
        """
        providers = {}
        for name, block in config.providers.items():
            if block.enabled:
                providers[name] = provider_class(block.type)(name, block)
                providers[name].max_event = config.limits.event
        catalog = Catalog(providers, config.models, default_provider=config.default_provider)
        authenticator = Authenticator(
            mode=config.access.mode,
            keys=config.access.limited_keys,
            identify=identify,
            csrf=csrf,
            limits=config.access.default.call_limits,
            origins=config.access.origins,
            attempts=shared.failed_attempts,
            failed_attempts_per_minute=config.access.failed_attempts_per_minute,
        )
        stores = NO_STORES if config.store == "never" else shared.stores(config.database)
        metrics = _metrics(config, catalog, shared)
        # Last, when nothing can fail any more: a runtime that cannot be built must not change the current one.
        shared.health.watch(providers.values())
        shared.catalog = catalog
        admission = shared.admission_queues.targets(providers.values())
        return cls(
            config=config,
            providers=providers,
            catalog=catalog,
            authenticator=authenticator,
            executor=Executor(
                shared.pool,
                shared.cooldowns,
                largest_answer=config.limits.answer,
                largest_stream=config.limits.stream,
                budgets=shared.budgets,
                admission=admission,
                observers=shared.observers,
                on_first_event=shared.latencies.record if _uses_latency(config) else None,
                clock=shared.clock,
                worker=shared.worker,
            ),
            callers=shared.admission_queues.callers,
            open_calls=shared.open_calls,
            health=shared.health,
            listings=shared.listings,
            counting=Counting(
                shared.pool,
                shared.cooldowns,
                largest_answer=config.limits.answer,
                admission=admission,
                worker=shared.worker,
            ),
            reasoning=ReasoningCache(stores.reasoning),
            response_records=stores.responses,
            strategies=shared.strategies,
            affinities=shared.affinities,
            observers=shared.observers,
            metrics=metrics,
            degraded=shared.degraded,
            admins=Admins(config.access.admins, everyone=config.access.mode == "open"),
            clock=shared.clock,
            bounds=config.limits.bounds,
            worker=shared.worker,
            bodies=shared.bodies,
        )


def _metrics(config: Config, catalog: Catalog, shared: SharedState) -> "Metrics | None":
    """Return the metrics if their page is enabled; rename labels of a host's own page, too."""
    if config.endpoints.metrics:
        from llmproxy_asgi.telemetry.prometheus import check_installed

        check_installed()
    elif shared.metrics is None:
        return None
    metrics = shared.enable_metrics(label_names(config, catalog))
    return metrics if config.endpoints.metrics else None


def label_names(config: Config, catalog: Catalog) -> Names:
    """Return the names in the configuration, for metrics' labels."""
    entries = [entry for block in config.providers.values() for entry in block.models or ()]
    patterns = dict.fromkeys(entry.name for entry in entries if entry.is_pattern)
    return Names(
        providers=frozenset(config.providers),
        models=frozenset(catalog.names()) | {entry.name for entry in entries if not entry.is_pattern},
        patterns=tuple((pattern, name_filter([pattern])) for pattern in patterns),
    )


def _uses_latency(config: Config) -> bool:
    """Whether a route selects targets by latency."""
    return any(route.strategy == "least_latency" for route in config.models.values())
