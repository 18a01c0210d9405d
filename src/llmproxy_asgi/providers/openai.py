"""OpenAI itself, and whoever has its paths."""

import re
from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from llmproxy_asgi.providers.base import Credential, Provider, join, provider
from llmproxy_asgi.transport import Address

PATHS = {
    "openai-chat": "/chat/completions",
    "openai-responses": "/responses",
    "openai-completions": "/completions",
    "openai-embeddings": "/embeddings",
}
"""Protocol to its path below the version; OpenAI-compatible servers share it."""
_COUNTER = "/responses/input_tokens"
_COMPLETES_ONLY = re.compile(r"(?:ft:)?(?:gpt-3\.5-turbo-instruct|davinci-002|babbage-002)(?![a-z]).*")
"""The last models that take legacy completions; they take nothing else, and every other model takes Chat."""


class OpenAIShaped(Provider):
    """Any upstream whose paths and key header are OpenAI's."""

    speaks: ClassVar[tuple[str, ...]] = tuple(PATHS)
    if_told: ClassVar[frozenset[str]] = frozenset({"openai-completions"})

    @override
    def address(self, protocol: str, model: str, *, stream: bool) -> Address:
        return self._below(PATHS[protocol])

    @override
    def authorize(self, protocol: str, credential: Credential) -> Mapping[str, str]:
        if credential.secret is None:
            return {}
        return {"authorization": f"Bearer {credential.secret.reveal()}"}

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
        if self.config.protocol is None and _COMPLETES_ONLY.fullmatch(model):
            return ("openai-completions",)
        return self.protocols

    @override
    def issuer(self, model: str, protocol: str) -> str:
        return "openai"
