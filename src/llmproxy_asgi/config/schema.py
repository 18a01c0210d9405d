"""The configuration as a user writes it, field by field.

These models say what is legal and what the defaults are. They read no file and no environment (`loader.py` does), and
they hold no provider of their own: a provider's block is validated by the class that its `type` names.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.providers.base import ProviderConfig
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.settings import Block, Duration, KeyEntry
from llmproxy_asgi.wire.json_body import DEFAULT_DEPTH

_SIZES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1}
_SIZE_HELP = "a size is like 512KiB or 32MiB, or a number of bytes"


def parse_size(value: object) -> int:
    """Bytes from `512KiB`, `32MiB` or a number.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        unit = next((unit for unit in _SIZES if text.endswith(unit)), "")
        number = text.removesuffix(unit).strip()
        if number.isascii() and number.isdigit():
            return int(number) * _SIZES.get(unit, 1)
    raise ValueError(_SIZE_HELP)


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
"""Bytes; written as `512KiB`, `32MiB` or a number."""


class Access(Block):
    """Who may call us."""

    mode: Literal["host", "keys", "open"] = Field(
        "host",
        description="host: the identify hook, and keys where they are sent; keys: keys alone; open: anybody.",
    )
    keys: tuple[KeyEntry, ...] = ()

    @field_validator("keys")
    @classmethod
    def _distinct(cls, value: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        texts = [entry.key.reveal() for entry in value]
        if len(set(texts)) < len(texts):
            raise ValueError("two entries have the same key")
        return value


class ModelRoute(Block):
    """A name that stands for several targets, tried in their order."""

    targets: tuple[str, ...] = Field(min_length=1, description="Each a provider/model.")
    strategy: Literal["failover"] = Field("failover", description="In which order the targets are tried.")


class Endpoints(Block):
    """What is served beside the protocols and /health."""

    ui: bool = Field(default=False, description="A small page to try models, at /ui/.")


class Limits(Block):
    """Bounds on what callers and upstreams may send."""

    body: Size = Field(32 * 2**20, ge=1024, description="The request's body, in bytes.")
    json_depth: int = Field(DEFAULT_DEPTH, ge=8, le=512, description="How deep the request's JSON may nest.")
    event: Size = Field(16 * 2**20, ge=1024, description="One event of an upstream's stream, in bytes.")
    answer: Size = Field(64 * 2**20, ge=1024, description="One whole answer of an upstream, in bytes.")
    body_time: Duration = Field(30.0, gt=0, description="How long a request's body may take to arrive.")


def _typed(value: object) -> object:
    """A provider's block, as the class that its `type` names."""
    if isinstance(value, ProviderConfig) or not isinstance(value, dict):
        return value
    kind = value.get("type")
    if not isinstance(kind, str):
        return ProviderConfig.model_validate(value)
    try:
        cls = provider_class(kind)
    except MisuseError as error:
        raise ValueError(f"type: {error.message}") from None
    return cls.Config.model_validate(value)


ProviderBlock = Annotated[
    SerializeAsAny[ProviderConfig], BeforeValidator(_typed, json_schema_input_type=ProviderConfig)
]


class Config(Block):
    """Everything. `Config.load(...)` reads files; `Config.model_validate(dict)` takes a dict as it is."""

    providers: dict[str, ProviderBlock] = Field(default_factory=dict)
    default_provider: str | None = Field(None, description="Takes the models that no provider lists.")
    models: dict[str, ModelRoute] = Field(default_factory=dict)
    access: Access = Access()
    endpoints: Endpoints = Endpoints()
    limits: Limits = Limits()
    keepalive: Duration = Field(15.0, gt=0, description="How long a stream may be silent before a keep-alive is sent.")

    @model_validator(mode="before")
    @classmethod
    def _name_types(cls, value: Any) -> Any:
        """A provider's type is its name unless it says otherwise."""
        if not isinstance(value, dict) or not isinstance(value.get("providers"), dict):
            return value
        blocks = {
            name: {"type": name, **block} if isinstance(block, dict) else ({"type": name} if block is None else block)
            for name, block in value["providers"].items()
        }
        return {**value, "providers": blocks}

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        findings = [*self._provider_findings(), *self._route_findings()]
        if self.default_provider is not None and self.default_provider not in self.providers:
            findings.append(f"default_provider: {self.default_provider!r} is not among the providers")
        if findings:
            raise ValueError("\n".join(findings))
        return self

    def _provider_findings(self) -> list[str]:
        findings = []
        for name, block in self.providers.items():
            if not name or "/" in name or not name.isprintable():
                findings.append(f"providers.{name}: a provider's name must not be empty or hold a slash")
            if block.enabled:
                findings.extend(f"providers.{name}.{text}" for text in provider_class(block.type).check(block))
        return findings

    def _route_findings(self) -> list[str]:
        findings = []
        for name, route in self.models.items():
            for index, target in enumerate(route.targets):
                provider, slash, model = target.partition("/")
                where = f"models.{name}.targets[{index}]"
                if not slash or not model:
                    findings.append(f"{where}: {target!r} must be provider/model")
                elif provider not in self.providers:
                    findings.append(f"{where}: there is no provider {provider!r}")
        return findings
