"""A target: a provider, and the name it gives a model. What routing yields and execution tries."""

from collections.abc import Mapping
from typing import Any

import msgspec

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.translators.base import Outbound, Upstream
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.transport import Address


class Line(msgspec.Struct, frozen=True):
    """How a target is spoken to in one protocol; worked out once."""

    outbound: Outbound
    upstream: Upstream
    whole: Address
    """Where a request for one whole answer goes."""
    stream: Address


class Target:
    """Where a call may go.

    Args:
        provider: Whose.
        model: The upstream's own name of it.
        asked: The name that callers use.
        overrides: What the configuration says of the model's capabilities.
    """

    __slots__ = ("_lines", "asked", "model", "name", "overrides", "provider")

    def __init__(
        self, provider: Provider, model: str, *, asked: str | None = None, overrides: Mapping[str, Any] | None = None
    ) -> None:
        self.provider = provider
        self.model = model
        self.asked = asked or model
        self.overrides = overrides or {}
        self.name = f"{provider.name}/{model}"
        self._lines: dict[str, Line] = {}

    def line(self, protocol: str) -> Line:
        """How to speak to it for a caller of `protocol`: in that same one if the upstream can, else in its first."""
        spoken = protocol if protocol in self.provider.protocols else self.provider.protocols[0]
        line = self._lines.get(spoken)
        if line is None:
            line = self._lines[spoken] = self._line(spoken)
        return line

    def capabilities(self, protocol: str) -> Capabilities:
        """What the model takes: what is known of it, with the configuration's word over it."""
        known = self.provider.capabilities(self.model, protocol)
        if not self.overrides:
            return known
        return msgspec.convert({**msgspec.to_builtins(known), **self.overrides}, Capabilities)

    def _line(self, protocol: str) -> Line:
        provider = self.provider
        return Line(
            outbound=translator(protocol).outbound,
            upstream=Upstream(
                provider=provider.name,
                model=self.model,
                asked=self.asked,
                issuer=provider.issuer(self.model, protocol),
                capabilities=self.capabilities(protocol),
                max_event=provider.max_event,
            ),
            whole=provider.address(protocol, self.model, stream=False),
            stream=provider.address(protocol, self.model, stream=True),
        )
