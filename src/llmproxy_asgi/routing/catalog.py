"""The catalog: resolves model names to targets.

In this order: a name under `models`; `provider/model`; the enabled providers that list the name, exactly and then by
pattern, higher priority first; providers without a list, which serve any model. The catalog is immutable and decides
nothing about callers: the models that a caller may use are passed in. `strategies` decides the order in which a call
tries the targets of one tier.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from itertools import groupby
from re import compile as compile_pattern
from types import MappingProxyType
from typing import Protocol

import msgspec

from llmproxy_asgi.errors import ModelNotFound
from llmproxy_asgi.providers.base import ModelEntry, Provider
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.settings import Strategy

MAX_NAME = 512
_MAX_CACHED = 1024


class WeightedTarget(Protocol):
    """One of the targets of a `ConfiguredModel`."""

    @property
    def target(self) -> str:
        """A `provider/model`."""

    @property
    def weight(self) -> float | None:
        """Its share; None: its provider's weight."""


class ConfiguredModel(Protocol):
    """A configured name of several targets (under `models:`)."""

    @property
    def targets(self) -> Sequence[WeightedTarget]:
        """Best first."""

    @property
    def strategy(self) -> Strategy:
        """The order in which they are tried."""

    @property
    def affinity(self) -> bool:
        """Whether a conversation stays with the target that served it."""


class TargetTier(msgspec.Struct, frozen=True):
    """Targets of the same priority."""

    targets: tuple[Target, ...]
    weights: tuple[float, ...]
    strategy: Strategy


class ResolvedModel(msgspec.Struct, frozen=True):
    """A model name with its targets."""

    name: str
    tiers: tuple[TargetTier, ...]
    """Best first."""
    targets: tuple[Target, ...]
    """All of them, best first; never empty."""
    affinity: bool
    """Whether a conversation stays with the target that served it before."""
    is_ordered: bool
    """Whether every call tries the targets in the order of `targets`."""

    @property
    def has_alternatives(self) -> bool:
        """Whether there is a second target, or a second credential."""
        return len(self.targets) > 1 or len(self.targets[0].provider.credentials) > 1


NameFilter = Callable[[str], bool]
"""Returns whether a caller may use a name."""


def any_name(_name: str) -> bool:
    """Allow every name."""
    return True


def name_filter(patterns: Sequence[str]) -> NameFilter:
    """Return a filter of the names that match a pattern (`*` matches any text)."""
    tests = [compile_pattern(translate(pattern.replace("[", "[[]").replace("?", "[?]"))).match for pattern in patterns]
    return lambda name: any(test(name) for test in tests)


class Catalog:
    """The model names of one configuration.

    Args:
        providers: The enabled providers, by name.
        configured: Names of several targets.
        default_provider: Serves requests without a model, and is first among the providers without a list.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        configured: Mapping[str, ConfiguredModel],
        *,
        default_provider: str | None = None,
    ) -> None:
        ranked = sorted(
            providers.values(), key=lambda provider: (-provider.config.priority, provider.name != default_provider)
        )
        self._providers = providers
        self._ranked = ranked
        self._default = providers.get(default_provider) if default_provider else None
        self._configured = {name: self._expand(name, each) for name, each in configured.items()}
        self._patterns = [
            (provider, entry, name_filter([entry.name]))
            for provider in ranked
            for entry in _enabled(provider)
            if entry.is_pattern
        ]
        self._disabled = {provider.name: _disabled_names(provider) for provider in ranked}
        self._cached: dict[str, ResolvedModel] = {}

    def resolve(self, name: str, allowed: NameFilter = any_name) -> ResolvedModel:
        """Resolve a name to its targets.

        Args:
            name: As the caller sent it; empty: the default model.
            allowed: The names that this caller may use.

        Raises:
            ModelNotFound: The name does not exist, or not for this caller (indistinguishable for the caller).
        """
        if not name:
            name = self._default_name()
        if len(name) > MAX_NAME or not name.isprintable() or not allowed(name):
            raise ModelNotFound(name)
        resolved = self._cached.get(name)
        if resolved is None:
            resolved = self._find(name)
            if resolved is None:
                raise ModelNotFound(name)
            if len(self._cached) < _MAX_CACHED:  # names come from callers, so the cache must be bounded
                self._cached[name] = resolved
        return resolved

    def configured(self) -> Iterator[ResolvedModel]:
        """Yield the names under `models`, without those whose targets are all disabled."""
        return (resolved for resolved in self._configured.values() if resolved is not None)

    def monitored(self) -> Iterator[tuple[str, Sequence[Target]]]:
        """Yield the names whose health is monitored, with their targets: every configured name.

        A provider without a list is included as `provider/*`.
        """
        for name in self.names():
            resolved = self._cached.get(name) or self._find(name)
            if resolved is not None:
                yield name, resolved.targets
        for provider in self._ranked:
            if all(entry.is_pattern for entry in _enabled(provider)):
                yield f"{provider.name}/*", (Target(provider, "*"),)

    def open_ended(self) -> list[Provider]:
        """Return the providers that serve more models than are configured; their upstreams list them."""
        return [
            provider
            for provider in self._providers.values()
            if (provider.config.models is None or any(entry.is_pattern for entry in _enabled(provider)))
            and not (provider.config.bypass_model and provider.config.default_model)
        ]

    def unconfigured_targets(self, resolved: ResolvedModel) -> Sequence[Target]:
        """Return the targets of a name that is not configured, so that only their upstreams know whether it exists.

        Empty if the model of one of them is configured.
        """
        if resolved.name in self._configured or any(map(_is_named, resolved.targets)):
            return ()
        return resolved.targets

    def names(
        self, allowed: NameFilter = any_name, upstream: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> list[str]:
        """Return every name in the order of the configuration, without patterns.

        Args:
            allowed: The names that this caller may use.
            upstream: The models that the upstreams of open-ended providers list, by provider name.
        """
        listed: dict[str, None] = dict.fromkeys(resolved.name for resolved in self.configured())
        for provider in self._providers.values():
            listed.update(dict.fromkeys(entry.name for entry in _enabled(provider) if not entry.is_pattern))
            if provider.config.models is None and provider.config.default_model:
                listed[provider.config.default_model] = None
            listed.update(dict.fromkeys(f"{provider.name}/{model}" for model in provider.known_models()))
        found = {name: None for name in listed if allowed(name)}
        for provider in self.open_ended():
            found.update(self._listed(provider, upstream.get(provider.name, ()), allowed))
        return list(found)

    def _listed(self, provider: Provider, models: Sequence[str], allowed: NameFilter) -> dict[str, None]:
        """Return the listed models of an upstream that its provider serves, by names that resolve to them."""
        listed: dict[str, None] = {}
        for model in models:
            direct = f"{provider.name}/{model}"
            if not self._serves(provider, model):
                continue
            if allowed(model) and self._resolves_to(model, provider):
                listed[model] = None
            elif allowed(direct):
                listed[direct] = None
        return listed

    def _serves(self, provider: Provider, model: str) -> bool:
        if provider.config.models is None:
            return True
        return model not in self._disabled[provider.name] and any(
            matches(model) for owner, _, matches in self._patterns if owner is provider
        )

    def _resolves_to(self, name: str, provider: Provider) -> bool:
        """Return whether this provider is the first to serve a name, so that it means the model that was listed."""
        resolved = self._cached.get(name) or self._find(name)
        return resolved is not None and resolved.targets[0].provider is provider and name not in self._configured

    def _find(self, name: str) -> ResolvedModel | None:
        if name in self._configured:
            return self._configured[name]
        provider_name, slash, model = name.partition("/")
        if slash and provider_name in self._providers and model:
            return _resolved(name, self._tiers([_direct(self._providers[provider_name], model, client_model=name)]))
        found = (self._exact(name), self._matching(name), self._unlisted(name))
        return _resolved(name, [tier for targets in found for tier in self._tiers(targets)])

    def _exact(self, name: str) -> Iterable[Target | None]:
        for provider in self._ranked:
            for entry in _enabled(provider):
                if entry.name == name and not entry.is_pattern:
                    yield _served(provider, entry, name)

    def _matching(self, name: str) -> Iterable[Target | None]:
        for provider, entry, matches in self._patterns:
            if matches(name) and name not in self._disabled[provider.name]:
                yield _served(provider, entry, name)

    def _unlisted(self, name: str) -> Iterable[Target | None]:
        for provider in self._ranked:
            if provider.config.models is None:
                yield _served(provider, None, name)

    def _tiers(self, targets: Iterable[Target | None]) -> Iterator[TargetTier]:
        """Yield a tier per priority: weighted if one of its providers sets a weight, else in order."""
        enabled = [target for target in targets if target is not None]
        for _, equals in groupby(enabled, key=lambda target: target.provider.config.priority):
            tier = tuple(equals)
            configs = [target.provider.config for target in tier]
            shared = any("weight" in config.model_fields_set for config in configs)
            weights = tuple(config.weight for config in configs)
            yield TargetTier(tier, weights, "weighted" if shared else "failover")

    def _expand(self, name: str, configured: ConfiguredModel) -> ResolvedModel | None:
        targets, weights = [], []
        for entry in configured.targets:
            provider_name, _, model = entry.target.partition("/")
            provider = self._providers.get(provider_name)
            target = _direct(provider, model, client_model=name) if provider is not None else None
            if provider is not None and target is not None:
                targets.append(target)
                weights.append(provider.config.weight if entry.weight is None else entry.weight)
        return _resolved(
            name, [TargetTier(tuple(targets), tuple(weights), configured.strategy)], affinity=configured.affinity
        )

    def _default_name(self) -> str:
        for provider in [self._default] if self._default else self._ranked:
            if provider.config.default_model:
                return f"{provider.name}/{provider.config.default_model}"
        raise ModelNotFound("")


def _enabled(provider: Provider) -> list[ModelEntry]:
    return [entry for entry in provider.config.models or () if entry.enabled]


def _disabled_names(provider: Provider) -> frozenset[str]:
    """Return the names that are disabled even where a pattern of the provider matches."""
    entries = [entry for entry in provider.config.models or () if not entry.is_pattern]
    return frozenset(entry.name for entry in entries if not entry.enabled) - {
        entry.name for entry in entries if entry.enabled
    }


def _is_named(target: Target) -> bool:
    """Return whether the configuration, or an embedded provider, lists a target's model."""
    provider, model = target.provider, target.model
    named = {entry.upstream or entry.name for entry in _enabled(provider) if entry.upstream or not entry.is_pattern}
    return model in named or model == provider.config.default_model or model in provider.known_models()


def _direct(provider: Provider, model: str, *, client_model: str) -> Target | None:
    """Return the target of a model by its name within a provider; None: it is disabled. Others are kept as they are."""
    entries = provider.config.models or ()
    found = [entry for entry in entries if entry.name == model and not entry.is_pattern]
    found = found or [entry for entry in entries if entry.is_pattern and name_filter([entry.name])(model)]
    if found and not any(entry.enabled for entry in found):
        return None
    return _served(provider, next((entry for entry in found if entry.enabled), None), model, client_model=client_model)


def _served(provider: Provider, entry: ModelEntry | None, model: str, *, client_model: str | None = None) -> Target:
    client_model = client_model or model
    if provider.config.bypass_model and provider.config.default_model:
        return Target(provider, provider.config.default_model, client_model=client_model)
    if entry is None:
        return Target(provider, model, client_model=client_model)
    overrides = dict(entry.capabilities)
    if entry.max_output_tokens is not None:
        overrides["max_output_tokens"] = entry.max_output_tokens
    return Target(provider, entry.upstream or model, client_model=client_model, overrides=overrides)


def _resolved(name: str, tiers: Iterable[TargetTier], *, affinity: bool = True) -> ResolvedModel | None:
    """Return a name without repeated targets: one that was found twice is tried once, at its first position."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for tier in tiers:
        new = []
        for target, weight in zip(tier.targets, tier.weights, strict=True):
            key = (target.provider.name, target.model)
            if key not in seen:
                seen.add(key)
                new.append((target, weight))
        if new:
            kept.append(
                TargetTier(tuple(target for target, _ in new), tuple(weight for _, weight in new), tier.strategy)
            )
    targets = tuple(target for tier in kept for target in tier.targets)
    is_ordered = all(tier.strategy == "failover" or len(tier.targets) == 1 for tier in kept)
    return ResolvedModel(name, tuple(kept), targets, affinity, is_ordered) if targets else None
