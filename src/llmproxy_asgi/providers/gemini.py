"""Google's Gemini API, and other addresses of it."""

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote

from typing_extensions import override

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.errors import ModelNotFound
from llmproxy_asgi.providers.base import Credential, ProbeRequest, Provider, join, provider
from llmproxy_asgi.translators.gemini.families import capabilities_of
from llmproxy_asgi.transport import Address

_VERSIONS = ("v1beta", "v1")
_METHODS = {"gemini": "generateContent", "gemini-embeddings": "batchEmbedContents"}
_STREAM = "streamGenerateContent?alt=sse"
_INVALID_SEGMENTS = frozenset({"", ".", ".."})


@provider("gemini")
class Gemini(Provider):
    """generativelanguage.googleapis.com, or another address of the API (no version, as the vendor's SDK expects it)."""

    protocols: ClassVar[tuple[str, ...]] = tuple(_METHODS)
    base_url: ClassVar[str | None] = "https://generativelanguage.googleapis.com"

    @override
    def address(self, protocol: str, model: str, *, stream: bool) -> Address:
        return self._method(model, _STREAM if stream else _METHODS[protocol])

    @override
    def counting_address(self, protocol: str, model: str) -> Address | None:
        return self._method(model, "countTokens") if protocol == "gemini" else None

    @override
    def health_request(self) -> ProbeRequest:
        return ProbeRequest(join(self.root, "/models?pageSize=1", version=self._version))

    @override
    def models_request(self, after: str) -> ProbeRequest:
        page = f"/models?pageSize=1000&pageToken={quote(after, safe='')}" if after else "/models?pageSize=1000"
        return ProbeRequest(join(self.root, page, version=self._version))

    @property
    def _version(self) -> str:
        return next((version for version in _VERSIONS if self.root.endswith("/" + version)), _VERSIONS[0])

    def _method(self, model: str, method: str) -> Address:
        path = model if "/" in model and model.startswith(("models/", "tunedModels/")) else f"models/{model}"
        if not _INVALID_SEGMENTS.isdisjoint(path.split("/")):
            raise ModelNotFound(model)  # a server that resolves such segments would serve another resource
        return join(self.root, f"/{quote(path)}:{method}", version=self._version)

    @override
    def authorize(self, protocol: str, credential: Credential) -> Mapping[str, str]:
        return {} if credential.secret is None else {"x-goog-api-key": credential.secret.reveal()}

    @override
    def capabilities(self, model: str, protocol: str) -> Capabilities:
        return capabilities_of(model)

    @override
    def issuer(self, model: str, protocol: str) -> str:
        return "gemini"
