"""Types that several blocks of the configuration share: durations, secrets, timeouts, retries, limits.

These pydantic models only describe settings; they read no environment.
"""

import hmac
import math
import re
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import override

Strategy: TypeAlias = Literal["failover", "weighted", "round_robin", "least_latency"]
"""The order in which the targets of a model name are tried."""

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_HELP = "a duration is like 250ms, 30s, 5m, 2h or 90d, or a number of seconds"


def parse_duration(value: object) -> float:
    """Parse a duration into seconds: `250ms`, `30s`, `5m`, `2h`, `90d` or a number of seconds.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(_DURATION_HELP)  # noqa: TRY004  pydantic turns ValueError alone into a finding
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            return parse_duration(_number(value))
        value = float(found[1]) * _UNITS[found[2]]
    if not 0 <= value < 10**9:
        raise ValueError(_DURATION_HELP)
    return float(value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(_DURATION_HELP) from None


Duration = Annotated[
    float,
    BeforeValidator(parse_duration, json_schema_input_type=str | float),
]
"""Seconds; written as `250ms`, `30s`, `5m`, `2h`, `90d` or a number."""


PLACEHOLDER_KEYS = frozenset(
    {
        "changeme", "change-me", "secret", "password", "test", "key", "api-key", "apikey", "your-key", "your-api-key",
        "your_api_key", "your-api-key-1", "your-api-key-2", "sk-1234", "sk-123456", "sk-xxx", "sk-test", "xxx", "none",
        "null", "todo", "example", "llmp_changeme",
    }
)  # fmt: skip
"""Keys from sample files; attackers scan for gateways that accept them."""

_PLACEHOLDER = re.compile(
    r"(?i)(?:^|[-_ ])(?:your|my|insert|replaced?|change[-_ ]?me|placeholder|todo|x{3,})(?:[-_ ]|$)|\.\.\.|<[^>]*>"
)


def is_placeholder(text: str) -> bool:
    """Return whether a key is a placeholder that has to be replaced."""
    return text.lower() in PLACEHOLDER_KEYS or _PLACEHOLDER.search(text) is not None


class Secret:
    """A text that cannot be printed by accident; `reveal()` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself, for the code that sends it."""
        return self._text

    @override
    def __repr__(self) -> str:
        return "Secret('***')"

    @override
    def __str__(self) -> str:
        return "***"

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    @override
    def __hash__(self) -> int:
        return hash((Secret, self._text))

    @override
    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            cls._validate,
            core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "format": "password"}

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise ValueError("must be text; quote it")  # noqa: TRY004  as above
        if not value.strip():
            raise ValueError("must not be empty")
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise ValueError("must be printable ASCII without space around it")
        return cls(value)


class Block(BaseModel):
    """A block of the configuration: unknown keys are refused, and values are immutable."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=(), hide_input_in_errors=True
    )


class Timeouts(Block):
    """The four timeouts of an upstream call, in seconds."""

    connect: Duration = Field(
        5.0, gt=0, description="A place in the pool, DNS, TCP, a proxy's CONNECT and TLS together."
    )
    # The timeout of the vendors' own SDKs: a reasoning model takes minutes for the first byte of a complete response.
    first_byte: Duration = Field(600.0, gt=0, description="From the request's last byte to the answer's first event.")
    idle: Duration = Field(300.0, gt=0, description="Between two reads of one answer, or pieces of a large request.")
    total: Duration = Field(3600.0, gt=0, description="The whole call, however lively.")


class HealthCheck(Block):
    """The periodic health check of a provider."""

    interval: Duration = Field(30.0, ge=1, description="Between two checks, more or less.")


class Retry(Block):
    """The retries on one target before the next one is tried."""

    attempts: int = Field(2, ge=1, le=10, description="All tries on one target together; 1: no retry.")
    backoff: Duration = Field(
        0.25, ge=0, description="The first wait; doubled each time, with full jitter, at most 8 s."
    )


class CallLimits(NamedTuple):
    """The limits of one caller or provider, combined from several settings."""

    calls: tuple[tuple[float, float], ...] = ()
    """Pairs of calls per second and burst; each pair is a separate limit."""
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    queue_timeout: float = 0.0
    """Seconds a call may wait in the queue."""
    max_queue: int = 100
    per_credential: bool = False


class RateLimit(Block):
    """A rate limit, and the queue for calls over it."""

    requests_per_second: float | None = Field(None, gt=0, le=1e6, description="How many come back each second.")
    burst: int | None = Field(
        None, ge=1, le=10**6, description="How many may come at once; by default what comes back in a second."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, le=10**12, description="Tokens, in and out; so many at once, and as many again each minute."
    )
    queue_timeout: Duration = Field(0.0, ge=0, le=600, description="How long a call may wait for its turn.")
    max_queue: int = Field(100, ge=1, le=10_000, description="How many calls may wait; more are refused at once.")

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("burst needs requests_per_second: it says how much may come at once, not how fast")
        if "max_queue" in self.model_fields_set and self.queue_timeout == 0:
            raise ValueError("max_queue needs queue_timeout: without it nothing waits")
        return self

    @property
    def limits_nothing(self) -> bool:
        """Whether it only configures the queue."""
        return self.requests_per_second is None and self.tokens_per_minute is None

    @property
    def calls(self) -> tuple[tuple[float, float], ...]:
        """The limits on calls, as in `CallLimits.calls`."""
        rate = self.requests_per_second
        return () if rate is None else ((rate, float(self.burst or max(1, math.ceil(rate)))),)


class ProviderRateLimit(RateLimit):
    """The rate limit of a provider."""

    scope: Literal["provider", "credential"] = Field(
        "provider", description="Whether it holds for all credentials together, or for each of them."
    )

    @model_validator(mode="after")
    def _of_something(self) -> Self:
        if self.scope == "credential" and self.limits_nothing:
            raise ValueError("scope needs requests_per_second or tokens_per_minute")
        return self


MaxConcurrency = Annotated[int | None, Field(ge=1, le=10**6, description="How many calls may be under way at once.")]


def call_limits(
    rate: RateLimit | None,
    *,
    max_concurrency: int | None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> CallLimits | None:
    """Combine limits; None: unlimited."""
    calls = () if rate is None else rate.calls
    if requests_per_minute is not None:
        calls = (*calls, (requests_per_minute / 60, float(requests_per_minute)))
    if tokens_per_minute is None and rate is not None:
        tokens_per_minute = rate.tokens_per_minute
    if not calls and tokens_per_minute is None and max_concurrency is None:
        return None
    limits = CallLimits(calls, tokens_per_minute, max_concurrency)
    if rate is None:
        return limits
    return limits._replace(
        queue_timeout=rate.queue_timeout,
        max_queue=rate.max_queue,
        per_credential=isinstance(rate, ProviderRateLimit) and rate.scope == "credential",
    )


class CallerLimits(Block):
    """The limits of one caller."""

    requests_per_minute: int | None = Field(
        None, ge=1, le=10**9, description="Calls; so many at once, and as many again each minute."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, le=10**12, description="Tokens, in and out; so many at once, and as many again each minute."
    )
    rate_limit: RateLimit | None = Field(None, description="The same by the second, and how long calls may wait.")
    max_concurrency: MaxConcurrency = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rate = self.rate_limit
        if rate is None:
            return self
        if rate.tokens_per_minute is not None and self.tokens_per_minute is not None:
            raise ValueError("tokens_per_minute is set twice, here and under rate_limit: set it in one place")
        if self.call_limits is None:
            raise ValueError("rate_limit limits nothing: say requests_per_second or tokens_per_minute, or leave it out")
        return self

    def limited_by(self, default: "CallerLimits") -> Self:
        """Return a copy that takes each limit it leaves unset from `default`."""
        inherited = {
            name: value
            for name in CallerLimits.model_fields
            if getattr(self, name) is None and (value := getattr(default, name)) is not None
        }
        if self.rate_limit is not None and self.rate_limit.tokens_per_minute is not None:
            inherited.pop("tokens_per_minute", None)  # set already, under `rate_limit` or directly
        return self.model_copy(update=inherited)

    @property
    def call_limits(self) -> CallLimits | None:
        """The combined limits; None: unlimited."""
        return call_limits(
            self.rate_limit,
            max_concurrency=self.max_concurrency,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )


class KeyEntry(CallerLimits):
    """A machine key."""

    name: str = Field(min_length=1, max_length=255, description="Who calls with it; the principal's id.")
    key: Secret = Field(description="The key itself, at least 16 characters.")
    models: tuple[str, ...] | None = Field(
        None, description="What it may use, with * as a pattern; left out: everything."
    )
    groups: tuple[str, ...] = Field((), description="Groups that its principal has.")
    tenant: str = Field("", max_length=255, description="The tenant that its principal belongs to.")

    @field_validator("name", "tenant")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable() or value.isspace():
            raise ValueError("must be of printable characters, and not only spaces")
        return value

    @field_validator("key")
    @classmethod
    def _strong(cls, value: Secret) -> Secret:
        text = value.reveal()
        if is_placeholder(text) or len(set(text)) < 4:
            raise ValueError("this is a placeholder; make a key of your own, for example with `openssl rand -hex 24`")
        if len(text) < 16:
            raise ValueError("must be at least 16 characters")
        return value


_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
_ORIGIN_HELP = "an origin is scheme://host or scheme://host:port in lower case, as browsers send it in Origin"
_USUAL_PORTS = {"http": "80", "https": "443"}


def _check_origin(value: str) -> str:
    """Check that a text is an origin exactly as a browser would write it: another spelling would never match."""
    found = _ORIGIN.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r} is no origin: {_ORIGIN_HELP}")
    scheme, port = found.groups()
    if port is not None and (int(port) > 65535 or _USUAL_PORTS.get(scheme) == port):
        raise ValueError(f"{value!r} is no origin as browsers send it: leave the scheme's own port out")
    return value


Origin = Annotated[str, AfterValidator(_check_origin)]
"""An origin, like `https://app.example.com`."""


class AdminEntry(Block):
    """One entry of `access.admins`."""

    kind: Literal["group", "user", "key"] = Field("user", description="What `id` is the name of.")
    id: str = Field(min_length=1, max_length=255, description="The group's name, the user's id or the key's name.")
    tenant: str = Field("", max_length=255, description="The tenant of a user or a key.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "group" and self.tenant:
            raise ValueError("a group has no tenant: its name alone is compared")
        return self


_ADMIN_HELP = "an administrator is group:NAME, user:ID, user:TENANT/ID or key:NAME; a bare word is a group"


def _parse_admin(value: object) -> object:
    """Read `group:ops`, `user:ada`, `user:acme/ada`, `key:scraper`, or a bare word, which is a group."""
    if not isinstance(value, str):
        return value
    kind, colon, name = value.partition(":")
    if not colon:
        return {"kind": "group", "id": value}
    if kind not in {"group", "user", "key"} or not name:
        raise ValueError(_ADMIN_HELP)
    if kind == "group":
        return {"kind": kind, "id": name}
    tenant, slash, rest = name.partition("/")
    return {"kind": kind, "tenant": tenant, "id": rest} if slash else {"kind": kind, "id": name}


AdminName = Annotated[AdminEntry, BeforeValidator(_parse_admin, json_schema_input_type=str | AdminEntry)]
"""An entry of `access.admins`; written as `group:ops`, `user:ada`, `user:acme/ada`, `key:scraper`, or as a block."""
