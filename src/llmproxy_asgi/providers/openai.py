"""OpenAI, and upstreams with the same paths."""

import re
from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.providers.base import Credential, ProbeRequest, Provider, join, provider
from llmproxy_asgi.translators.openai.families import known
from llmproxy_asgi.transport import Address

PATHS = {
    "openai-responses": "/responses",
    "openai-chat": "/chat/completions",
    "openai-completions": "/completions",
    "openai-embeddings": "/embeddings",
}
"""The path of each protocol below the version, also of OpenAI-compatible servers. Responses is first, because only it
carries the reasoning of earlier turns."""
_COUNTER = "/responses/input_tokens"
_COMPLETIONS_ONLY = re.compile(r"(?:ft:)?(?:gpt-3\.5-turbo-instruct|davinci-002|babbage-002)(?![a-z]).*")
"""The last models with legacy completions; they have no other protocol, and all other models have Chat."""


class OpenAIShaped(Provider):
    """An upstream with OpenAI's paths and key header."""

    protocols: ClassVar[tuple[str, ...]] = tuple(PATHS)
    opt_in_protocols: ClassVar[frozenset[str]] = frozenset({"openai-completions"})

    @override
    def address(self, protocol: str, model: str, *, stream: bool) -> Address:
        return self._below(PATHS[protocol])

    @override
    def authorize(self, protocol: str, credential: Credential) -> Mapping[str, str]:
        if credential.secret is None:
            return {}
        return {"authorization": f"Bearer {credential.secret.reveal()}"}

    @override
    def health_request(self) -> ProbeRequest:
        return ProbeRequest(self._below("/models"))

    @override
    def models_request(self, after: str) -> ProbeRequest:
        return ProbeRequest(self._below("/models"))  # in one page

    def _below(self, path: str) -> Address:
        # OpenAI's SDK expects the version in base_url; it is added to an address without a path.
        bare = self.root.count("/") == len("//")
        return join(self.root, path, version="v1" if bare else None)


@provider("openai")
class OpenAI(OpenAIShaped):
    """api.openai.com, or another address of the same API."""

    base_url: ClassVar[str | None] = "https://api.openai.com/v1"

    @override
    def counting_address(self, protocol: str, model: str) -> Address | None:
        return self._below(_COUNTER) if protocol == "openai-responses" else None

    @override
    def protocols_of(self, model: str) -> tuple[str, ...]:
        if self.config.protocol is not None:
            return self.enabled_protocols
        if _COMPLETIONS_ONLY.fullmatch(model):
            return ("openai-completions",)
        only = known(model).only
        return self.enabled_protocols if only is None else (only,)

    @override
    def capabilities(self, model: str, protocol: str) -> Capabilities:
        return known(model).capabilities

    @override
    def issuer(self, model: str, protocol: str) -> str:
        return "openai"
