"""The simulated provider: all protocols, no key, no network, one model for each behaviour."""

from typing import ClassVar
from urllib.parse import quote

from pydantic import Field
from typing_extensions import override

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.providers.base import Credential, Provider, ProviderConfig, join, provider
from llmproxy_asgi.providers.simulated.behaviours import names
from llmproxy_asgi.providers.simulated.serve import SimulatedTransport
from llmproxy_asgi.settings import Duration
from llmproxy_asgi.translators.registry import TRANSLATORS
from llmproxy_asgi.transport import Address, AsyncTransport

_CAPABLE = Capabilities(reasoning_content=True)


class SimulatedConfig(ProviderConfig):
    """The settings of the simulated provider."""

    delay: Duration = Field(0.0, ge=0, le=60, description="Between two pieces of a stream.")


@provider("simulated", config=SimulatedConfig)
class Simulated(Provider):
    """An upstream within this process; the model's name selects its behaviour."""

    protocols: ClassVar[tuple[str, ...]] = tuple(TRANSLATORS)
    base_url: ClassVar[str | None] = "https://simulated.invalid"  # a name that never resolves (RFC 6761)
    needs_key: ClassVar[bool] = False
    takes_key: ClassVar[bool] = False

    @classmethod
    @override
    def check(cls, config: ProviderConfig) -> list[str]:
        findings = super().check(config)
        if config.base_url is not None:
            findings.append("base_url: this type answers within the process and has no address")
        return findings

    @override
    def address(self, protocol: str, model: str, *, stream: bool) -> Address:
        if protocol != "gemini":
            return join(self.root, f"/{protocol}")
        method = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return join(self.root, f"/{protocol}/{quote(model, safe='')}:{method}")

    @override
    def authorize(self, protocol: str, credential: Credential) -> dict[str, str]:
        return {}

    @override
    def capabilities(self, model: str, protocol: str) -> Capabilities:
        return _CAPABLE

    @override
    def known_models(self) -> tuple[str, ...]:
        return names()

    @property
    @override
    def connection_key(self) -> tuple[object, ...]:
        assert isinstance(self.config, SimulatedConfig)
        return (*super().connection_key, self.config.delay)

    @override
    def transport(self) -> AsyncTransport:
        assert isinstance(self.config, SimulatedConfig)
        return SimulatedTransport(delay=self.config.delay)
