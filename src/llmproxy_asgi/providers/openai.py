"""OpenAI itself, and whoever has its paths."""

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
"""Protocol to its path below the version; OpenAI-compatible servers share it. Responses goes first: of the two for
conversations it alone carries the reasoning of earlier turns."""
_COUNTER = "/responses/input_tokens"
_COMPLETES_ONLY = re.compile(r"(?:ft:)?(?:gpt-3\.5-turbo-instruct|davinci-002|babbage-002)(?![a-z]).*")
"""The last models that take legacy completions; they take nothing else, and every other model takes Chat."""


class OpenAIShaped(Provider):
    """Any upstream whose paths and key header are OpenAI's."""

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
        # OpenAI's SDK wants the version in base_url; an address without any path is taken to have left it out.
        bare = self.root.count("/") == len("//")
        return join(self.root, path, version="v1" if bare else None)


@provider("openai")
class OpenAI(OpenAIShaped):
    """api.openai.com, or an address that stands for it."""

    base_url: ClassVar[str | None] = "https://api.openai.com/v1"

    @override
    def counting_address(self, protocol: str, model: str) -> Address | None:
        return self._below(_COUNTER) if protocol == "openai-responses" else None

    @override
    def protocols_of(self, model: str) -> tuple[str, ...]:
        if self.config.protocol is not None:
            return self.enabled_protocols
        if _COMPLETES_ONLY.fullmatch(model):
            return ("openai-completions",)
        only = known(model).only
        return self.enabled_protocols if only is None else (only,)

    @override
    def capabilities(self, model: str, protocol: str) -> Capabilities:
        return known(model).capabilities

    @override
    def issuer(self, model: str, protocol: str) -> str:
        return "openai"
