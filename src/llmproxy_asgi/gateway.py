"""The Python face: the same corridor without HTTP, and clients of the official SDKs that need no socket.

The host program calls this itself, so no access rule stands in its way: whoever holds a `Gateway` may use it. Calls are
made for a principal all the same, because everything that is kept or counted belongs to one.
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
"""Chat-shaped dicts, or the model's own `Message`, or both."""

Transports: TypeAlias = "HostTransport | Mapping[str, HostTransport]"
"""One for every provider, or by provider name (`*` for the others)."""


class TokenCount(int):
    """A number of tokens, that knows how it came about."""

    estimated: bool
    """Whether it is a rule of thumb's, because the upstream has no counter."""
    warnings: tuple[str, ...]
    """What of the request was not counted, or not exactly."""

    def __new__(cls, tokens: int, *, estimated: bool, warnings: tuple[str, ...] = ()) -> Self:
        """A count of so many tokens."""
        made = super().__new__(cls, tokens)
        made.estimated = estimated
        made.warnings = warnings
        return made

    @property
    def input_tokens(self) -> int:
        """The number."""
        return int(self)


class Gateway:
    """A gateway, from Python. Opens what it needs when it first needs it; closing it is good manners.

    Args:
        config: A path, a dict, a `Config`, or several of these, later over earlier.
        identify: The host's hook, for calls that come over HTTP.
        csrf: The host's own check of a CSRF token, for browsers that cannot show where a request comes from.
        transport: The host's own httpx2 client or transport. Whoever made it closes it.
        observers: Told what happens (`llmproxy_asgi.facts`): the host's own code, or `Tracing`.

    Raises:
        ConfigError: The configuration is wrong; all findings at once.
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
        self._asked = self._taken_up = 0
        self._shared = SharedState(transports=transports, observers=[CallLog(), *observers])
        self._engine = Engine(Runtime.build(load_config(config), self._shared, identify=identify, csrf=csrf))
        self.endpoints = Endpoints(self._engine)
        """Every path, as an ASGI `http` application; what `LLMProxy` mounts."""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._engine.runtime.config

    @property
    def has_identify(self) -> bool:
        """Whether it has an `identify` hook; adapters do not pass on the framework's user then."""
        return self._engine.runtime.authenticator.has_identify

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def reload(self, config: ConfigSource) -> None:
        """Take up another configuration. Calls under way end on the one that they began with.

        What is learnt of upstreams (rests, limits, connections) is kept for each provider that is still there.

        Args:
            config: As for the constructor.

        Raises:
            ConfigError: It is wrong; the one in force stays.
        """
        self._asked += 1
        number = self._asked
        # Reading and checking a large file takes seconds, and the loop has calls to serve meanwhile.
        plan = await asyncio.to_thread(load_config, config)
        if number < self._taken_up:
            return  # one that was asked for later is in force already
        self._taken_up = number
        runtime = Runtime.build(plan, self._shared, identify=self._identify, csrf=self._csrf)
        self._engine.runtime = runtime
        await self._shared.close_removed(runtime.providers.values())
        if runtime.config.store == "never":
            await self._shared.drop_stores()

    async def forget(self, principal: Principal | str, *, kind: OwnerKind = "user") -> Forgotten:
        """Delete everything that is kept or counted for a principal: (kind, tenant, id), of this process.

        Background responses at work are cancelled first. Other calls under way go on, and what they leave behind
        afterwards is new; refuse the principal before, if that must not be.

        Args:
            principal: Whom to forget; a str is an id without a tenant.
            kind: `key` for a machine key, by its name; `open` and `local` for callers without a principal of their own.

        Raises:
            MisuseError: `principal` is none.
            Unavailable: A store cannot be reached; what it holds is still there.
        """
        owner = Owner.of(_principal(principal), kind=kind)
        return await self._shared.forget(owner, background=await self.endpoints.forget(owner))

    async def drain(self, window: float | None = None) -> None:
        """Refuse new calls with a 503, let those under way end, then interrupt the rest with their protocol's error.

        `/ready` says no from the first moment on. For whoever owns the process and knows that it is about to end.

        Args:
            window: Seconds that calls under way get; None: `drain_timeout` of the configuration.
        """
        await self._shared.open_calls.drain(self.config.drain_timeout if window is None else window)

    def reopen(self) -> None:
        """Take calls again after `drain`."""
        self._shared.open_calls.reopen()

    def prepare(self) -> None:
        """Bring in what the first call would wait for: the way to each upstream, trust, and the words spoken there.

        Raises:
            MisuseError: `transport` is nothing that can be used.
        """
        for provider in self._engine.runtime.providers.values():
            pool = self._shared.pool(provider)
            if provider.root.startswith("https:"):
                pool.read_trusted()
            translator(provider.enabled_protocols[0])

    async def health(self) -> Mapping[str, Health]:
        """Ask every provider now whether it answers, at once; by the providers' names."""
        providers = self._engine.runtime.providers
        found = await asyncio.gather(*(self._shared.health.check(each) for each in providers.values()))
        return dict(zip(providers, found, strict=True))

    @property
    def prometheus_collector(self) -> "GatewayCollector":
        """For a registry of the host's own: `prometheus_client.REGISTRY.register(gateway.prometheus_collector)`.

        Without `endpoints.metrics` it counts from the moment that it is asked for.
        """
        runtime = self._engine.runtime
        return self._shared.enable_metrics(label_names(runtime.config, runtime.catalog)).collector

    async def aclose(self) -> None:
        """End what runs in the background, and close idle connections. The gateway can be used again."""
        await self.endpoints.aclose()
        await self._shared.aclose()

    async def complete(
        self, *, model: str = "", messages: Messages, principal: Principal | str | None = None, **options: Any
    ) -> Response:
        """A whole answer.

        Args:
            model: As clients name it.
            messages: What was said so far.
            principal: Who it is for; without one, `Principal("local")`.
            options: Further fields of a Chat request (`tools`, `temperature`, `response_format`...), and `extra_body`
                for fields that only the upstream knows.

        Raises:
            UnknownArgument: A keyword is no field of a Chat request; it is a `TypeError`, too.
            CallerError: The request is wrong, or there is no such model.
            UpstreamError: Every target failed.
        """
        with self._recording_refusals(CHAT):
            request = chat_request(model, messages, options, stream=False, bounds=self._engine.runtime.bounds)
            async with self._engine.call_request(request, self._grant(principal)) as call:
                answer, told = call.response(), call.metadata
        assert isinstance(answer, Response), "a call made in Python passes no bytes through"
        return msgspec.structs.replace(answer, **told)

    async def stream(
        self, *, model: str = "", messages: Messages, principal: Principal | str | None = None, **options: Any
    ) -> AsyncGenerator[StreamEvent, None]:
        """An answer as it comes, event by event. Leaving the loop early lets go of the upstream when it is closed.

        `async with contextlib.aclosing(gateway.stream(...)) as events` closes it at once.

        Raises:
            CallerError: The request is wrong, or there is no such model.
            UpstreamError: Every target failed, or the stream broke.
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
        """Vectors: `.vectors` holds one for each input, in their order, as floats.

        Args:
            model: As clients name it.
            input: A text or several, or the ids of tokens in place of a text.
            principal: Who it is for; without one, `Principal("local")`.
            options: Further fields of an Embeddings request (`dimensions`, `user`...).

        Raises:
            CallerError: The request is wrong, there is no such model, or none of its upstreams makes embeddings.
            UpstreamError: Every target failed.
        """
        with self._recording_refusals(EMBEDDINGS):
            request = embedding_request(model, input, options, bounds=self._engine.runtime.bounds)
            async with self._engine.call_request(request, self._grant(principal)) as call:
                answer, told = call.response(), call.metadata
        assert isinstance(answer, Embeddings), "a call made in Python passes no bytes through"
        return msgspec.structs.replace(answer, **told)

    async def count_tokens(
        self, *, model: str = "", messages: Messages, principal: Principal | str | None = None, **options: Any
    ) -> TokenCount:
        """How many tokens a request is, before it is made; the arguments are those of `complete`.

        The upstream that would serve it is asked where it has a counter, else the number is an estimate.

        Raises:
            CallerError: The request is wrong, or there is no such model.
            UpstreamError: Every upstream that counts failed.
        """
        with self._recording_refusals(CHAT):
            request = chat_request(model, messages, options, stream=False, bounds=self._engine.runtime.bounds)
            counted = await self._engine.count_request(request, self._grant(principal))
        return TokenCount(counted.tokens, estimated=counted.estimated, warnings=counted.warnings)

    @contextmanager
    def _recording_refusals(self, protocol: str) -> Iterator[None]:
        """Record what is refused before it becomes a call; a mistake in the host's code is no refusal."""
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
        """Every name that can be listed: those of the configuration, and what `list_models` has found out lately."""
        return self._engine.known_models()

    async def list_models(self, *, principal: Principal | str | None = None) -> list[str]:
        """Every name that a principal may use. Upstreams are asked what they serve where the configuration doesn't say.

        Args:
            principal: For whom; without one, `Principal("local")`.
        """
        return await self._engine.models(self._grant(principal))

    def openai(self, *, principal: Principal | str | None = None, **options: Any) -> "openai.AsyncOpenAI":
        """The official AsyncOpenAI client, in process. `options` are its own; close it as any other.

        Raises:
            ImportError: The SDK is not installed.
        """
        from llmproxy_asgi.inprocess import openai_client

        return openai_client(self.endpoints, scope_extra=_vouched(principal), **options)

    def anthropic(self, *, principal: Principal | str | None = None, **options: Any) -> "anthropic.AsyncAnthropic":
        """The official AsyncAnthropic client, in process. `options` are its own; close it as any other.

        Raises:
            ImportError: The SDK is not installed.
        """
        from llmproxy_asgi.inprocess import anthropic_client

        return anthropic_client(self.endpoints, scope_extra=_vouched(principal), **options)


def chat_request(
    model: str,
    messages: Messages,
    options: Mapping[str, Any],
    *,
    stream: bool,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Request:
    """A request from Chat-shaped keywords.

    Raises:
        BadRequest: One of them is wrong; `param` names it.
    """
    if isinstance(messages, str | bytes | Mapping):
        raise BadRequest("messages: expected a list of messages.", param="messages")
    if options.get("stream", stream) is not stream:
        raise BadRequest(
            "complete() does not support streaming, and stream() supports nothing else (stream): call the other one.",
            param="stream",
        )

    fields = _fields(CHAT, options)

    def read(shaped: Sequence[Mapping[str, Any]]) -> Request:
        request = _decoded(CHAT, {"model": model, "messages": list(shaped), "stream": stream, **fields}, bounds)
        assert isinstance(request, Request)
        return request

    if not any(isinstance(message, Message) for message in messages):
        return read([message for message in messages if not isinstance(message, Message)])
    collected: list[Message] = []
    for message in messages:
        collected.extend((message,) if isinstance(message, Message) else read([message]).messages)
    settings = read([{"role": "user", "content": "-"}])
    return msgspec.structs.replace(settings, messages=tuple(collected))


def embedding_request(
    model: str, given: object, options: Mapping[str, Any], *, bounds: Bounds = DEFAULT_BOUNDS
) -> EmbeddingRequest:
    """A request from the keywords of an Embeddings request.

    Raises:
        BadRequest: One of them is wrong; `param` names it.
    """
    request = _decoded(EMBEDDINGS, {"model": model, "input": given, **_fields(EMBEDDINGS, options)}, bounds)
    assert isinstance(request, EmbeddingRequest)
    return request


_SET_ELSEWHERE = {
    "timeout": "set `timeout` of the provider in the configuration, or wrap the call in asyncio.timeout().",
    "extra_headers": "set `headers` of the provider in the configuration.",
}
"""What the vendors' clients take with each call, beside the fields of a request."""


def _fields(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that keywords stand for; those in `extra_body` are taken as they are.

    Raises:
        UnknownArgument: A keyword is no field of that protocol's requests.
    """
    fields = dict(options)
    extra = fields.pop("extra_body", None) or {}
    if not isinstance(extra, Mapping):
        raise MisuseError("extra_body must be a dict of further fields.")
    known = translator(protocol).inbound.fields
    for name in fields:
        if name not in known:
            raise UnknownArgument(f"unknown argument {name!r}: {_meant(name, known)}")
    return {**fields, **extra}


def _meant(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    if (where := _SET_ELSEWHERE.get(name)) is not None:
        return where
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "pass fields that only the upstream knows in extra_body={...}."


def _decoded(protocol: str, body: Mapping[str, Any], bounds: Bounds) -> object:
    """A body as that protocol's callers would send it, read whole."""
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


def _vouched(principal: Principal | str | None) -> dict[str, object]:
    return {SCOPE_KEY: _principal(principal)}
