"""What a provider is, what its block of configuration holds, and how one is registered.

A provider says where a request goes, with what credential, in which protocols and with which quirks. It does not
retry, sleep, read the environment or translate.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from pydantic import BeforeValidator, Field, field_validator, model_validator

from llmproxy_asgi.capabilities import ANY, DEFAULT, Capabilities
from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.masking import Mask
from llmproxy_asgi.settings import (
    Block,
    CallLimits,
    Duration,
    HealthCheck,
    MaxConcurrency,
    ProviderRateLimit,
    Retry,
    Secret,
    Timeouts,
    call_limits,
)
from llmproxy_asgi.transport import Address, address
from llmproxy_asgi.transport.proxies import Proxies, read_proxy
from llmproxy_asgi.wire.sse import DEFAULT_MAX_EVENT

if TYPE_CHECKING:
    from llmproxy_asgi.transport import AsyncTransport

HeaderList = tuple[tuple[bytes, bytes], ...]

_ENDPOINT = re.compile(r"(?:/chat/completions|/v\d+\w*/(?:completions|responses|messages|embeddings|models|chat))/*$")
_METHOD = re.compile(r":(?:stream)?generateContent$")
_TWICE = re.compile(r"/(v\d+(?:alpha|beta)?)/\1/*$")
_OUR_HEADERS = frozenset({"authorization", "host", "content-length", "transfer-encoding", "connection", "cookie"})

# A header whose value is a secret by its name; and those that vendors document, whose values are words of everybody's.
_NAMES_A_SECRET = re.compile(r"(?i)auth|key|token|secret|password|credential|organi[sz]ation|project|account|session")
_SHORTEST_PART = 8
"""Characters of a part of a header's value that is a secret of its own; shorter ones are words like `Basic`."""
_TELLS_NOTHING = frozenset(
    {"accept", "content-type", "user-agent", "anthropic-beta", "anthropic-version", "openai-beta", "x-title"}
)


class ModelEntry(Block):
    """One model that a provider serves."""

    name: str = Field(min_length=1, description="The name that clients use; may hold * as a pattern.")
    upstream: str | None = Field(None, min_length=1, description="The upstream's own name; the same by default.")
    enabled: bool = True
    max_output_tokens: int | None = Field(None, ge=1)
    capabilities: dict[str, Any] = Field(
        default_factory=dict, description="What the model takes, where we have it wrong."
    )

    @field_validator("capabilities")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = Capabilities.__struct_fields__
        for name in value:
            if name not in known:
                raise ValueError(f"unknown capability {name!r}; known: {', '.join(known)}")
        return value

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for several."""
        return "*" in self.name


def _entry(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: object) -> object:
    return value if value is None or isinstance(value, list) else [value]


class ProxyConfig(Block):
    """The outgoing proxies of a provider; `proxy: URL` is short for the same one twice."""

    http: Secret | None = Field(None, description="The proxy for http:// upstreams, as http://user:password@host:port.")
    https: Secret | None = Field(None, description="The proxy for https:// upstreams, which it reaches by CONNECT.")
    exempt: tuple[str, ...] = Field((), description="Hosts that are called directly, as NO_PROXY lists them.")

    @field_validator("http", "https")
    @classmethod
    def _usable(cls, value: Secret | None) -> Secret | None:
        if value is not None:
            try:
                read_proxy(value.reveal())
            except MisuseError as error:
                raise ValueError(error.message) from None
        return value

    @property
    def proxies(self) -> Proxies:
        """The same, as the transport takes it."""
        http, https = (None if each is None else read_proxy(each.reveal()) for each in (self.http, self.https))
        return Proxies(http, https, self.exempt)


def _proxied(value: object) -> object:
    if value == "environment":
        raise ValueError("the environment is read by load_config alone; a Config made in code names the proxy itself")
    return {"http": value, "https": value} if isinstance(value, str | Secret) else value


class ProviderConfig(Block):
    """What every provider's block may hold. A provider of one's own extends it."""

    type: str = Field(description="Which provider; its own name by default.")
    enabled: bool = True
    api_key: Annotated[list[Secret] | None, BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        None, description="One key, or several that are taken in turn."
    )
    base_url: str | None = Field(None, description="What that vendor's own SDK takes as base_url.")
    models: list[Annotated[ModelEntry, BeforeValidator(_entry, json_schema_input_type=str | ModelEntry)]] | None = (
        Field(None, description="What it serves; left out: whatever it is asked for.")
    )
    default_model: str | None = Field(None, description="For requests that name none.")
    bypass_model: bool = Field(default=False, description="Always default_model, whatever the caller names.")
    protocol: Annotated[tuple[str, ...] | None, BeforeValidator(_listed, json_schema_input_type=str | list[str])] = (
        Field(None, description="The protocols of this upstream, one or several.")
    )
    allow_insecure: bool = Field(default=False, description="Plain http beyond loopback.")
    priority: int = Field(0, description="Higher is tried first where several serve a model.")
    weight: float = Field(
        1.0,
        ge=0,
        le=1_000_000,
        description="Its share of the calls among those of one priority, if one of them says it.",
    )
    cooldown: Duration = Field(
        30.0, ge=0, description="Rest after a 429 or repeated failures, if the upstream names none."
    )
    timeout: Timeouts = Timeouts()
    retry: Retry = Retry()
    rate_limit: ProviderRateLimit | None = Field(None, description="How much it may be asked.")
    max_concurrency: MaxConcurrency = None
    health: HealthCheck | None = Field(
        None, description="Ask it now and then whether it answers; left out: only calls tell."
    )
    allow_stored: bool = Field(
        default=False,
        description="Whether callers may refer to objects stored at the vendor, which its credential opens to all.",
    )
    allow_private_media: bool = Field(
        default=False,
        description="Whether callers may give this upstream addresses of private networks to fetch media from.",
    )
    server_tools: Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        (ANY,), description="Which tools the vendor may be asked to run, as patterns; [] is none."
    )
    service_tiers: Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        (ANY,), description="Which service tiers may be asked for beside the ordinary one; [] is none."
    )
    headers: dict[str, Secret] = Field(default_factory=dict, description="Sent with every request to this upstream.")
    proxy: Annotated[ProxyConfig | None, BeforeValidator(_proxied, json_schema_input_type=str | ProxyConfig | None)] = (
        Field(None, description="The outgoing proxy: its URL, or `environment` for HTTP_PROXY, HTTPS_PROXY, NO_PROXY.")
    )

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// address")
        if "@" in parts.netloc or "?" in value or "#" in value:  # an empty one breaks the address, too
            raise ValueError("must hold no user, password, query or fragment")
        if _ENDPOINT.search(parts.path) or _METHOD.search(parts.path):
            raise ValueError(
                "ends in the path of an endpoint: write only what goes before it, as that vendor's SDK takes it"
            )
        twice = _TWICE.search(parts.path)
        if twice is not None:
            raise ValueError(f"ends in /{twice[1]} twice: write it once")
        try:
            address(value)
        except MisuseError:
            raise ValueError("names a host or a port that cannot be, or holds a space") from None
        return value.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _safe_headers(cls, value: dict[str, Secret]) -> dict[str, Secret]:
        for name in value:
            if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"{name!r} is not a header name")
            if name.lower() in _OUR_HEADERS:
                raise ValueError(f"{name} is ours to set")
        return value

    @model_validator(mode="after")
    def _whole(self) -> "ProviderConfig":
        if self.bypass_model and self.default_model is None:
            raise ValueError("bypass_model needs default_model")
        if self.base_url is not None and not self.allow_insecure:
            parts = urlsplit(self.base_url)
            if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
                raise ValueError("base_url is plain http beyond loopback; use https, or say allow_insecure: true")
        if self.rate_limit is not None and self.call_limits is None:
            raise ValueError("rate_limit limits nothing: say requests_per_second or tokens_per_minute, or leave it out")
        return self

    @property
    def call_limits(self) -> CallLimits | None:
        """What rate_limit and max_concurrency come to; None: nothing is limited."""
        return call_limits(self.rate_limit, max_concurrency=self.max_concurrency)


def key_variable(kind: str) -> str:
    """The environment variable that usually holds the key of a provider type or name."""
    return f"{kind.upper().replace('-', '_')}_API_KEY"


class Credential(msgspec.Struct, frozen=True):
    """What signs one call; made by `of`."""

    provider: str
    secret: Secret | None
    fingerprint: str
    """Names the credential in cooldowns and logs without telling it."""

    @classmethod
    def of(cls, provider: str, secret: Secret | None = None) -> Self:
        """One of a provider's, with its fingerprint; without a secret, what stands for none."""
        material = secret.reveal() if secret else ""
        digest = hashlib.blake2s(material.encode(), digest_size=6, person=b"llmproxy").hexdigest()
        return cls(provider, secret, f"{provider}:{digest}")


class ProbeRequest(msgspec.Struct, frozen=True):
    """The cheapest request that tells whether an upstream answers: a GET that costs nothing."""

    address: Address
    headers: HeaderList = ()
    """Beside those of every request."""


class Provider:
    """Whom we call. Subclasses fill in the class attributes and what differs.

    Args:
        name: The user's name for it.
        config: Its block, already validated as `Config`.
    """

    Config: ClassVar[type[ProviderConfig]] = ProviderConfig
    type: ClassVar[str] = ""
    protocols: ClassVar[tuple[str, ...]] = ()
    """Protocol ids; the caller's own is chosen if it is among them, else the first that can carry its requests."""
    opt_in_protocols: ClassVar[frozenset[str]] = frozenset()
    """Those of them that are spoken only where the configuration's `protocol` names them."""
    base_url: ClassVar[str | None] = None
    """Where it is unless the configuration says otherwise; None: the configuration must say."""
    needs_key: ClassVar[bool] = True
    takes_key: ClassVar[bool] = True

    def __init__(self, name: str, config: ProviderConfig) -> None:
        self.name = name
        self.config = config
        self.enabled_protocols = config.protocol or tuple(
            each for each in self.protocols if each not in self.opt_in_protocols
        )
        self.root = config.base_url or self.base_url or ""
        self.credentials = tuple(Credential.of(name, key) for key in config.api_key or ()) or (Credential.of(name),)
        self.proxies = None if config.proxy is None else config.proxy.proxies
        """The outgoing proxies; None: upstreams are called directly, whatever the environment says."""
        self.max_event = DEFAULT_MAX_EVENT
        """Bytes that one event of a stream may have; the runtime sets what is configured for all."""
        self._headers: dict[tuple[str, str], HeaderList] = {}
        self._masks: dict[str, Mask] = {}

    @classmethod
    def check(cls, config: ProviderConfig) -> list[str]:
        """What is wrong with a block beyond what its fields say; one sentence each, starting with the field."""
        findings = []
        if cls.base_url is None and config.base_url is None:
            findings.append("base_url: is required for this type: write the server's address, as in https://host/v1")
        if cls.needs_key and not config.api_key:
            variable = key_variable(cls.type)
            findings.append(f"api_key: is required for this type: write `api_key: ${{{variable}}}` and set {variable}")
        findings.extend(
            f"protocol: {protocol!r} is not supported by this provider; choose from {', '.join(cls.protocols)}"
            for protocol in config.protocol or ()
            if protocol not in cls.protocols
        )
        return findings

    def address(self, protocol: str, model: str, *, stream: bool) -> Address:
        """Where a request goes. Called once per (protocol, model, stream) and kept by the caller."""
        raise NotImplementedError

    def counting_address(self, protocol: str, model: str) -> Address | None:
        """Where the tokens of a request are counted; None: nowhere, in this protocol."""
        return None

    def authorize(self, protocol: str, credential: Credential) -> Mapping[str, str]:
        """The headers that prove who we are."""
        raise NotImplementedError

    def headers(self, protocol: str, credential: Credential) -> HeaderList:
        """All headers but those of the single request; built once per protocol and credential."""
        key = (protocol, credential.fingerprint)
        built = self._headers.get(key)
        if built is None:
            named = {
                "content-type": "application/json",
                "user-agent": "llmproxy-asgi",
                **{name.lower(): value.reveal() for name, value in self.config.headers.items()},
                **self.authorize(protocol, credential),
            }
            built = tuple((name.encode("ascii"), value.encode("ascii")) for name, value in named.items())
            self._headers[key] = built
        return built

    def health_request(self) -> ProbeRequest | None:
        """What to ask to see whether it answers; None: nothing, it always does."""
        return None

    def models_request(self, after: str) -> ProbeRequest | None:
        """What to ask for a page of the models that the upstream serves; None: it has no list.

        Args:
            after: Where the page begins, as the one before said; empty: the first one.
        """
        return None

    def capabilities(self, model: str, protocol: str) -> Capabilities:
        """What we know of one of the upstream's models, before the configuration has its say."""
        return DEFAULT

    def protocols_of(self, model: str) -> tuple[str, ...]:
        """What is spoken where one of the upstream's models is asked for."""
        return self.enabled_protocols

    def issuer(self, model: str, protocol: str) -> str:
        """Whose reasoning state this route can open (see `Seal.issuer`)."""
        return f"provider:{self.name}"  # people call providers `openai` that are not OpenAI

    def known_models(self) -> tuple[str, ...]:
        """Models worth listing that the configuration need not name (an embedded provider knows its own)."""
        return ()

    @property
    def connection_key(self) -> tuple[object, ...]:
        """Names its connections: a reload that leaves the name as it is keeps them.

        One of another type may bring a transport of its own; one behind another proxy must not keep the old one.
        """
        return (self.name, self.type) if self.proxies is None else (self.name, self.type, self.proxies.identity)

    def mask(self, credential: Credential) -> Mask:
        """What keeps secrets out of what is told of this provider's failures: made when one has failed."""
        mask = self._masks.get(credential.fingerprint)
        if mask is None:
            secrets = [each.secret.reveal() for each in (credential, *self.credentials) if each.secret is not None]
            secrets += [] if self.proxies is None else self.proxies.secrets
            values = []
            for name, value in self.config.headers.items():
                text = value.reveal()
                if _NAMES_A_SECRET.search(name):
                    secrets += [text, *(part for part in text.split() if len(part) >= _SHORTEST_PART)]
                elif name.lower() not in _TELLS_NOTHING:
                    values.append(text)
            mask = self._masks[credential.fingerprint] = Mask(secrets, values)
        return mask

    def transport(self) -> "AsyncTransport | None":
        """A transport of its own, for a provider that answers without a network; None: the usual one."""
        return None


def join(root: str, path: str, *, version: str | None = None) -> Address:
    """A base address and a path below it.

    Args:
        root: As the configuration has it.
        path: Starts with a slash.
        version: A path segment (`v1`) that must stand between them once, whether or not the root has it.
    """
    if version is not None and not root.endswith("/" + version):
        root = f"{root}/{version}"
    return address(root + path)


_P = TypeVar("_P", bound=type[Provider])

REGISTERED: dict[str, type[Provider]] = {}
"""Provider classes that have been imported, by type; the registry knows where the others are."""


def provider(name: str, *, config: type[ProviderConfig] = ProviderConfig) -> Callable[[_P], _P]:
    """Register a provider class under a type name.

    Raises:
        MisuseError: Another class has that name already.
    """

    def register(cls: _P) -> _P:
        other = REGISTERED.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise MisuseError(f"the provider type {name!r} is taken by {other.__module__}.{other.__qualname__}")
        cls.type = name
        cls.Config = config
        REGISTERED[name] = cls
        return cls

    return register


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
