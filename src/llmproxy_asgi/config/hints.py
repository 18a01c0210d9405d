"""Suggestions for unknown keys: old names, names of other products, and keys in the wrong block.

`findings.py` uses these tables where no known key is spelled alike.
"""

from collections.abc import Iterable

from pydantic import BaseModel

from llmproxy_asgi.config.schema import Access, Config, Endpoints, Limits, ModelRoute
from llmproxy_asgi.providers.base import ModelEntry, ProviderConfig
from llmproxy_asgi.settings import KeyEntry, ProviderRateLimit, RateLimit, Retry, Timeouts

RENAMED: dict[type[BaseModel], dict[str, str]] = {
    Config: {"state": "database", "drain": "drain_timeout"},
    Access: {"per_principal": "default"},
    Limits: {"body_time": "body_timeout", "write_time": "write_timeout"},
    RateLimit: {"max_wait": "queue_timeout", "max_waiting": "max_queue"},
    ProviderRateLimit: {"per": "scope"},
}
"""Old names of settings and their new names, by the block that they belong to."""

LITELLM = frozenset({"model_list", "litellm_settings", "router_settings", "general_settings", "litellm_params"})
LITELLM_FILE = (
    "belongs to a configuration of LiteLLM, which is not read: write each upstream as a block under `providers`, as in "
    "`openai: {api_key: ${OPENAI_API_KEY}, models: [gpt-5]}`, and a name with several deployments under `models`"
)

_OTHER_WORDS: dict[type[BaseModel], dict[str, str]] = {
    ProviderConfig: {
        "api_base": "base_url", "url": "base_url", "endpoint": "base_url", "host": "base_url", "address": "base_url",
        "key": "api_key", "token": "api_key", "secret": "api_key", "key_env": "api_key_env", "provider": "type",
        "kind": "type", "model": "models", "deployments": "models", "rpm": "rate_limit", "tpm": "rate_limit",
        "retries": "retry", "max_retries": "retry",
    },
    ModelEntry: {"model": "upstream", "alias": "name", "id": "name", "model_name": "name"},
    ModelRoute: {"fallbacks": "targets", "deployments": "targets", "providers": "targets", "models": "targets"},
    Access: {"api_keys": "keys", "auth": "mode", "users": "keys"},
    KeyEntry: {
        "api_key": "key", "token": "key", "value": "key", "id": "name", "user": "name",
        "rpm": "requests_per_minute", "tpm": "tokens_per_minute",
    },
}  # fmt: skip
"""Names of settings in other products and their names here, by the block that they belong to."""

_PLACES: tuple[tuple[type[BaseModel], str], ...] = (
    (Config, "at the top level"),
    (ProviderConfig, "in a provider's block, under `providers`"),
    (Access, "under `access`"),
    (Endpoints, "under `endpoints`"),
    (Limits, "under `limits`"),
    (ModelRoute, "in a name's block, under `models`"),
    (ProviderRateLimit, "under a provider's `rate_limit`"),
    (Timeouts, "under a provider's `timeout`"),
    (Retry, "under a provider's `retry`"),
    (ModelEntry, "in an entry of a provider's `models`"),
    (KeyEntry, "in an entry of `access.keys`"),
)
"""The place of each block's keys, for keys in the wrong block; the first block with the key is named."""


def renamed(key: str, blocks: Iterable[type[BaseModel]]) -> str | None:
    """Return the new name of a renamed key; None if it was not renamed."""
    return _look_up(RENAMED, key, blocks)


def other_word(key: str, blocks: Iterable[type[BaseModel]]) -> str | None:
    """Return the name here of a key of another product; None if it is unknown."""
    return _look_up(_OTHER_WORDS, key.lower().replace("-", "_"), blocks)


def proper_place(key: str) -> str | None:
    """Return in words where a key belongs; None if it is unknown everywhere."""
    return next((place for block, place in _PLACES if key in block.model_fields), None)


def _look_up(table: dict[type[BaseModel], dict[str, str]], key: str, blocks: Iterable[type[BaseModel]]) -> str | None:
    blocks = tuple(blocks)
    for owner, names in table.items():
        if key in names and any(issubclass(block, owner) for block in blocks):
            return names[key]
    return None
