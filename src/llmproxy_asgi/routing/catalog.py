"""Which targets a model name stands for.

In this order: a name under `models`; `provider/model`; the enabled providers that list the name, exactly and then by
pattern, higher priority first; providers that list nothing serve whatever they are asked for. The catalog is immutable
and decides nothing about callers: whoever asks hands in what that caller may use. In which order a call tries targets
of one rank is decided in `strategies`.
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
_REMEMBERED = 1024


class WeightedTarget(Protocol):
    """One of the targets of a `ConfiguredModel`."""

    @property
    def target(self) -> str:
        """A `provider/model`."""

    @property
    def weight(self) -> float | None:
        """Its share; None: its provider's weight."""


class ConfiguredModel(Protocol):
    """A name that stands for several targets (`models:` in the configuration)."""

    @property
    def targets(self) -> Sequence[WeightedTarget]:
        """Best first."""

    @property
    def strategy(self) -> Strategy:
        """In which order they are tried."""

    @property
    def affinity(self) -> bool:
        """Whether a conversation stays where it is."""


class Rank(msgspec.Struct, frozen=True):
    """Targets that are as good as each other."""

    targets: tuple[Target, ...]
    weights: tuple[float, ...]
    strategy: Strategy


class Choice(msgspec.Struct, frozen=True):
    """What a name stands for."""

    name: str
    ranks: tuple[Rank, ...]
    """Best first."""
    targets: tuple[Target, ...]
    """All of them, best first; never empty."""
    affinity: bool
    """Whether a conversation stays with the target that served it before."""
    fixed: bool
    """Whether every call tries the targets in the order in which they stand here."""

    @property
    def several(self) -> bool:
        """Whether there is anything to choose: a second target, or a second credential."""
        return len(self.targets) > 1 or len(self.targets[0].provider.credentials) > 1


Allowed = Callable[[str], bool]
"""Whether a caller may use a name."""


def everything(_name: str) -> bool:
    """The grant of a caller without limits."""
    return True


def allow(patterns: Sequence[str]) -> Allowed:
    """A grant of the names that match one of some patterns (`*` stands for anything)."""
    tests = [compile_pattern(translate(pattern.replace("[", "[[]").replace("?", "[?]"))).match for pattern in patterns]
    return lambda name: any(test(name) for test in tests)


class Catalog:
    """The names there are.

    Args:
        providers: The enabled ones, by name.
        configured: Names that stand for several targets.
        default_provider: Serves requests that name no model, and goes first among those that list nothing.
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
            (provider, entry, allow([entry.name]))
            for provider in ranked
            for entry in _enabled(provider)
            if entry.is_pattern
        ]
        self._off = {provider.name: _switched_off(provider) for provider in ranked}
        self._found: dict[str, Choice] = {}

    def resolve(self, name: str, allowed: Allowed = everything) -> Choice:
        """The targets of a name.

        Args:
            name: As the caller said it; empty for none.
            allowed: What this caller may use.

        Raises:
            ModelNotFound: There is no such name, or not for this caller (the same answer for both).
        """
        if not name:
            name = self._unnamed()
        if len(name) > MAX_NAME or not name.isprintable() or not allowed(name):
            raise ModelNotFound(name)
        choice = self._found.get(name)
        if choice is None:
            choice = self._find(name)
            if choice is None:
                raise ModelNotFound(name)
            if len(self._found) < _REMEMBERED:  # names are callers' text: what is remembered of them is bounded
                self._found[name] = choice
        return choice

    def configured(self) -> Iterator[Choice]:
        """What the names under `models` stand for, without those of which every target is switched off."""
        return (choice for choice in self._configured.values() if choice is not None)

    def watched(self) -> Iterator[tuple[str, Sequence[Target]]]:
        """What may be told to be degraded: every name of the configuration, with its targets.

        A provider that lists no names stands there as `provider/*`.
        """
        for name in self.names():
            choice = self._found.get(name) or self._find(name)
            if choice is not None:
                yield name, choice.targets
        for provider in self._ranked:
            if all(entry.is_pattern for entry in _enabled(provider)):
                yield f"{provider.name}/*", (Target(provider, "*"),)

    def open_ended(self) -> list[Provider]:
        """The providers that serve more than the configuration lists: what that is, their upstreams know."""
        return [
            provider
            for provider in self._providers.values()
            if (provider.config.models is None or any(entry.is_pattern for entry in _enabled(provider)))
            and not (provider.config.bypass_model and provider.config.default_model)
        ]

    def passed_on(self, choice: Choice) -> Sequence[Target]:
        """The targets of a name that the configuration does not hold, so that their upstreams know it or nobody does.

        Empty where the configuration names the model of one of them.
        """
        if choice.name in self._configured or any(map(_is_named, choice.targets)):
            return ()
        return choice.targets

    def names(
        self, allowed: Allowed = everything, upstream: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> list[str]:
        """Every name that can be listed, in the configuration's order; patterns cannot.

        Args:
            allowed: What this caller may use.
            upstream: What the upstreams of open-ended providers serve, by the providers' names.
        """
        listed: dict[str, None] = dict.fromkeys(choice.name for choice in self.configured())
        for provider in self._providers.values():
            listed.update(dict.fromkeys(entry.name for entry in _enabled(provider) if not entry.is_pattern))
            if provider.config.models is None and provider.config.default_model:
                listed[provider.config.default_model] = None
            listed.update(dict.fromkeys(f"{provider.name}/{model}" for model in provider.known_models()))
        found = {name: None for name in listed if allowed(name)}
        for provider in self.open_ended():
            found.update(self._offered(provider, upstream.get(provider.name, ()), allowed))
        return list(found)

    def _offered(self, provider: Provider, models: Sequence[str], allowed: Allowed) -> dict[str, None]:
        """Of an upstream's models those that its provider serves, by names that lead there."""
        listed: dict[str, None] = {}
        for model in models:
            direct = f"{provider.name}/{model}"
            if not self._serves(provider, model):
                continue
            if allowed(model) and self._leads_to(model, provider):
                listed[model] = None
            elif allowed(direct):
                listed[direct] = None
        return listed

    def _serves(self, provider: Provider, model: str) -> bool:
        if provider.config.models is None:
            return True
        return model not in self._off[provider.name] and any(
            matches(model) for owner, _, matches in self._patterns if owner is provider
        )

    def _leads_to(self, name: str, provider: Provider) -> bool:
        """Whether a name is served by this provider first: a listed name must mean the model that was listed."""
        choice = self._found.get(name) or self._find(name)
        return choice is not None and choice.targets[0].provider is provider and name not in self._configured

    def _find(self, name: str) -> Choice | None:
        if name in self._configured:
            return self._configured[name]
        provider_name, slash, model = name.partition("/")
        if slash and provider_name in self._providers and model:
            return _choice(name, self._ranks([_direct(self._providers[provider_name], model, client_model=name)]))
        found = (self._exact(name), self._matching(name), self._unlisted(name))
        return _choice(name, [rank for targets in found for rank in self._ranks(targets)])

    def _exact(self, name: str) -> Iterable[Target | None]:
        for provider in self._ranked:
            for entry in _enabled(provider):
                if entry.name == name and not entry.is_pattern:
                    yield _served(provider, entry, name)

    def _matching(self, name: str) -> Iterable[Target | None]:
        for provider, entry, matches in self._patterns:
            if matches(name) and name not in self._off[provider.name]:
                yield _served(provider, entry, name)

    def _unlisted(self, name: str) -> Iterable[Target | None]:
        for provider in self._ranked:
            if provider.config.models is None:
                yield _served(provider, None, name)

    def _ranks(self, targets: Iterable[Target | None]) -> Iterator[Rank]:
        """Those of one priority share the calls by weight if one of them says a weight; else the first goes first."""
        there = [target for target in targets if target is not None]
        for _, equals in groupby(there, key=lambda target: target.provider.config.priority):
            rank = tuple(equals)
            configs = [target.provider.config for target in rank]
            shared = any("weight" in config.model_fields_set for config in configs)
            weights = tuple(config.weight for config in configs)
            yield Rank(rank, weights, "weighted" if shared else "failover")

    def _expand(self, name: str, configured: ConfiguredModel) -> Choice | None:
        targets, weights = [], []
        for entry in configured.targets:
            provider_name, _, model = entry.target.partition("/")
            provider = self._providers.get(provider_name)
            target = _direct(provider, model, client_model=name) if provider is not None else None
            if provider is not None and target is not None:
                targets.append(target)
                weights.append(provider.config.weight if entry.weight is None else entry.weight)
        return _choice(name, [Rank(tuple(targets), tuple(weights), configured.strategy)], affinity=configured.affinity)

    def _unnamed(self) -> str:
        for provider in [self._default] if self._default else self._ranked:
            if provider.config.default_model:
                return f"{provider.name}/{provider.config.default_model}"
        raise ModelNotFound("")


def _enabled(provider: Provider) -> list[ModelEntry]:
    return [entry for entry in provider.config.models or () if entry.enabled]


def _switched_off(provider: Provider) -> frozenset[str]:
    """Names that the provider's patterns do not bring back."""
    entries = [entry for entry in provider.config.models or () if not entry.is_pattern]
    return frozenset(entry.name for entry in entries if not entry.enabled) - {
        entry.name for entry in entries if entry.enabled
    }


def _is_named(target: Target) -> bool:
    """Whether the configuration, or an embedded provider, names a target's model."""
    provider, model = target.provider, target.model
    named = {entry.upstream or entry.name for entry in _enabled(provider) if entry.upstream or not entry.is_pattern}
    return model in named or model == provider.config.default_model or model in provider.known_models()


def _direct(provider: Provider, model: str, *, client_model: str) -> Target | None:
    """A provider's model by the provider's own client-side name; one that it does not list is passed on as it is."""
    entries = provider.config.models or ()
    found = [entry for entry in entries if entry.name == model and not entry.is_pattern]
    found = found or [entry for entry in entries if entry.is_pattern and allow([entry.name])(model)]
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


def _choice(name: str, ranks: Iterable[Rank], *, affinity: bool = True) -> Choice | None:
    """Without repeats: a target that was found twice is tried once, at its first place."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for rank in ranks:
        new = []
        for target, weight in zip(rank.targets, rank.weights, strict=True):
            where = (target.provider.name, target.model)
            if where not in seen:
                seen.add(where)
                new.append((target, weight))
        if new:
            kept.append(Rank(tuple(target for target, _ in new), tuple(weight for _, weight in new), rank.strategy))
    targets = tuple(target for rank in kept for target in rank.targets)
    fixed = all(rank.strategy == "failover" or len(rank.targets) == 1 for rank in kept)
    return Choice(name, tuple(kept), targets, affinity, fixed) if targets else None
