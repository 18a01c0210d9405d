"""The models of the configuration, field by field.

They define the valid values and the defaults. They read no file and no environment (`loader.py` does), and define no
provider: a provider's block is validated by the class that its `type` names.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError
from typing_extensions import override

from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.config.document import Path, format_path, hint
from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.providers.base import ProviderConfig
from llmproxy_asgi.providers.registry import BrokenProvider, one_line, provider_class
from llmproxy_asgi.settings import AdminName, Block, CallerLimits, Duration, KeyEntry, Origin, Strategy
from llmproxy_asgi.stores.open import problem
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds

_SIZES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1}
_SIZE_HELP = "a size is like 512KiB or 32MiB, or a number of bytes"


def parse_size(value: object) -> int:
    """Parse a size into bytes: `512KiB`, `32MiB` or a number.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        unit = next((unit for unit in _SIZES if text.endswith(unit)), "")
        number = text.removesuffix(unit).strip()
        if number.isascii() and number.isdigit() and len(number) <= 18:
            return int(number) * _SIZES.get(unit, 1)
    raise ValueError(_SIZE_HELP)


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
"""Bytes; written as `512KiB`, `32MiB` or a number."""


def _store(value: object) -> object:
    """Validate the address of a store."""
    if isinstance(value, str) and (wrong := problem(value)):
        raise ValueError(wrong)
    return value


Database = Annotated[str, BeforeValidator(_store)]
"""The address of a store: `memory`."""


def _in_tenant(tenant: str) -> str:
    return f" with tenant {tenant!r}" if tenant else " without a tenant"


class Access(Block):
    """Who may call the gateway."""

    mode: Literal["host", "keys", "open"] = Field(
        "host",
        description="host: the identify hook, and keys where they are sent; keys: keys alone; open: anybody.",
    )
    keys: tuple[KeyEntry, ...] = ()
    default: CallerLimits = Field(
        CallerLimits(), description="Limits of each caller; a key's own limits replace them field by field."
    )
    admins: tuple[AdminName, ...] = Field(
        (),
        description="Who may see the metrics and administration of all: group:NAME, user:ID, user:TENANT/ID or "
        "key:NAME; a bare word is a group.",
    )
    origins: tuple[Origin, ...] = Field(
        (),
        description="Further origins whose pages may call with the host's cookie, like https://app.example.com.",
    )
    failed_attempts_per_minute: int | None = Field(
        60, ge=1, le=10**6, description="Wrong keys of one address; beyond that they are a 429. null: any number."
    )

    @property
    def limited_keys(self) -> tuple[KeyEntry, ...]:
        """The keys; limits that a key leaves unset are taken from `default`."""
        return tuple(entry.limited_by(self.default) for entry in self.keys)

    @field_validator("keys")
    @classmethod
    def _distinct(cls, value: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        texts = [entry.key.reveal() for entry in value]
        if len(set(texts)) < len(texts):
            raise ValueError("two entries have the same key")
        return value

    @model_validator(mode="after")
    def _known_admins(self) -> "Access":
        known = {(entry.tenant, entry.name) for entry in self.keys}
        for admin in self.admins:
            if admin.kind == "key" and (admin.tenant, admin.id) not in known:
                raise ValueError(f"admins: there is no key {admin.id!r} under access.keys{_in_tenant(admin.tenant)}")
        return self


class RouteTarget(Block):
    """One target of a model name."""

    target: str = Field(description="A provider/model.")
    weight: float | None = Field(
        None, ge=0, le=1_000_000, description="Its share with the strategy weighted; left out: its provider's weight."
    )


def _as_target(value: object) -> object:
    return {"target": value} if isinstance(value, str) else value


class ModelRoute(Block):
    """A model name with several targets."""

    targets: tuple[
        Annotated[RouteTarget, BeforeValidator(_as_target, json_schema_input_type=str | RouteTarget)], ...
    ] = Field(min_length=1, description="Each a provider/model, or a block with target and weight.")
    strategy: Strategy = Field("failover", description="In which order the targets are tried.")
    affinity: bool = Field(default=True, description="Whether a conversation stays with the target that served it.")


class Endpoints(Block):
    """Endpoints in addition to the protocols and /health."""

    ui: bool = Field(default=False, description="A small page to try models, at /ui/.")
    explain: bool = Field(default=False, description="Answer x-llmproxy-explain: what was tried for a call, and why.")
    metrics: bool = Field(default=False, description="What happens, in numbers, for Prometheus: at /metrics.")


class Limits(Block):
    """Bounds on what callers and upstreams may send."""

    body: Size = Field(32 * 2**20, ge=1024, description="The request's body, in bytes.")
    bodies: Size = Field(
        256 * 2**20, ge=1024, description="The bodies of all requests that a process holds at once, in bytes."
    )
    json_depth: int = Field(
        DEFAULT_BOUNDS.json_depth, ge=8, le=512, description="How deep the request's JSON may nest."
    )
    messages: int = Field(
        DEFAULT_BOUNDS.messages,
        ge=1,
        description="Messages of a request (items, contents, prompts, inputs), with the stored ones that it continues.",
    )
    tools: int = Field(DEFAULT_BOUNDS.tools, ge=1, description="Tools that a request may offer.")
    values: int = Field(
        DEFAULT_BOUNDS.values, ge=100, description="JSON values of a request, elements and members, all together."
    )
    event: Size = Field(16 * 2**20, ge=1024, description="One event of an upstream's stream, in bytes.")
    answer: Size = Field(64 * 2**20, ge=1024, description="One whole answer of an upstream, in bytes.")
    stream: Size = Field(2**30, ge=1024, description="All of one stream of an upstream, in bytes as they come.")
    body_timeout: Duration = Field(
        30.0, gt=0, description="How long a request's body may pause; 16 KiB of it end a pause."
    )
    write_timeout: Duration = Field(60.0, gt=0, description="How long a caller may read nothing of what is sent to it.")

    @model_validator(mode="after")
    def _holds_one(self) -> "Limits":
        if self.bodies < self.body:
            raise ValueError("bodies is less than body: one body that is allowed would not fit")
        return self

    @property
    def bounds(self) -> Bounds:
        """The bounds on the JSON of a request."""
        return Bounds(json_depth=self.json_depth, values=self.values, messages=self.messages, tools=self.tools)


def _typed(value: object) -> object:
    """Validate a provider's block with the class that its `type` names."""
    if isinstance(value, ProviderConfig) or not isinstance(value, dict):
        return value
    kind = value.get("type")
    if not isinstance(kind, str):
        raise _refused_type("missing" if "type" not in value else "string_type", value)
    try:
        cls = provider_class(kind)
    except BrokenProvider as error:
        problem = PydanticCustomError("value_error", "{error}", {"error": str(error)})
        raise _refused_type(problem, value) from None
    except MisuseError:
        raise _refused_type(PydanticCustomError(UNKNOWN_TYPE, "unknown provider type"), value) from None
    return cls.Config.model_validate(value)


def _refused_type(problem: str | PydanticCustomError, value: dict[str, object]) -> ValidationError:
    """Return the error for a block's type, together with the errors in the keys that every type has."""
    wrong = [InitErrorDetails(type=problem, loc=("type",), input=value.get("type"))]
    own = {key: item for key, item in value.items() if key in ProviderConfig.model_fields}
    try:
        ProviderConfig.model_validate({**own, "type": ""})
    except ValidationError as error:
        wrong += [_rebuilt(detail) for detail in error.errors(include_url=False)]
    return ValidationError.from_exception_data("ProviderConfig", wrong, hide_input=True)


def _rebuilt(detail: ErrorDetails) -> InitErrorDetails:
    kind: str | PydanticCustomError = detail["type"]
    if kind == "value_error":
        kind = PydanticCustomError("value_error", "{error}", {"error": str(detail["ctx"]["error"])})
    return InitErrorDetails(type=kind, loc=detail["loc"], input=detail["input"], ctx=detail.get("ctx", {}))


ProviderBlock = Annotated[
    SerializeAsAny[ProviderConfig], BeforeValidator(_typed, json_schema_input_type=ProviderConfig)
]

UNKNOWN_TYPE = "unknown_provider_type"
"""The pydantic error type for an unknown provider type."""


class Finding(msgspec.Struct, frozen=True):
    """A mistake in the configuration: its path, and what is wrong."""

    path: Path
    text: str

    @override
    def __str__(self) -> str:
        return f"{format_path(self.path)}: {self.text}"


class Inconsistent(ValueError):
    """The parts of a configuration are valid each on their own, but not together."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


def provider_findings(name: str, block: ProviderConfig) -> list[Finding]:
    """Return the findings about a provider that its fields alone do not show."""
    findings = []
    where = ("providers", name)
    if not name or "/" in name or not name.isprintable():
        findings.append(Finding(where, "a provider's name must not be empty or hold a slash"))
    if block.enabled:
        for sentence in _checked(block):
            field, _, text = sentence.partition(": ")
            findings.append(Finding((*where, field), text) if text else Finding(where, sentence))
    for index, entry in enumerate(block.models or ()):
        for capability, value in entry.capabilities.items():
            problem = _capability_problem(capability, value)
            if problem:
                findings.append(Finding((*where, "models", index, "capabilities", capability), problem))
    return findings


def _checked(block: ProviderConfig) -> list[str]:
    """Return the findings of a provider class about its block; a failure of the check is a finding."""
    try:
        return provider_class(block.type).check(block)
    except Exception as error:  # noqa: BLE001  a third-party provider may raise anything
        return [f"type: failed at checking this block: {one_line(error)}"]


def route_findings(name: str, targets: Sequence[str], providers: Collection[str]) -> list[Finding]:
    """Return the findings about a model name with several targets.

    Args:
        name: The model name.
        targets: Its targets.
        providers: The names of all providers.
    """
    findings = []
    for index, target in enumerate(targets):
        provider, slash, model = target.partition("/")
        where = ("models", name, "targets", index)
        if not slash or not model:
            findings.append(Finding(where, f"{target!r} must be provider/model"))
        elif provider not in providers:
            findings.append(Finding(where, f"there is no provider {provider!r}{hint(provider, providers)}"))
    return findings


def default_findings(name: str | None, providers: Collection[str]) -> list[Finding]:
    """Return the findings about the default provider."""
    if name is None or name in providers:
        return []
    return [Finding(("default_provider",), f"{name!r} is not among the providers{hint(name, providers)}")]


_EXPECTED = re.compile(r"Expected `([^`]+)`, got ")
_KINDS = {
    "bool": "true or false", "int": "a whole number", "float": "a number", "str": "text", "array": "a list",
    "object": "a block",
}  # fmt: skip
"""msgspec's names of types, in words."""


def _capability_problem(name: str, value: object) -> str | None:
    try:
        msgspec.convert({name: value}, Capabilities)
    except msgspec.ValidationError as error:
        problem = str(error).partition(" - at ")[0]
        expected = _EXPECTED.match(problem)
        if expected is not None:
            return (
                f"must be {' or '.join(_KINDS.get(kind, kind) for kind in expected[1].split(' | ') if kind != 'null')}"
            )
        return problem[:1].lower() + problem[1:].replace("`", "")
    return None


class Config(Block):
    """A validated configuration. `load_config` creates one from files, the environment and dicts."""

    providers: dict[str, ProviderBlock] = Field(
        default_factory=dict, description="Whom we call, each under a name of yours."
    )
    default_provider: str | None = Field(None, description="Takes the models that no provider lists.")
    models: dict[str, ModelRoute] = Field(default_factory=dict, description="Model names with several targets each.")
    access: Access = Field(Access(), description="Who may call us.")
    endpoints: Endpoints = Field(Endpoints(), description="What is served beside the protocols and /health.")
    limits: Limits = Field(Limits(), description="Bounds on what callers and upstreams may send.")
    drain_timeout: Duration = Field(10.0, ge=0, description="How long open calls may continue at shutdown.")
    database: Database = Field(
        "memory",
        description="Where data of callers is stored: stored responses, and the reasoning behind tool calls.",
    )
    store: Literal["allowed", "never"] = Field(
        "allowed",
        description="never: no response and no reasoning of callers is ever stored, whatever they ask for.",
    )
    keepalive: Duration = Field(15.0, gt=0, description="How long a stream may be silent before a keep-alive is sent.")

    def _store_findings(self, name: str, block: ProviderConfig) -> list[Finding]:
        if self.store != "never" or not block.allow_stored or not block.enabled:
            return []
        where = ("providers", name, "allow_stored")
        return [Finding(where, "must be false with store: never, because the vendor would keep what callers ask it to")]

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        """Treat empty blocks as left out, and use a provider's name as its default type."""
        if not isinstance(value, dict):
            return value
        kept = {key: item for key, item in value.items() if item is not None or key not in cls.model_fields}
        if isinstance(kept.get("providers"), dict):
            kept["providers"] = {name: _with_type(name, block) for name, block in kept["providers"].items()}
        return kept

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        findings = [
            *(finding for name, block in self.providers.items() for finding in provider_findings(name, block)),
            *(
                finding
                for name, route in self.models.items()
                for finding in route_findings(name, [entry.target for entry in route.targets], self.providers)
            ),
            *default_findings(self.default_provider, self.providers),
            *(finding for name, block in self.providers.items() for finding in self._store_findings(name, block)),
        ]
        if findings:
            raise Inconsistent(findings)
        return self


Source: TypeAlias = str | os.PathLike[str] | Mapping[str, object] | Config
"""The source of a configuration: a file's path, a dict, or a `Config`."""


def _with_type(name: str, block: object) -> object:
    if block is None:
        return {"type": name}
    return {"type": name, **block} if isinstance(block, dict) else block
