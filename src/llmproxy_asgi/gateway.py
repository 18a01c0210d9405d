"""The Python API: calls without HTTP, clients of the official SDKs without a socket, and the lifecycle.

The host program calls it directly, so access rules don't apply: code that has a `Gateway` may use it. Each call still
has a principal, because everything that is stored or counted belongs to one.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import msgspec

from llmproxy_asgi.access.identify import Csrf, Identify
from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.config.schema import Config, Source
from llmproxy_asgi.conversation import Ended, Message, Request, Response, StreamEvent
from llmproxy_asgi.endpoints.routes import CHAT, EMBEDDINGS, Endpoints
from llmproxy_asgi.engine import Engine
from llmproxy_asgi.errors import BadRequest, GatewayError, MisuseError, UnknownArgument
from llmproxy_asgi.execution.health import Health
from llmproxy_asgi.facts import Observer
from llmproxy_asgi.principal import LOCAL, SCOPE_KEY, Owner, OwnerKind, Principal
from llmproxy_asgi.runtime import Forgotten, Runtime, SharedState, label_names
from llmproxy_asgi.telemetry.logs import CallLog
from llmproxy_asgi.translators.embeddings.records import EmbeddingRequest, Embeddings
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds

if TYPE_CHECKING:
    import anthropic
    import openai

    from llmproxy_asgi.telemetry.prometheus import GatewayCollector
    from llmproxy_asgi.transport import HostTransport

ConfigSource: TypeAlias = Source | Sequence[Source]
"""A path, a dict, a `Config`, or several of these, later over earlier."""

Messages: TypeAlias = Sequence[Message | Mapping[str, Any]]
"""Messages as dicts of the Chat format, as `Message` objects, or both."""

Transports: TypeAlias = "HostTransport | Mapping[str, HostTransport]"
"""One transport for every provider, or transports by provider name (`*` for the others)."""


class TokenCount(int):
    """A number of tokens, and how it was determined."""

    estimated: bool
    """Whether it is an estimate, because the upstream cannot count tokens."""
    warnings: tuple[str, ...]
    """Parts of the request that were not counted, or not exactly."""

    def __new__(cls, tokens: int, *, estimated: bool, warnings: tuple[str, ...] = ()) -> Self:
        """Create a count."""
        count = super().__new__(cls, tokens)
        count.estimated = estimated
        count.warnings = warnings
        return count

    @property
    def input_tokens(self) -> int:
        """The number of tokens."""
        return int(self)


class Gateway:
    """A gateway. It opens its resources when they are first needed; close it when it is no longer used.

    Args:
        config: A path, a dict, a `Config`, or several of these, later over earlier.
        identify: The host's hook that returns the principal of an HTTP request.
        csrf: The host's own check of a CSRF token, for browsers that don't send the origin of a request.
        transport: The host's own httpx2 client or transport; the host closes it.
        observers: Receive facts (`llmproxy_asgi.facts`): the host's own code, or `Tracing`.

    Raises:
        ConfigError: The configuration is invalid; the error lists all findings.
    """

    def __init__(
        self,
        config: ConfigSource,
        *,
        identify: Identify | None = None,
        csrf: Csrf | None = None,
        transport: "Transports | None" = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        transports = transport if isinstance(transport, Mapping) else ({} if transport is None else {"*": transport})
        self._identify = identify
        self._csrf = csrf
        self._requested_reload = self._applied_reload = 0
        self._shared = SharedState(transports=transports, observers=[CallLog(), *observers])
        self._engine = Engine(Runtime.build(load_config(config), self._shared, identify=identify, csrf=csrf))
        self.endpoints = Endpoints(self._engine)
        """All paths, as an ASGI `http` application; `LLMProxy` mounts it."""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._engine.runtime.config

    @property
    def has_identify(self) -> bool:
        """Whether it has an `identify` hook; then adapters do not pass the framework's user."""
        return self._engine.runtime.authenticator.has_identify

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def reload(self, config: ConfigSource) -> None:
        """Replace the configuration. Open calls end with the one that they began with.

        The state of upstreams (cooldowns, limits, connections) is kept for each provider that remains.

        Args:
            config: As for the constructor.

        Raises:
            ConfigError: It is invalid; the current one remains.
        """
        self._requested_reload += 1
        number = self._requested_reload
        # Loading a large file takes seconds, and the event loop must continue to serve calls.
        plan = await asyncio.to_thread(load_config, config)
        if number < self._applied_reload:
            return  # a later reload has been applied already
        self._applied_reload = number
        runtime = Runtime.build(plan, self._shared, identify=self._identify, csrf=self._csrf)
        self._engine.runtime = runtime
        await self._shared.close_removed(runtime.providers.values())
        if runtime.config.store == "never":
            await self._shared.drop_stores()

    async def forget(self, principal: Principal | str, *, kind: OwnerKind = "user") -> Forgotten:
        """Delete everything that this process stores or counts for a principal: (kind, tenant, id).

        Background responses in progress are cancelled first. Other open calls continue and may store new records;
        refuse the principal before, if that must not happen.

        Args:
            principal: The principal to forget; a str is an id without a tenant.
            kind: `key` for a machine key, by its name; `open` and `local` for callers without a principal of their own.

        Raises:
            MisuseError: `principal` is not a principal.
            Unavailable: A store cannot be reached; it keeps its records.
        """
        owner = Owner.of(_principal(principal), kind=kind)
        background, responses = await self.endpoints.forget(owner, self._shared.response_records())
        return await self._shared.forget(owner, background=background, responses=responses)

    async def drain(self, window: float | None = None) -> None:
        """Refuse new calls with a 503, wait for open calls, then interrupt the rest with their protocol's error.

        `/ready` responds with 503 immediately. It is for the code that owns the process and is about to end it.

        Args:
            window: Seconds that open calls get; None: `drain_timeout` of the configuration.
        """
        await self._shared.open_calls.drain(self.config.drain_timeout if window is None else window)

    def reopen(self) -> None:
        """Accept calls again after `drain`."""
        self._shared.open_calls.reopen()

    def prepare(self) -> None:
        """Load what the first call would wait for: each provider's transport, certificates and codec.

        Raises:
            MisuseError: `transport` is not a supported type.
        """
        for provider in self._engine.runtime.providers.values():
            pool = self._shared.pool(provider)
            if provider.root.startswith("https:"):
                pool.read_trusted()
            translator(provider.enabled_protocols[0])

    async def health(self) -> Mapping[str, Health]:
        """Check the health of all providers concurrently; return the results by provider name."""
        providers = self._engine.runtime.providers
        found = await asyncio.gather(*(self._shared.health.check(each) for each in providers.values()))
        return dict(zip(providers, found, strict=True))

    @property
    def prometheus_collector(self) -> "GatewayCollector":
        """A collector for the host's registry: `prometheus_client.REGISTRY.register(gateway.prometheus_collector)`.

        Without `endpoints.metrics`, it counts from the first access on.
        """
        runtime = self._engine.runtime
        return self._shared.enable_metrics(label_names(runtime.config, runtime.catalog)).collector

    async def aclose(self) -> None:
        """End background responses, and close idle connections. The gateway can be used again."""
        await self.endpoints.aclose()
        await self._shared.aclose()

    async def complete(
        self, *, model: str = "", messages: Messages, principal: Principal | str | None = None, **options: Any
    ) -> Response:
        """Return a complete response.

        Args:
            model: The model's name, as clients use it.
            messages: The conversation so far.
            principal: The principal of the call; the default is `Principal("local")`.
            options: Further fields of a Chat request (`tools`, `temperature`, `response_format`...), and `extra_body`
                for further fields of the upstream.

        Raises:
            UnknownArgument: A keyword is not a field of a Chat request; it is a `TypeError`, too.
            CallerError: The request is invalid, or there is no such model.
            UpstreamError: Every target failed.
        """
        with self._recording_refusals(CHAT):
            request = chat_request(model, messages, options, stream=False, bounds=self._engine.runtime.bounds)
            async with self._engine.call_request(request, self._grant(principal)) as call:
                response, metadata = call.response(), call.metadata
        assert isinstance(response, Response), "calls from Python pass no bytes through"
        return msgspec.structs.replace(response, **metadata)

    async def stream(
        self, *, model: str = "", messages: Messages, principal: Principal | str | None = None, **options: Any
    ) -> AsyncGenerator[StreamEvent, None]:
        """Stream a response, event by event. Closing the generator aborts the upstream response.

        After leaving the loop early, `async with contextlib.aclosing(gateway.stream(...)) as events` closes it at once.

        Raises:
            CallerError: The request is invalid, or there is no such model.
            UpstreamError: Every target failed, or the stream failed.
        """
        with self._recording_refusals(CHAT):
            request = chat_request(model, messages, options, stream=True, bounds=self._engine.runtime.bounds)
            async with (
                self._engine.call_request(request, self._grant(principal)) as call,
                aclosing(call.events()) as events,
            ):
                async for event in events:
                    yield msgspec.structs.replace(event, **call.metadata) if type(event) is Ended else event

    async def embed(
        self,
        *,
        model: str = "",
        input: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],  # noqa: A002  as OpenAI's clients call it
        principal: Principal | str | None = None,
        **options: Any,
    ) -> Embeddings:
        """Return embeddings: `.vectors` has one vector of floats for each input, in order.

        Args:
            model: The model's name, as clients use it.
            input: One or more texts, each as a string or as token ids.
            principal: The principal of the call; the default is `Principal("local")`.
            options: Further fields of an Embeddings request (`dimensions`, `user`...).

        Raises:
            CallerError: The request is invalid, there is no such model, or no upstream of it supports embeddings.
            UpstreamError: Every target failed.
        """
        with self._recording_refusals(EMBEDDINGS):
            request = embedding_request(model, input, options, bounds=self._engine.runtime.bounds)
            async with self._engine.call_request(request, self._grant(principal)) as call:
                response, metadata = call.response(), call.metadata
        assert isinstance(response, Embeddings), "calls from Python pass no bytes through"
        return msgspec.structs.replace(response, **metadata)

    async def count_tokens(
        self, *, model: str = "", messages: Messages, principal: Principal | str | None = None, **options: Any
    ) -> TokenCount:
        """Count the tokens of a request without sending it; see `complete` for the arguments.

        The count is the upstream's, if it can count tokens, and an estimate otherwise.

        Raises:
            CallerError: The request is invalid, or there is no such model.
            UpstreamError: Every upstream that can count tokens failed.
        """
        with self._recording_refusals(CHAT):
            request = chat_request(model, messages, options, stream=False, bounds=self._engine.runtime.bounds)
            counted = await self._engine.count_request(request, self._grant(principal))
        return TokenCount(counted.tokens, estimated=counted.estimated, warnings=counted.warnings)

    @contextmanager
    def _recording_refusals(self, protocol: str) -> Iterator[None]:
        """Record requests that are refused before they become calls; mistakes in the host's code are not recorded."""
        try:
            yield
        except MisuseError:
            raise
        except GatewayError as error:
            self._engine.record_refusal(error, protocol=protocol)
            raise

    def _grant(self, principal: Principal | str | None) -> Grant:
        found = _principal(principal)
        return self._engine.runtime.authenticator.grant(found, kind="local" if found is LOCAL else "user")

    def models(self) -> list[str]:
        """Return all model names of the configuration, and those that the last `list_models` found at upstreams."""
        return self._engine.known_models()

    async def list_models(self, *, principal: Principal | str | None = None) -> list[str]:
        """Return all names that a principal may use; upstreams list their models if the configuration does not.

        Args:
            principal: The principal; the default is `Principal("local")`.
        """
        return await self._engine.models(self._grant(principal))

    def openai(self, *, principal: Principal | str | None = None, **options: Any) -> "openai.AsyncOpenAI":
        """Return an official AsyncOpenAI client that calls this gateway in process; the caller closes it.

        Raises:
            ImportError: The SDK is not installed.
        """
        from llmproxy_asgi.inprocess import openai_client

        return openai_client(self.endpoints, scope_extra=_scope_extra(principal), **options)

    def anthropic(self, *, principal: Principal | str | None = None, **options: Any) -> "anthropic.AsyncAnthropic":
        """Return an official AsyncAnthropic client that calls this gateway in process; the caller closes it.

        Raises:
            ImportError: The SDK is not installed.
        """
        from llmproxy_asgi.inprocess import anthropic_client

        return anthropic_client(self.endpoints, scope_extra=_scope_extra(principal), **options)


def chat_request(
    model: str,
    messages: Messages,
    options: Mapping[str, Any],
    *,
    stream: bool,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Request:
    """Decode a request from the keywords of a Chat request.

    Raises:
        BadRequest: A keyword is invalid; `param` names it.
    """
    if isinstance(messages, str | bytes | Mapping):
        raise BadRequest("messages: expected a list of messages.", param="messages")
    if options.get("stream", stream) is not stream:
        raise BadRequest(
            "complete() does not support streaming, and stream() supports nothing else (stream): call the other one.",
            param="stream",
        )

    fields = _fields(CHAT, options)

    def decode(dicts: Sequence[Mapping[str, Any]]) -> Request:
        request = _decoded(CHAT, {"model": model, "messages": list(dicts), "stream": stream, **fields}, bounds)
        assert isinstance(request, Request)
        return request

    if not any(isinstance(message, Message) for message in messages):
        return decode([message for message in messages if not isinstance(message, Message)])
    collected: list[Message] = []
    for message in messages:
        collected.extend((message,) if isinstance(message, Message) else decode([message]).messages)
    settings = decode([{"role": "user", "content": "-"}])
    return msgspec.structs.replace(settings, messages=tuple(collected))


def embedding_request(
    model: str, input_value: object, options: Mapping[str, Any], *, bounds: Bounds = DEFAULT_BOUNDS
) -> EmbeddingRequest:
    """Decode a request from the keywords of an Embeddings request.

    Raises:
        BadRequest: A keyword is invalid; `param` names it.
    """
    request = _decoded(EMBEDDINGS, {"model": model, "input": input_value, **_fields(EMBEDDINGS, options)}, bounds)
    assert isinstance(request, EmbeddingRequest)
    return request


_CLIENT_ARGUMENTS = {
    "timeout": "set `timeout` of the provider in the configuration, or wrap the call in asyncio.timeout().",
    "extra_headers": "set `headers` of the provider in the configuration.",
}
"""Arguments of the vendors' clients that are not fields of a request, and their replacements."""


def _fields(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request's fields from keywords and `extra_body`.

    Raises:
        UnknownArgument: A keyword is not a field of the protocol's requests.
    """
    fields = dict(options)
    extra = fields.pop("extra_body", None) or {}
    if not isinstance(extra, Mapping):
        raise MisuseError("extra_body must be a dict of further fields.")
    known = translator(protocol).inbound.fields
    for name in fields:
        if name not in known:
            raise UnknownArgument(f"unknown argument {name!r}: {_suggestion(name, known)}")
    return {**fields, **extra}


def _suggestion(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    if (where := _CLIENT_ARGUMENTS.get(name)) is not None:
        return where
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "pass fields that only the upstream knows in extra_body={...}."


def _decoded(protocol: str, body: Mapping[str, Any], bounds: Bounds) -> object:
    """Encode a body as clients of the protocol send it, and decode it."""
    inbound = translator(protocol).inbound
    try:
        encoded = msgspec.json.encode(body)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"The request holds a value that JSON cannot represent: {error}.") from None
    return inbound.decode(inbound.open(encoded, headers={}, bounds=bounds))


def _principal(principal: Principal | str | None) -> Principal:
    if principal is None:
        return LOCAL
    if isinstance(principal, Principal):
        return principal
    if not isinstance(principal, (str, int)) or isinstance(principal, bool):
        raise MisuseError("principal must be a Principal or a str.")
    try:
        return Principal(str(principal))
    except ValueError as error:
        raise MisuseError(f"principal is an invalid id: {error}.") from error


def _scope_extra(principal: Principal | str | None) -> dict[str, object]:
    return {SCOPE_KEY: _principal(principal)}
