"""What people write who know another product, another place or another word, and what it is called here.

Tables and look-ups for the findings about unknown keys; `findings.py` asks them when nothing here is spelled alike.
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
"""Words of other products, and ours."""

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
"""Where each block's keys stand, for one that stands elsewhere; the first that has it is named."""


def renamed(key: str, blocks: Iterable[type[BaseModel]]) -> str | None:
    """The new name of a key that some block had under this one."""
    return _look_up(RENAMED, key, blocks)


def other_word(key: str, blocks: Iterable[type[BaseModel]]) -> str | None:
    """Our name for what another product calls like this."""
    return _look_up(_OTHER_WORDS, key.lower().replace("-", "_"), blocks)


def proper_place(key: str) -> str | None:
    """Where a key may stand, in words; None: nowhere."""
    return next((place for block, place in _PLACES if key in block.model_fields), None)


def _look_up(table: dict[type[BaseModel], dict[str, str]], key: str, blocks: Iterable[type[BaseModel]]) -> str | None:
    blocks = tuple(blocks)
    for owner, names in table.items():
        if key in names and any(issubclass(block, owner) for block in blocks):
            return names[key]
    return None
