"""What a translator is: two halves that share one vocabulary.

The *inbound* half serves a protocol to our callers, the *outbound* half calls an upstream that speaks it::

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

from llmproxy_asgi.capabilities import DEFAULT, Capabilities
from llmproxy_asgi.conversation import EMPTY, Batch, Request, Response, Seal, StreamEvent
from llmproxy_asgi.errors import GatewayError, NotFound, UpstreamError
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds
from llmproxy_asgi.wire.sse import DEFAULT_MAX_EVENT

Headers = Mapping[str, str]
"""Header names in lower case; repeated headers joined by a comma."""

HEAVY_BYTES = 256 * 1024
HEAVY_VALUES = 5_000
"""A body of more than these is read and written off the event loop."""

Family = Literal["conversation", "embedding"]
"""What a protocol is for. Only protocols of one family can stand for each other."""

# A protocol that is no conversation names its own two records: `class Half(Inbound[EmbeddingRequest, Embeddings])`.
RequestT = TypeVar("RequestT", default=Request)
ErrorT = TypeVar("ErrorT", bound=GatewayError)
ResponseT = TypeVar("ResponseT", default=Response)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of answers that are kept: earlier ones that it goes on from, and its own (Responses')."""

    store: bool = False
    """Whether its answer is to be kept."""
    previous_id: str | None = None
    """The answer that it goes on from."""
    background: bool = False
    """Whether it goes on without its caller."""
    shows_state: bool = False
    """Whether its caller wants to read the state of its reasoning."""
    needs_state: bool = False
    """Whether whoever goes on from its answer needs that state, so that the upstream is asked for it."""
    answer_id: str | None = None
    """What its answer is to be called, where the upstream's protocol has no such ids; None: the translator's choice."""


class InboundRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came in: read just far enough to know where it must go."""

    media_type: ClassVar[bytes] = b"text/event-stream; charset=utf-8"
    """Of a streamed answer."""

    protocol: str
    model: str
    """As the caller said it; empty where the caller named none."""
    stream: bool = False
    include_usage: bool = True
    """Whether the caller wants usage in the stream (Chat: only if asked)."""
    raw: Mapping[str, msgspec.Raw]
    """The body's top-level values, unparsed, in their order."""
    size: int = 0
    """Bytes of the body; what an estimate of its tokens is made from."""
    values: int = 0
    """JSON values of the body, never too low; what the work of reading it is estimated from."""
    version: str | None = None
    betas: tuple[str, ...] = ()
    path: Mapping[str, str] = EMPTY
    """What the path itself said (Gemini names the model there)."""
    is_batch: bool = False
    """Whether it asks several things at once, so that `Inbound.decode_each` reads it (legacy completions do)."""
    state: State | None = None
    """None: it has nothing to do with what is kept."""
    warnings: tuple[str, ...] = ()
    """What a body lost that came in another protocol than its path's; as `UpstreamRequest.warnings`."""

    @property
    def heavy(self) -> bool:
        """Whether to read or write it whole is more work than one step of an event loop should do."""
        return self.values > HEAVY_VALUES or self.size > HEAVY_BYTES


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """What an outbound translator must know of where a request goes."""

    provider: str
    model: str
    """The upstream's own name of the model."""
    client_model: str
    """The name that the caller used, and reads in the answer."""
    issuer: str
    """Whose reasoning state this route can open (see `Seal.issuer`)."""
    capabilities: Capabilities = DEFAULT
    max_event: int = DEFAULT_MAX_EVENT
    """Bytes that one event of its streams may have."""
    resuming: bool = False
    """Whether the conversation ends with a turn of the upstream's own that it paused."""
    private_media: bool = False
    """Whether it may be given addresses of private networks to fetch media from."""
    google_storage: bool = False
    """Whether it reads `gs:` addresses."""
    any_names: bool = False
    """Whether tools keep the caller's names: the request is rewritten only to be read, and no answer restores them."""


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request ready for the wire, and what its answer's decoder must remember."""

    body: bytes
    stream: bool
    headers: tuple[tuple[str, str], ...] = ()
    """Headers that the protocol itself wants (`anthropic-version`); never a credential."""
    warnings: tuple[str, ...] = ()
    """`dropped:FIELD`, `clamped:FIELD`, `downgraded:FIELD`, `emulated:FIELD`, `moved:WHAT`, `estimated:WHAT`."""
    names: Mapping[str, str] = EMPTY
    """Tool names as they went upstream, to the names the caller knows; only those that differ."""
    call_ids: Mapping[str, str] = EMPTY
    """Call ids as they went upstream, to the ids the caller knows; only those that differ."""
    namespaces: Mapping[str, str] = EMPTY
    """Tool names as they went upstream, to the namespace that was flattened into them."""
    emulated: frozenset[str] = frozenset()
    """Upstream names of custom tools that went as functions with one string property `input`."""
    shows_searches: bool = False
    """Whether the caller reads the upstream's searches as parts of the answer, though it tells them beside it."""
    stop: tuple[str, ...] = ()
    """What stops the answer's text beside the stop sequences that went upstream."""
    nonce: str = ""
    """Random text of this attempt alone: part of every id that a decoder makes up, because upstreams repeat theirs."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as one protocol says it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class StreamEncoder(ABC):
    """Writes one stream to a caller."""

    @abstractmethod
    def feed(self, events: Sequence[StreamEvent]) -> bytes:
        """The bytes of these events, maybe none yet.

        `Failed` is written as the protocol's own error event, also when it is the very first event and also when an
        instance made only for it continues a passed-through stream. `Ended` writes the protocol's end sign.
        """

    def withheld(self) -> Sequence[tuple[str, Sequence[Seal]]]:
        """Reasoning state for which the stream that has ended had no place any more, by the id of what it hangs on."""
        return ()


class StreamDecoder(ABC):
    """Reads one upstream stream. Never raises for what came; the last event is `Failed` or `Ended`, exactly once."""

    @abstractmethod
    def feed(self, data: bytes) -> Batch:
        """What this read completed."""

    @abstractmethod
    def close(self) -> Batch:
        """The upstream's body ended. A stream without its protocol's own end sign yields `Failed` here."""

    def broke(self, error: ErrorT) -> ErrorT:
        """The error that ends a stream which something else than its bytes broke off.

        A passthrough notes in it how far the stream had come, where its protocol's error event has to say so.
        """
        return error


class Inbound(ABC, Generic[RequestT, ResponseT]):
    """The half that serves callers."""

    protocol: ClassVar[str]
    spelling: ClassVar[Mapping[str, str]] = EMPTY
    """This protocol's places of the fields that all translators speak of by one name, where it has another name."""
    keepalive: ClassVar[bytes]
    """What may be sent at any frame border, also before the first frame, without any official SDK noticing."""
    request_id_header: ClassVar[bytes | None] = None
    """The header that tells callers the request's id, if it is another than `x-request-id`, which all are sent."""
    output_limits: ClassVar[tuple[str, ...]] = ()
    """The body's fields that say how many tokens an answer may have."""
    fields: ClassVar[frozenset[str]] = frozenset()
    """The fields of its requests, where callers in Python may name them as keywords."""

    @abstractmethod
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        """Read a request just far enough to route it.

        Args:
            body: Whole.
            headers: Of the request.
            path: What the path itself says.
            bounds: What the body may hold.

        Raises:
            BadRequest: Not JSON, not an object, more than the bounds allow, a known name in a second spelling, or one
                of the few fields that routing needs is of the wrong type.
        """

    @abstractmethod
    def decode(self, inbound_request: InboundRequest) -> RequestT:
        """Read a request whole.

        Raises:
            BadRequest: A field is wrong; `param` names it by its path (``messages[2].content[0].text``).
        """

    def decode_each(self, inbound_request: InboundRequest) -> Sequence[RequestT]:
        """Read a request that asks several things at once (`InboundRequest.is_batch`), as one request each.

        The candidates of their answers, one answer after the other, are those of the one answer that the caller reads.

        Raises:
            BadRequest: As `decode`.
        """
        return (self.decode(inbound_request),)

    def max_output_tokens(self, inbound_request: InboundRequest) -> int | None:
        """How many tokens an answer may have by the request's own word; None: it does not say (in a way to be read)."""
        for field in self.output_limits:
            if field in inbound_request.raw and (limit := _count(inbound_request.raw[field])) is not None:
                return limit
        return None

    @abstractmethod
    def encode(self, response: ResponseT, inbound_request: InboundRequest) -> bytes:
        """A whole answer. Its `model` is the name that the caller asked for."""

    @abstractmethod
    def encoder(self, inbound_request: InboundRequest) -> StreamEncoder:
        """A writer for one streamed answer."""

    @abstractmethod
    def problem(self, error: GatewayError, *, request_id: str | None = None) -> Problem:
        """An error as this protocol says it, with its status and headers (`retry-after`)."""

    def encode_count(self, tokens: int) -> bytes:
        """How many tokens a request is.

        Raises:
            NotFound: This protocol's callers have no way to ask.
        """
        raise NotFound("This protocol does not support counting tokens.")

    @abstractmethod
    def list_models(self, names: Sequence[str]) -> bytes:
        """The models that a caller may use, as this vendor's SDK lists them."""

    @abstractmethod
    def show_model(self, name: str) -> bytes:
        """One of them."""


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
    """Whether it can say what came in another protocol of its family; if not, only its own requests go this way."""
    pauses: ClassVar[bool] = False
    """Whether an answer may end with `pause`, so that whoever asked sends it back for the rest."""

    many: ClassVar[tuple[str, ...]] = ()
    """The path to those entries of a whole answer that may be very many: see `answer_bounds`."""
    stream_beginnings: ClassVar[tuple[bytes, ...]] = (b"data:", b"event:", b"id:", b"retry:", b":", b"\xef\xbb\xbf")
    """What the body of a stream begins with. Content types are not believed, because many servers send wrong ones."""

    def begins_stream(self, begin: bytes) -> bool:
        """Whether a body that begins with these bytes, however few, is a stream."""
        return bool(begin) and any(
            begin.startswith(beginning) or beginning.startswith(begin) for beginning in self.stream_beginnings
        )

    @abstractmethod
    def encode(self, request: RequestT, upstream: Upstream) -> UpstreamRequest:
        """A request that came in another protocol. Deterministic: no random ids, no clock.

        Raises:
            Unsupported: This upstream cannot express it and the answer would be wrong without it.
            BadRequest: The conversation itself is broken (a result without its call).
        """

    @abstractmethod
    def passthrough_request(self, inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
        """A request in this very protocol: every value's bytes kept, but the model name and what we must set."""

    def lacks_reasoning(self, inbound_request: InboundRequest, upstream: Upstream) -> bool:
        """Whether this upstream may refuse a request in this very protocol for reasoning that its calls lack."""
        return False

    def with_reasoning(self, inbound_request: InboundRequest, request: Request) -> InboundRequest:
        """A request in this very protocol, with the reasoning that its decoded form has and its bytes lack."""
        return inbound_request

    @abstractmethod
    def decoder(self, upstream_request: UpstreamRequest, upstream: Upstream) -> StreamDecoder:
        """The full codec, for callers of another protocol and for whoever needs events."""

    @abstractmethod
    def passthrough_stream(self, inbound_request: InboundRequest, upstream: Upstream) -> StreamDecoder:
        """The passthrough codec, for callers of this protocol: `Batch.raw` is what they get."""

    @abstractmethod
    def decode(
        self, body: bytes, upstream_request: UpstreamRequest, upstream: Upstream, *, received_at: datetime
    ) -> ResponseT:
        """A whole answer.

        Raises:
            UpstreamError: The body is not this protocol's answer, or carries an error (`UpstreamProtocolError`...).
        """

    @abstractmethod
    def passthrough_response(self, body: bytes, inbound_request: InboundRequest, upstream: Upstream) -> Batch:
        """A whole answer for a caller of this protocol: checked, its bytes kept but the model name.

        `raw` is the answer; `events` holds a `UsageReported` if it told its usage.

        Raises:
            UpstreamError: As `decode`.
        """

    def encode_count(self, upstream_request: UpstreamRequest, upstream: Upstream) -> UpstreamRequest:
        """A request as this protocol's counter of tokens takes it, made from the request as it would be sent.

        Called only where a provider names the counter's address (`Provider.counting_address`).
        """
        raise NotImplementedError

    def decode_count(self, body: bytes) -> int:
        """What the counter says.

        Raises:
            UpstreamProtocolError: The body tells no count.
        """
        raise NotImplementedError

    def replays_reasoning(self, body: bytes) -> bool:
        """Whether a request's body carries reasoning of earlier turns, which its upstream may refuse to take back."""
        return False

    @abstractmethod
    def decode_error(self, status: int, headers: Headers, body: bytes) -> UpstreamError:
        """What an answer with a status of 400 and more means.

        Decided by status and the vendor's code, never by the message's text.
        """


class Translator(msgspec.Struct, Generic[RequestT, ResponseT], frozen=True):
    """Both halves of one protocol."""

    protocol: str
    inbound: Inbound[RequestT, ResponseT]
    outbound: Outbound[RequestT, ResponseT]


AnyInbound: TypeAlias = Inbound[Any, Any]
AnyOutbound: TypeAlias = Outbound[Any, Any]
AnyTranslator: TypeAlias = Translator[Any, Any]
