"""A translator: two codec halves around the protocol-neutral form.

The *inbound* half serves a protocol to clients, the *outbound* half calls upstreams of that protocol::

    client ──bytes──▶ Inbound.open ─▶ InboundRequest
        same protocol:  Outbound.passthrough_request ──────────────▶ UpstreamRequest ──bytes──▶ upstream
        another one:    Inbound.decode ─▶ Request ─▶ Outbound.encode ─▶ UpstreamRequest ──bytes──▶ upstream

    upstream ──bytes──▶
        same protocol:  Outbound.passthrough_stream ─▶ Batch.raw ─────────────────────────bytes──▶ client
        another one:    Outbound.decoder ─▶ Batch.events ─▶ Inbound.encoder ──────────────bytes──▶ client

Everything here is plain functions and `feed()` methods: no I/O, no clock, no task. Encoding the same thing twice gives
the same bytes. A decoder never raises for what an upstream sent: it ends its events with `Failed`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, Literal, TypeAlias

import msgspec
from typing_extensions import TypeVar

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import DEFAULT, Capabilities
from llmproxy_asgi.errors import GatewayError, NotFound, UpstreamError
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds
from llmproxy_asgi.wire.sse import DEFAULT_MAX_EVENT

Headers = Mapping[str, str]
"""Header names in lower case; repeated headers joined by a comma."""

HEAVY_BYTES = 256 * 1024
HEAVY_VALUES = 5_000
"""A body of more than these is read and written off the event loop."""

Family = Literal["conversation", "embedding"]
"""What a protocol is for. Translation is possible only within one family."""

# A protocol that is no conversation names its own two records: `class Half(Inbound[EmbeddingRequest, Embeddings])`.
RequestT = TypeVar("RequestT", default=ir.Request)
ErrorT = TypeVar("ErrorT", bound=GatewayError)
ResponseT = TypeVar("ResponseT", default=ir.Response)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A request's fields about stored responses: the one it continues, and its own (Responses API)."""

    store: bool = False
    """Whether its answer is to be stored."""
    previous_id: str | None = None
    """The id of the response that it continues."""
    background: bool = False
    """Whether it runs in the background, without its client."""
    shows_state: bool = False
    """Whether the client wants the encrypted state of its reasoning."""
    needs_state: bool = False
    """Whether a later request that continues it needs that state, so that it is requested from the upstream."""
    answer_id: str | None = None
    """The id of its answer, where the upstream's protocol has none; None: the translator generates one."""


class InboundRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A client's request, read just far enough to route it."""

    media_type: ClassVar[bytes] = b"text/event-stream; charset=utf-8"
    """The media type of a streamed answer."""

    protocol: str
    model: str
    """As the client sent it; empty if the client sent none."""
    stream: bool = False
    include_usage: bool = True
    """Whether the client wants usage in the stream (Chat: only on request)."""
    raw: Mapping[str, msgspec.Raw]
    """The body's top-level values, unparsed, in their order."""
    size: int = 0
    """Bytes of the body; the basis for estimating its tokens."""
    values: int = 0
    """JSON values of the body, never too low; the basis for estimating the work of decoding it."""
    version: str | None = None
    betas: tuple[str, ...] = ()
    path: Mapping[str, str] = ir.EMPTY
    """Parameters from the path (Gemini has the model there)."""
    is_batch: bool = False
    """Whether it holds several prompts, so that `Inbound.decode_each` decodes it (legacy completions)."""
    state: State | None = None
    """None: it has no part in stored responses."""
    warnings: tuple[str, ...] = ()
    """The losses of a body that came in another protocol than its path's; as `UpstreamRequest.warnings`."""

    @property
    def heavy(self) -> bool:
        """Whether decoding or encoding it is too much work for one step of the event loop."""
        return self.values > HEAVY_VALUES or self.size > HEAVY_BYTES


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """What an outbound codec needs to know about the destination of a request."""

    provider: str
    model: str
    """The upstream's name of the model."""
    client_model: str
    """The model's name as the client sent it, and as its answer returns it."""
    issuer: str
    """Whose reasoning state this route can open (see `Seal.issuer`)."""
    capabilities: Capabilities = DEFAULT
    max_event: int = DEFAULT_MAX_EVENT
    """Maximum bytes of one event of its streams."""
    resuming: bool = False
    """Whether the conversation ends with a turn that the upstream paused."""
    private_media: bool = False
    """Whether it may receive media URLs in private networks."""
    google_storage: bool = False
    """Whether it accepts `gs:` URLs."""
    any_names: bool = False
    """Whether tools keep the client's names: the request is encoded only to be read, and no answer restores them."""


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request ready for the wire, and what the decoder of its answer needs."""

    body: bytes
    stream: bool
    headers: tuple[tuple[str, str], ...] = ()
    """Headers that the protocol requires (`anthropic-version`); never a credential."""
    warnings: tuple[str, ...] = ()
    """`dropped:FIELD`, `clamped:FIELD`, `downgraded:FIELD`, `emulated:FIELD`, `moved:WHAT`, `estimated:WHAT`."""
    names: Mapping[str, str] = ir.EMPTY
    """Tool names as sent upstream, mapped to the client's names; only those that differ."""
    call_ids: Mapping[str, str] = ir.EMPTY
    """Call ids as sent upstream, mapped to the client's ids; only those that differ."""
    namespaces: Mapping[str, str] = ir.EMPTY
    """Tool names as sent upstream, mapped to the namespace flattened into them."""
    emulated: frozenset[str] = frozenset()
    """Upstream names of custom tools that were sent as functions with one string property `input`."""
    shows_searches: bool = False
    """Whether the client expects searches as parts of the answer, although the upstream reports them beside it."""
    stop: tuple[str, ...] = ()
    """Stop sequences that the gateway emulates, beside those sent upstream."""
    nonce: str = ""
    """Random text unique to this attempt: part of every id that a decoder generates (upstreams repeat theirs)."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error in the form of one protocol."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class StreamEncoder(ABC):
    """Encodes one stream for a client."""

    @abstractmethod
    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        """Return the bytes of these events, maybe none yet.

        `Failed` is written as the protocol's own error event, also when it is the very first event and also when an
        instance made only for it continues a passed-through stream. `Ended` writes the protocol's end sign.
        """

    def withheld(self) -> Sequence[tuple[str, Sequence[ir.Seal]]]:
        """Return the reasoning state that came too late for the stream, by the id of the part or call it belongs to."""
        return ()


class StreamDecoder(ABC):
    """Decodes one upstream stream. Never raises for its content; it ends with one `Failed` or `Ended`."""

    @abstractmethod
    def feed(self, data: bytes) -> ir.Batch:
        """Return what this read completed."""

    @abstractmethod
    def close(self) -> ir.Batch:
        """End the upstream's body. A stream without its protocol's own end sign yields `Failed` here."""

    def broke(self, error: ErrorT) -> ErrorT:
        """Return the error that ends a stream which was broken off from outside.

        A passthrough adds how far the stream had come, where its protocol's error event includes that.
        """
        return error


class Inbound(ABC, Generic[RequestT, ResponseT]):
    """The half that serves clients."""

    protocol: ClassVar[str]
    spelling: ClassVar[Mapping[str, str]] = ir.EMPTY
    """This protocol's names for the fields that all translators refer to by one name, where they differ."""
    keepalive: ClassVar[bytes]
    """Bytes that may be sent between frames, also before the first one; official SDKs ignore them."""
    request_id_header: ClassVar[bytes | None] = None
    """The response header for the request's id beside `x-request-id`, which every response has."""
    output_limits: ClassVar[tuple[str, ...]] = ()
    """The body's fields for the maximum of output tokens."""
    fields: ClassVar[frozenset[str]] = frozenset()
    """The fields of its requests that Python callers may pass as keywords."""

    @abstractmethod
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = ir.EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        """Read a request just far enough to route it.

        Args:
            body: The complete body.
            headers: The request's headers.
            path: Parameters from the path.
            bounds: The limits of the body.

        Raises:
            BadRequest: Not JSON, not an object, more than the bounds allow, a known name in a second spelling, or one
                of the few fields that routing needs is of the wrong type.
        """

    @abstractmethod
    def decode(self, inbound_request: InboundRequest) -> RequestT:
        """Decode a request.

        Raises:
            BadRequest: A field is wrong; `param` names it by its path (``messages[2].content[0].text``).
        """

    def decode_each(self, inbound_request: InboundRequest) -> Sequence[RequestT]:
        """Decode a request that holds several prompts (`InboundRequest.is_batch`) into one request each.

        The candidates of their answers, in order, are the candidates of the client's one answer.

        Raises:
            BadRequest: As `decode`.
        """
        return (self.decode(inbound_request),)

    def max_output_tokens(self, inbound_request: InboundRequest) -> int | None:
        """Return the request's maximum of output tokens; None: absent or unreadable."""
        for field in self.output_limits:
            if field in inbound_request.raw and (limit := _count(inbound_request.raw[field])) is not None:
                return limit
        return None

    @abstractmethod
    def encode(self, response: ResponseT, inbound_request: InboundRequest) -> bytes:
        """Encode a complete answer. Its `model` is the name that the client sent."""

    @abstractmethod
    def encoder(self, inbound_request: InboundRequest) -> StreamEncoder:
        """Return an encoder for one streamed answer."""

    @abstractmethod
    def problem(self, error: GatewayError, *, request_id: str | None = None) -> Problem:
        """Encode an error for this protocol, with its status and headers (`retry-after`)."""

    def encode_count(self, tokens: int) -> bytes:
        """Encode a count of a request's tokens.

        Raises:
            NotFound: This protocol has no token counting.
        """
        raise NotFound("This protocol does not support counting tokens.")

    @abstractmethod
    def list_models(self, names: Sequence[str]) -> bytes:
        """Encode the list of models, as this vendor's SDK reads it."""

    @abstractmethod
    def show_model(self, name: str) -> bytes:
        """Encode one model of the list."""


def _count(value: msgspec.Raw) -> int | None:
    try:
        return msgspec.json.decode(value, type=int | None)
    except msgspec.MsgspecError:
        return None


class Outbound(ABC, Generic[RequestT, ResponseT]):
    """The half that calls upstreams."""

    protocol: ClassVar[str]
    family: ClassVar[Family] = "conversation"
    carries_others: ClassVar[bool] = True
    """Whether it can encode requests of other protocols of its family; if not, it is used for passthrough only."""
    pauses: ClassVar[bool] = False
    """Whether an answer may end with `pause`, to be sent back for the rest."""

    many: ClassVar[tuple[str, ...]] = ()
    """The path to those entries of a whole answer that may be very many: see `answer_bounds`."""
    stream_beginnings: ClassVar[tuple[bytes, ...]] = (b"data:", b"event:", b"id:", b"retry:", b":", b"\xef\xbb\xbf")
    """The first bytes of a stream's body. Content types are ignored, because many servers send wrong ones."""

    def begins_stream(self, begin: bytes) -> bool:
        """Return whether a body that begins with these bytes, however few, is a stream."""
        return bool(begin) and any(
            begin.startswith(beginning) or beginning.startswith(begin) for beginning in self.stream_beginnings
        )

    @abstractmethod
    def encode(self, request: RequestT, upstream: Upstream) -> UpstreamRequest:
        """Encode a request of another protocol. Deterministic: no random ids, no clock.

        Raises:
            Unsupported: This upstream cannot express it and the answer would be wrong without it.
            BadRequest: The conversation itself is broken (a result without its call).
        """

    @abstractmethod
    def passthrough_request(self, inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
        """Return a request of this protocol, its bytes kept except the model and the fields that the gateway sets."""

    def lacks_reasoning(self, inbound_request: InboundRequest, upstream: Upstream) -> bool:
        """Return whether this upstream may refuse a request of this protocol because its calls lack reasoning."""
        return False

    def with_reasoning(self, inbound_request: InboundRequest, request: ir.Request) -> InboundRequest:
        """Return a request of this protocol with the reasoning that its decoded form has and its bytes lack."""
        return inbound_request

    @abstractmethod
    def decoder(self, upstream_request: UpstreamRequest, upstream: Upstream) -> StreamDecoder:
        """Return the decoder for translation, and for callers that need events."""

    @abstractmethod
    def passthrough_stream(self, inbound_request: InboundRequest, upstream: Upstream) -> StreamDecoder:
        """Return the decoder for passthrough: clients of this protocol get `Batch.raw`."""

    @abstractmethod
    def decode(
        self, body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, *, received_at: datetime
    ) -> ResponseT:
        """Decode a complete answer.

        Raises:
            UpstreamError: The body is not this protocol's answer, or carries an error (`UpstreamProtocolError`...).
        """

    @abstractmethod
    def passthrough_response(self, body: bytes, inbound_request: InboundRequest, upstream: Upstream) -> ir.Batch:
        """Check a complete answer for a client of this protocol, and keep its bytes except the model.

        `raw` is the answer; `events` holds a `UsageReported` if the answer has usage.

        Raises:
            UpstreamError: As `decode`.
        """

    def encode_count(self, upstream_request: UpstreamRequest, upstream: Upstream) -> UpstreamRequest:
        """Return the request to this protocol's token counter, made from the request as it would be sent.

        Called only where a provider names the counter's address (`Provider.counting_address`).
        """
        raise NotImplementedError

    def decode_count(self, body: bytes) -> int:
        """Decode the token counter's answer.

        Raises:
            UpstreamProtocolError: The body has no count.
        """
        raise NotImplementedError

    def replays_reasoning(self, body: bytes) -> bool:
        """Return whether a request's body carries reasoning of earlier turns, which its upstream may refuse."""
        return False

    @abstractmethod
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        """Decode an answer with a status of 400 or more.

        The error is chosen by status and the vendor's code, never by the message's text.
        """


class Translator(msgspec.Struct, Generic[RequestT, ResponseT], frozen=True):
    """Both halves of one protocol."""

    protocol: str
    inbound: Inbound[RequestT, ResponseT]
    outbound: Outbound[RequestT, ResponseT]


AnyInbound: TypeAlias = Inbound[Any, Any]
AnyOutbound: TypeAlias = Outbound[Any, Any]
AnyTranslator: TypeAlias = Translator[Any, Any]
