"""Anthropic, and other addresses of the Messages API."""

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from typing_extensions import override

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.providers.base import Credential, ProbeRequest, Provider, join, provider
from llmproxy_asgi.translators.anthropic_messages.families import capabilities_of
from llmproxy_asgi.transport import Address


@provider("anthropic")
class Anthropic(Provider):
    """api.anthropic.com, or another address of the Messages API (without a version, as the vendor's SDK expects it)."""

    protocols: ClassVar[tuple[str, ...]] = ("anthropic-messages",)
    base_url: ClassVar[str | None] = "https://api.anthropic.com"

    @override
    def address(self, protocol: str, model: str, *, stream: bool) -> Address:
        return join(self.root, "/messages", version="v1")

    @override
    def counting_address(self, protocol: str, model: str) -> Address | None:
        return join(self.root, "/messages/count_tokens", version="v1")

    @override
    def authorize(self, protocol: str, credential: Credential) -> Mapping[str, str]:
        # The vendor accepts two headers; compatible servers accept this one.
        if credential.secret is None:
            return {}
        return {"x-api-key": credential.secret.reveal()}

    @override
    def health_request(self) -> ProbeRequest:
        return ProbeRequest(join(self.root, "/models?limit=1", version="v1"), ((b"anthropic-version", b"2023-06-01"),))

    @override
    def models_request(self, after: str) -> ProbeRequest:
        page = f"/models?limit=1000&after_id={quote(after, safe='')}" if after else "/models?limit=1000"
        return ProbeRequest(join(self.root, page, version="v1"), ((b"anthropic-version", b"2023-06-01"),))

    @override
    def capabilities(self, model: str, protocol: str) -> Capabilities:
        return capabilities_of(model)

    @override
    def issuer(self, model: str, protocol: str) -> str:
        return "anthropic"
