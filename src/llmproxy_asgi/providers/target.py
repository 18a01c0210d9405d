"""A target: a provider and one of its models. Routing orders targets, execution tries them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from llmproxy_asgi.capabilities import ANY, Capabilities
from llmproxy_asgi.errors import Unsupported
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.translators.base import AnyOutbound, Upstream
from llmproxy_asgi.translators.refusals import refusal
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.transport import Address

_GOOGLE_STORAGE = frozenset({"gemini", "gemini-embeddings"})
"""Protocols of upstreams that read Google's storage; `vendor_references` rejects ids of others."""
_NEAREST = {"openai-completions": "openai-chat"}
"""The protocol that expresses another one best (several candidates, stop sequences), however they are ordered."""


class Route(msgspec.Struct, frozen=True):
    """A target with the protocol in which it is called; resolved once per protocol of callers."""

    outbound: AnyOutbound
    upstream: Upstream
    passthrough: bool
    """Whether it is the callers' own protocol, so that bytes can stay unchanged."""
    address: Address
    """Of requests for a whole response."""
    stream_address: Address
    counting_address: Address | None = None
    """Of requests that count tokens; None: the upstream has no counter."""


class Target:
    """A provider and one of its models.

    Args:
        provider: The provider.
        model: The upstream's name of the model.
        client_model: The name that callers use.
        overrides: The configured capabilities of the model.
    """

    __slots__ = ("_alternatives", "_excluded", "_routes", "client_model", "model", "name", "overrides", "provider")

    def __init__(
        self,
        provider: Provider,
        model: str,
        *,
        client_model: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.provider = provider
        self.model = model
        self.client_model = client_model or model
        self.overrides = overrides or {}
        self.name = f"{provider.name}/{model}"
        self._routes: dict[str, Route] = {}
        self._excluded: frozenset[str] = frozenset()
        self._alternatives: dict[str, Target] = {}

    def route(self, protocol: str) -> Route:
        """Return the route for callers of `protocol`: in the same protocol if the upstream has it.

        Raises:
            Unsupported: The upstream has no protocol that can carry the requests of such callers.
        """
        route = self._routes.get(protocol)
        if route is None:
            selected = self._select_protocol(protocol)
            if selected is None:
                raise _unsupported(self, protocol)
            route = self._routes[protocol] = self._route(selected, passthrough=selected == protocol)
        return route

    def find_route(self, protocol: str) -> Route | None:
        """Return the route for callers of `protocol`; None: the upstream has no protocol for them."""
        return self._routes.get(protocol) or (self.route(protocol) if self.supports(protocol) else None)

    def next_protocol(self, protocol: str) -> "Target | None":
        """Return the same target with the next of its upstream's protocols; None: there is no other.

        For a request that the protocol of `route(protocol)` can't express.
        """
        selected = self._select_protocol(protocol)
        if selected is None:
            return None
        other = self._alternatives.get(selected)
        if other is None:
            other = Target(self.provider, self.model, client_model=self.client_model, overrides=self.overrides)
            other._excluded = self._excluded | {selected}
            self._alternatives[selected] = other
        return other if other.supports(protocol) else None

    def supports(self, protocol: str) -> bool:
        """Return whether there is a route for callers of `protocol`."""
        return protocol in self._routes or self._select_protocol(protocol) is not None

    def counting_route(self, protocol: str) -> Route | None:
        """Return the route on which tokens are counted for callers of `protocol`: the usual one if it has a counter.

        Returns:
            None: The upstream has no counter.

        Raises:
            Unsupported: As `route`.
        """
        route = self.route(protocol)
        if route.counting_address is not None:
            return route
        offered = self.provider.protocols_of(self.model)
        others = (self.route(other) for other in offered if translator(other).outbound.family == route.outbound.family)
        return next(
            (each for each in others if each.counting_address is not None and each.outbound.carries_others), None
        )

    def capabilities(self, protocol: str) -> Capabilities:
        """Return what the model supports: the provider's knowledge, overridden by the configuration."""
        known = self.provider.capabilities(self.model, protocol)
        if self.provider.config.allow_stored:
            known = msgspec.structs.replace(known, stored=True)
        config = self.provider.config
        if ANY not in config.server_tools or ANY not in config.service_tiers:
            known = msgspec.structs.replace(known, server_tools=config.server_tools, service_tiers=config.service_tiers)
        if not self.overrides:
            return known
        return msgspec.convert({**msgspec.to_builtins(known), **self.overrides}, Capabilities)

    def _select_protocol(self, protocol: str) -> str | None:
        """Select the upstream protocol for callers of `protocol`: of the same family, able to carry their requests."""
        offered = [each for each in self.provider.protocols_of(self.model) if each not in self._excluded]
        if protocol in offered:
            return protocol
        if _NEAREST.get(protocol) in offered:
            return _NEAREST[protocol]
        family = translator(protocol).outbound.family
        outbounds = (translator(other).outbound for other in offered)
        return next((each.protocol for each in outbounds if each.family == family and each.carries_others), None)

    def _route(self, protocol: str, *, passthrough: bool) -> Route:
        provider = self.provider
        return Route(
            outbound=translator(protocol).outbound,
            upstream=Upstream(
                provider=provider.name,
                model=self.model,
                client_model=self.client_model,
                issuer=provider.issuer(self.model, protocol),
                capabilities=self.capabilities(protocol),
                max_event=provider.max_event,
                private_media=provider.config.allow_private_media,
                google_storage=protocol in _GOOGLE_STORAGE,
            ),
            passthrough=passthrough,
            address=provider.address(protocol, self.model, stream=False),
            stream_address=provider.address(protocol, self.model, stream=True),
            counting_address=provider.counting_address(protocol, self.model),
        )


def supporting(targets: Sequence[Target], protocol: str) -> Sequence[Target]:
    """Return the targets with a route for callers of `protocol`; if none has one, all, so that each raises why."""
    return [target for target in targets if target.supports(protocol)] or targets


def _unsupported(target: Target, protocol: str) -> Unsupported:
    provider = target.provider.name
    if translator(protocol).outbound.family == "embedding":
        return refusal(f"The provider {provider!r} does not support embeddings", "model", "choose an embedding model")
    if any(translator(each).outbound.family == "conversation" for each in target.provider.protocols_of(target.model)):
        return refusal(
            f"The provider {provider!r} serves this model with legacy completions only", "model", "send a prompt"
        )
    return refusal(f"The provider {provider!r} supports embeddings only", "model", "choose a conversation model")
