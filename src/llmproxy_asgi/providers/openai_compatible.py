"""Servers with OpenAI's Chat Completions API: vLLM, Ollama, llama.cpp, and vendors with such an endpoint.

Legacy completions are translated to Chat, which all of them have, unless the configuration names the protocol
(`protocol: [openai-chat, openai-completions]`).
"""

from fnmatch import fnmatchcase
from typing import ClassVar

from msgspec.structs import replace
from typing_extensions import override

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.providers.base import ProviderConfig, provider
from llmproxy_asgi.providers.openai import OpenAIShaped

COMPATIBLE = Capabilities(
    developer_role=False,
    max_tokens_field="max_tokens",
    custom_tools=False,
    allowed_tools=False,
    cache_marks=False,
    reasoning_content=True,
    system_midway=False,
    several_system=False,
    text_parts=False,
)
"""The capabilities that such servers have in common."""


_NEEDING_REASONING = (
    "deepseek-reasoner*",
    "deepseek-v3.2*",
    "deepseek-v[4-9]*",
    "kimi-k2-thinking*",
    "kimi-k2.[5-9]*",
    "kimi-k[3-9]*",
    "kimi-for-coding*",
)
"""Models that reject an earlier turn with tool calls but without its reasoning, by their vendors' documentation and
public reports (read 2026-12-01)."""


class OpenAICompatibleConfig(ProviderConfig):
    """The configuration; differences of a server are set per model, under `capabilities`."""


@provider("openai-compatible", config=OpenAICompatibleConfig)
class OpenAICompatible(OpenAIShaped):
    """An address with Chat Completions and Embeddings; most local servers need no key."""

    opt_in_protocols: ClassVar[frozenset[str]] = frozenset({"openai-completions", "openai-responses"})
    needs_key: ClassVar[bool] = False

    @override
    def capabilities(self, model: str, protocol: str) -> Capabilities:
        name = model.lower().rpartition("/")[2]
        needs = any(fnmatchcase(name, pattern) for pattern in _NEEDING_REASONING)
        return replace(COMPATIBLE, needs_reasoning_content=True) if needs else COMPATIBLE
