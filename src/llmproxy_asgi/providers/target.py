"""A target: a provider, and the name it gives a model. What routing yields and execution tries."""

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

_GOOGLES = frozenset({"gemini", "gemini-embeddings"})
"""Protocols of upstreams that read Google's storage; `vendor_references` rejects ids of others."""
_NEAREST = {"openai-completions": "openai-chat"}
"""Protocols that another says more fully than the first that a provider offers: several candidates, where to stop."""


class Line(msgspec.Struct, frozen=True):
    """How a target is spoken to in one protocol; worked out once."""

    outbound: AnyOutbound
    upstream: Upstream
    whole: Address
    """Where a request for one whole answer goes."""
    stream: Address
    count: Address | None = None
    """Where the tokens of a request are counted; None: nowhere."""


class Target:
    """Where a call may go.

    Args:
        provider: Whose.
        model: The upstream's own name of it.
        client_model: The name that callers use.
        overrides: What the configuration says of the model's capabilities.
    """

    __slots__ = ("_lines", "_others", "_unsuited", "client_model", "model", "name", "overrides", "provider")

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
        self._lines: dict[str, Line] = {}
        self._unsuited: frozenset[str] = frozenset()
        self._others: dict[str, Target] = {}

    def line(self, protocol: str) -> Line:
        """How to speak to it for a caller of `protocol`: in that very one if the upstream can, else in one that fits.

        Raises:
            Unsupported: It speaks none that could stand for the caller's.
        """
        line = self._lines.get(protocol)
        if line is None:
            spoken = self._spoken(protocol)
            if spoken is None:
                raise _unfit(self, protocol)
            line = self._lines[protocol] = self._line(spoken)
        return line

    def another_way(self, protocol: str) -> "Target | None":
        """The same target, spoken to in the next of its upstream's protocols; None: there is no other.

        For a request that the protocol of `line(protocol)` cannot express.
        """
        spoken = self._spoken(protocol)
        if spoken is None:
            return None
        other = self._others.get(spoken)
        if other is None:
            other = Target(self.provider, self.model, client_model=self.client_model, overrides=self.overrides)
            other._unsuited = self._unsuited | {spoken}
            self._others[spoken] = other
        return other if other.takes(protocol) else None

    def takes(self, protocol: str) -> bool:
        """Whether it can be spoken to at all for a caller of `protocol`."""
        return protocol in self._lines or self._spoken(protocol) is not None

    def passes_through(self, protocol: str) -> bool:
        """Whether it is spoken to in a caller's own protocol, so that bytes can stay as they are."""
        return self.takes(protocol) and self.line(protocol).outbound.protocol == protocol

    def translates(self, protocol: str) -> bool:
        """Whether it is spoken to for a caller of `protocol`, but in another one."""
        return self.takes(protocol) and self.line(protocol).outbound.protocol != protocol

    def counting_line(self, protocol: str) -> Line | None:
        """How to have tokens counted for a caller of `protocol`: as it is spoken to, else as it counts at all.

        Returns:
            None: It has no counter.

        Raises:
            Unsupported: As `line`.
        """
        line = self.line(protocol)
        if line.count is not None:
            return line
        offered = self.provider.protocols_of(self.model)
        others = (self.line(other) for other in offered if translator(other).outbound.family == line.outbound.family)
        return next((other for other in others if other.count is not None and other.outbound.carries_others), None)

    def capabilities(self, protocol: str) -> Capabilities:
        """What the model takes: what is known of it, with the configuration's word over it."""
        known = self.provider.capabilities(self.model, protocol)
        if self.provider.config.allow_stored:
            known = msgspec.structs.replace(known, stored=True)
        config = self.provider.config
        if ANY not in config.server_tools or ANY not in config.service_tiers:
            known = msgspec.structs.replace(known, server_tools=config.server_tools, service_tiers=config.service_tiers)
        if not self.overrides:
            return known
        return msgspec.convert({**msgspec.to_builtins(known), **self.overrides}, Capabilities)

    def _spoken(self, protocol: str) -> str | None:
        """The protocol that a caller's requests go out in: of the same family, and able to carry them."""
        offered = [each for each in self.provider.protocols_of(self.model) if each not in self._unsuited]
        if protocol in offered:
            return protocol
        if _NEAREST.get(protocol) in offered:
            return _NEAREST[protocol]
        family = translator(protocol).outbound.family
        outbounds = (translator(other).outbound for other in offered)
        return next((each.protocol for each in outbounds if each.family == family and each.carries_others), None)

    def _line(self, protocol: str) -> Line:
        provider = self.provider
        return Line(
            outbound=translator(protocol).outbound,
            upstream=Upstream(
                provider=provider.name,
                model=self.model,
                client_model=self.client_model,
                issuer=provider.issuer(self.model, protocol),
                capabilities=self.capabilities(protocol),
                max_event=provider.max_event,
                private_media=provider.config.allow_private_media,
                google_storage=protocol in _GOOGLES,
            ),
            whole=provider.address(protocol, self.model, stream=False),
            stream=provider.address(protocol, self.model, stream=True),
            count=provider.counting_address(protocol, self.model),
        )


def fitting(targets: Sequence[Target], protocol: str) -> Sequence[Target]:
    """Those that can be spoken to for callers of a protocol; all of them where none can, so that each says why."""
    return [target for target in targets if target.takes(protocol)] or targets


def _unfit(target: Target, protocol: str) -> Unsupported:
    provider = target.provider.name
    if translator(protocol).outbound.family == "embedding":
        return refusal(f"The provider {provider!r} does not support embeddings", "model", "choose an embedding model")
    if any(translator(each).outbound.family == "conversation" for each in target.provider.protocols_of(target.model)):
        return refusal(
            f"The provider {provider!r} serves this model with legacy completions only", "model", "send a prompt"
        )
    return refusal(f"The provider {provider!r} supports embeddings only", "model", "choose a conversation model")
