"""The base class of providers, their configuration, and their registration.

A provider defines where a request is sent, with which credential, in which protocols and with which quirks. It does not
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
_RESERVED_HEADERS = frozenset({"authorization", "host", "content-length", "transfer-encoding", "connection", "cookie"})

# Names of headers whose value is a secret; and documented headers of vendors, whose values are public words.
_SECRET_NAME = re.compile(r"(?i)auth|key|token|secret|password|credential|organi[sz]ation|project|account|session")
_MIN_SECRET = 8
"""Characters of a part of a header's value that is masked alone; shorter ones are words like `Basic`."""
_PUBLIC_HEADERS = frozenset(
    {"accept", "content-type", "user-agent", "anthropic-beta", "anthropic-version", "openai-beta", "x-title"}
)


class ModelEntry(Block):
    """One model that a provider serves."""

    name: str = Field(min_length=1, description="The name that clients use; may hold * as a pattern.")
    upstream: str | None = Field(None, min_length=1, description="The upstream's own name; the same by default.")
    enabled: bool = True
    max_output_tokens: int | None = Field(None, ge=1)
    capabilities: dict[str, Any] = Field(
        default_factory=dict, description="What the model supports, where the defaults are wrong."
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
        """Whether the name is a pattern."""
        return "*" in self.name


def _entry(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: object) -> object:
    return value if value is None or isinstance(value, list) else [value]


class ProxyConfig(Block):
    """The outgoing proxies of a provider; `proxy: URL` sets both."""

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
        """The proxies in the form that the transport takes."""
        http, https = (None if each is None else read_proxy(each.reveal()) for each in (self.http, self.https))
        return Proxies(http, https, self.exempt)


def _proxied(value: object) -> object:
    if value == "environment":
        raise ValueError("the environment is read by load_config alone; a Config made in code names the proxy itself")
    return {"http": value, "https": value} if isinstance(value, str | Secret) else value


class ProviderConfig(Block):
    """The configuration of a provider; a custom provider extends it."""

    type: str = Field(description="The type of provider; the name of the block by default.")
    enabled: bool = True
    api_key: Annotated[list[Secret] | None, BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        None, description="One key, or several that are used in turn."
    )
    base_url: str | None = Field(None, description="The address, as the vendor's SDK takes it.")
    models: list[Annotated[ModelEntry, BeforeValidator(_entry, json_schema_input_type=str | ModelEntry)]] | None = (
        Field(None, description="The models it serves; left out: any.")
    )
    default_model: str | None = Field(None, description="The model of requests that name none.")
    bypass_model: bool = Field(default=False, description="Use default_model for every request.")
    protocol: Annotated[tuple[str, ...] | None, BeforeValidator(_listed, json_schema_input_type=str | list[str])] = (
        Field(None, description="The protocols of this upstream, one or several.")
    )
    allow_insecure: bool = Field(default=False, description="Allow plain http beyond loopback.")
    priority: int = Field(0, description="Providers with a higher priority are tried first.")
    weight: float = Field(
        1.0,
        ge=0,
        le=1_000_000,
        description="Its share of the calls among providers of the same priority, if one of them sets a weight.",
    )
    cooldown: Duration = Field(
        30.0, ge=0, description="The pause after a 429 or repeated failures, if the upstream names none."
    )
    timeout: Timeouts = Timeouts()
    retry: Retry = Retry()
    rate_limit: ProviderRateLimit | None = Field(None, description="How much may be sent to it.")
    max_concurrency: MaxConcurrency = None
    health: HealthCheck | None = Field(
        None, description="Check its health on an interval; left out: only calls show it."
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
        (ANY,), description="The tools that the vendor may run, as patterns; []: none."
    )
    service_tiers: Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        (ANY,), description="The service tiers that callers may use beside the default one; []: none."
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
            raise ValueError("has an invalid host or port, or contains a space") from None
        return value.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _safe_headers(cls, value: dict[str, Secret]) -> dict[str, Secret]:
        for name in value:
            if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"{name!r} is not a header name")
            if name.lower() in _RESERVED_HEADERS:
                raise ValueError(f"{name} is set by the gateway")
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
        """The limits set by rate_limit and max_concurrency; None: nothing is limited."""
        return call_limits(self.rate_limit, max_concurrency=self.max_concurrency)


def key_variable(kind: str) -> str:
    """Return the environment variable that usually contains the key of a provider type or name."""
    return f"{kind.upper().replace('-', '_')}_API_KEY"


class Credential(msgspec.Struct, frozen=True):
    """Authenticates calls to a provider; create it with `of`."""

    provider: str
    secret: Secret | None
    fingerprint: str
    """Identifies the credential in cooldowns and logs without revealing it."""

    @classmethod
    def of(cls, provider: str, secret: Secret | None = None) -> Self:
        """Return a provider's credential with its fingerprint; without a secret, one that authenticates nothing."""
        material = secret.reveal() if secret else ""
        digest = hashlib.blake2s(material.encode(), digest_size=6, person=b"llmproxy").hexdigest()
        return cls(provider, secret, f"{provider}:{digest}")


class ProbeRequest(msgspec.Struct, frozen=True):
    """A GET request without cost: for a health check, or for a page of models."""

    address: Address
    headers: HeaderList = ()
    """In addition to those of every request."""


class Provider:
    """An upstream's addresses, credentials, protocols and quirks. Subclasses set class attributes and override methods.

    Args:
        name: The configured name.
        config: The configuration, already validated as `Config`.
    """

    Config: ClassVar[type[ProviderConfig]] = ProviderConfig
    type: ClassVar[str] = ""
    protocols: ClassVar[tuple[str, ...]] = ()
    """Protocol ids in order of preference; the caller's own is selected first, else the first that can carry its
    requests."""
    opt_in_protocols: ClassVar[frozenset[str]] = frozenset()
    """Those of `protocols` that are used only if the configuration's `protocol` names them."""
    base_url: ClassVar[str | None] = None
    """The default address; None: the configuration must set one."""
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
        """The outgoing proxies; None: none, whatever the environment contains."""
        self.max_event = DEFAULT_MAX_EVENT
        """The maximum size of one event of a stream, in bytes; the runtime sets the configured value."""
        self._headers: dict[tuple[str, str], HeaderList] = {}
        self._masks: dict[str, Mask] = {}

    @classmethod
    def check(cls, config: ProviderConfig) -> list[str]:
        """Return errors of a block that its fields don't find; one sentence each, starting with the field."""
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
        """Return the address of requests. Called once per (protocol, model, stream); the caller caches it."""
        raise NotImplementedError

    def counting_address(self, protocol: str, model: str) -> Address | None:
        """Return the address that counts the tokens of requests; None: this protocol has none."""
        return None

    def authorize(self, protocol: str, credential: Credential) -> Mapping[str, str]:
        """Return the headers that authenticate the gateway."""
        raise NotImplementedError

    def headers(self, protocol: str, credential: Credential) -> HeaderList:
        """Return the headers of every request; built once per protocol and credential."""
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
        """Return the request of a health check; None: the provider is always available."""
        return None

    def models_request(self, after: str) -> ProbeRequest | None:
        """Return the request for a page of the upstream's models; None: it has no list.

        Args:
            after: The start of the page, from the page before; empty: the first page.
        """
        return None

    def capabilities(self, model: str, protocol: str) -> Capabilities:
        """Return what a model is known to support, before the configuration overrides it."""
        return DEFAULT

    def protocols_of(self, model: str) -> tuple[str, ...]:
        """Return the protocols of a model, in order of preference."""
        return self.enabled_protocols

    def issuer(self, model: str, protocol: str) -> str:
        """Return the issuer whose reasoning state this route accepts (see `Seal.issuer`)."""
        return f"provider:{self.name}"  # a provider named `openai` may not be OpenAI

    def known_models(self) -> tuple[str, ...]:
        """Return the models to list without configuration, of an embedded provider."""
        return ()

    @property
    def connection_key(self) -> tuple[object, ...]:
        """The identity of its connections: a reload that doesn't change it keeps them.

        Another type may have its own transport, and another proxy needs new connections.
        """
        return (self.name, self.type) if self.proxies is None else (self.name, self.type, self.proxies.identity)

    def mask(self, credential: Credential) -> Mask:
        """Return the mask for secrets in this provider's failures; created at the first failure."""
        mask = self._masks.get(credential.fingerprint)
        if mask is None:
            secrets = [each.secret.reveal() for each in (credential, *self.credentials) if each.secret is not None]
            secrets += [] if self.proxies is None else self.proxies.secrets
            values = []
            for name, value in self.config.headers.items():
                text = value.reveal()
                if _SECRET_NAME.search(name):
                    secrets += [text, *(part for part in text.split() if len(part) >= _MIN_SECRET)]
                elif name.lower() not in _PUBLIC_HEADERS:
                    values.append(text)
            mask = self._masks[credential.fingerprint] = Mask(secrets, values)
        return mask

    def transport(self) -> "AsyncTransport | None":
        """Return the transport of a provider that needs no network; None: the default one."""
        return None


def join(root: str, path: str, *, version: str | None = None) -> Address:
    """Return the address of a path below a base address.

    Args:
        root: The configured base address.
        path: Starts with a slash.
        version: A path segment (`v1`) that is inserted between them, unless the root ends in it.
    """
    if version is not None and not root.endswith("/" + version):
        root = f"{root}/{version}"
    return address(root + path)


_P = TypeVar("_P", bound=type[Provider])

REGISTERED: dict[str, type[Provider]] = {}
"""The imported provider classes, by type; the registry imports others."""


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
