"""OpenAI itself. The Responses protocol joins `speaks` when its translator does."""

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from llmproxy_asgi.providers.base import Credential, Provider, join, provider
from llmproxy_asgi.transport import Address

PATHS = {"openai-chat": "/chat/completions"}
"""Protocol to its path below the version; OpenAI-compatible servers share it."""


class OpenAIShaped(Provider):
    """Any upstream whose paths and key header are OpenAI's."""

    speaks: ClassVar[tuple[str, ...]] = tuple(PATHS)

    @override
    def address(self, protocol: str, model: str, *, stream: bool) -> Address:
        # OpenAI's SDK wants the version in base_url; an address without any path is taken to have left it out.
        bare = self.root.count("/") == len("//")
        return join(self.root, PATHS[protocol], version="v1" if bare else None)

    @override
    def authorize(self, protocol: str, credential: Credential) -> Mapping[str, str]:
        if credential.secret is None:
            return {}
        return {"authorization": f"Bearer {credential.secret.reveal()}"}


@provider("openai")
class OpenAI(OpenAIShaped):
    """api.openai.com, or an address that stands for it."""

    base_url: ClassVar[str | None] = "https://api.openai.com/v1"

    @override
    def issuer(self, model: str, protocol: str) -> str:
        return "openai"
