"""Find settings that are valid but cannot serve calls, without contacting an upstream.

`llmproxy check` reports these; loading does not, because a host may add what is missing in code (`identify=`, a
provider).
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from llmproxy_asgi.config.document import hint
from llmproxy_asgi.config.schema import Config, Finding
from llmproxy_asgi.providers.base import ProviderConfig
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.settings import is_placeholder

NOTHING = "nothing would be served"

_VENDORS = (
    (re.compile(r"sk-ant-"), "anthropic"),
    (re.compile(r"sk-(?:proj|svcacct|admin)-"), "openai"),
    (re.compile(r"AIza"), "gemini"),
    (re.compile(r"sk-or-|gsk_|xai-|pplx-|hf_|nvapi-"), "openai-compatible"),
)
"""Prefixes of vendors' keys, and the provider type that accepts them."""

_WEBSITES = frozenset(
    {
        "platform.openai.com", "chat.openai.com", "chatgpt.com", "openai.com", "www.openai.com",
        "console.anthropic.com", "platform.claude.com", "claude.ai", "anthropic.com", "www.anthropic.com",
        "aistudio.google.com", "ai.google.dev", "gemini.google.com", "console.groq.com", "huggingface.co", "github.com",
    }
)  # fmt: skip
"""Hosts of vendors' websites; the APIs have other hosts."""

_RESERVED = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|invalid|test)$")
_PLACEHOLDER_HOST = re.compile(r"(?i)(?:^|[.-])(?:your|my)[-_](?:host|server|resource|endpoint|domain|company)")


def unusable(config: Config) -> Iterator[Finding]:
    """Yield findings for everything in a valid configuration that prevents it, or a part of it, from serving calls."""
    enabled = {name: block for name, block in config.providers.items() if block.enabled}
    if not config.providers:
        yield Finding(
            (), f"holds no providers, so {NOTHING}: add one, such as `providers: {{openai: {{api_key: ${{KEY}}}}}}`"
        )
    elif not enabled:
        yield Finding(("providers",), f"are all disabled, so {NOTHING}: remove `enabled: false` from one")
    for name, block in enabled.items():
        yield from _provider(name, block)
    yield from _routes(config, enabled)
    yield from _access(config, enabled)


def _provider(name: str, block: ProviderConfig) -> Iterator[Finding]:
    where = ("providers", name)
    if block.models is not None and not any(entry.enabled for entry in block.models) and not block.bypass_model:
        yield Finding((*where, "models"), "holds no enabled model: list one, or leave `models` out to serve all")
    for index, key in enumerate(block.api_key or ()):
        problem = _key_problem(key.reveal(), block)
        if problem:
            several = len(block.api_key or ()) > 1
            yield Finding((*where, "api_key", index) if several else (*where, "api_key"), problem)
    problem = _address_problem(block.base_url)
    if problem:
        yield Finding((*where, "base_url"), problem)


def _key_problem(key: str, block: ProviderConfig) -> str | None:
    if not provider_class(block.type).needs_key or block.base_url is not None:
        return None  # a self-hosted server may accept any key
    if is_placeholder(key):
        return "is a placeholder: write the key itself, or ${NAME} to read it from the environment"
    owner = next((kind for pattern, kind in _VENDORS if pattern.match(key)), None)
    if owner is not None and owner != block.type:
        return f"begins like a key for type {owner!r}, and this provider's type is {block.type!r}"
    return None


def _address_problem(url: str | None) -> str | None:
    host = (urlsplit(url).hostname or "") if url is not None else ""
    if host in _WEBSITES:
        return f"is the address of a website ({host}): write the API's, or leave it out for the vendor's own"
    if _RESERVED.search(host) or _PLACEHOLDER_HOST.search(host) or "<" in (url or ""):
        return "is a placeholder: write your server's address"
    return None


def _routes(config: Config, enabled: dict[str, ProviderConfig]) -> Iterator[Finding]:
    for name, route in config.models.items():
        if not any(entry.target.partition("/")[0] in enabled for entry in route.targets):
            yield Finding(("models", name, "targets"), "name only disabled providers")
    default = config.default_provider
    if default is not None and enabled and default not in enabled:
        yield Finding(("default_provider",), f"names {default!r}, which is disabled")


def _access(config: Config, enabled: dict[str, ProviderConfig]) -> Iterator[Finding]:
    access = config.access
    if access.mode == "keys" and not access.keys:
        yield Finding(
            ("access",), "mode is keys and there are no keys, so every call would be refused: list one under `keys`"
        )
    names = _names(config, enabled)
    if names is None:
        return
    for index, entry in enumerate(access.keys):
        for position, model in enumerate(entry.models or ()):
            passed_on = model.partition("/")[0] in enabled and "/" in model
            if "*" not in model and model not in names and not passed_on:
                where = ("access", "keys", index, "models", position)
                yield Finding(where, f"no provider lists a model {model!r}{hint(model, names)}")


def _names(config: Config, enabled: dict[str, ProviderConfig]) -> set[str] | None:
    """Return the names that clients can use; None if a provider serves names that it does not list."""
    names = set(config.models)
    for provider, block in enabled.items():
        if block.models is None or block.bypass_model or any(entry.is_pattern for entry in block.models):
            return None
        listed = {entry.name for entry in block.models if entry.enabled}
        names |= listed | {f"{provider}/{name}" for name in listed}
    return names
