"""The protocol-neutral form: every protocol is decoded into it and encoded from it.

A `Request` is answered by a `Response`; a stream is a sequence of `StreamEvent`s that folds into a `Response`.
Messages and answers are ordered lists of parts, because order has meaning: thinking before a call, text between calls.

Decisions that hold everywhere:

- Four roles. A tool message holds only `ToolResult` parts: all results of one step. A protocol that mixes results and
  text in one user message is read as a tool message followed by a user message.
- A system message may appear anywhere and has an authority. Encoders place it; decoders never merge it.
- Arguments of calls stay the raw JSON text they came as.
- Reasoning state is sealed: a blob and its issuer. Only an encoder for that issuer opens it.
- Usage counts totals: cache reads and writes are inside `input`, reasoning is inside `output`.
- What has no counterpart here becomes an `Opaque` part or an entry in `extras[protocol]`, at its place.

No logic, no vendor's field names and no I/O live here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec
from typing_extensions import override

from llmproxy_asgi.capabilities import Effort
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.reprs import assembled, short

JSONObject: TypeAlias = dict[str, Any]
Extras: TypeAlias = Mapping[str, JSONObject]
"""By protocol: its fields that have no counterpart here."""

EMPTY: Mapping[str, Any] = MappingProxyType({})

Role = Literal["system", "user", "assistant", "tool"]
Authority = Literal["system", "developer"]
Phase = Literal["commentary", "final_answer"]
MediaKind = Literal["image", "audio", "video", "document"]
Detail = Literal["auto", "low", "high", "original"]
CallKind = Literal["function", "custom"]
CacheLifetime = Literal["5m", "30m", "1h", "12h", "24h"]
Visibility = Literal["hidden", "summary", "updates", "full"]


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A record made per call. Subclasses are keyword-only, which msgspec does not inherit.

    The garbage collector skips it, because a request may have 100,000 parts, and a full collection stops the process.
    So it holds JSON and other records only, which never refer back to it.
    """

    @override
    def __repr__(self) -> str:
        return short(self)


class Small(msgspec.Struct, frozen=True, gc=False):
    """A record made per event; positional, because it is small.

    The garbage collector skips it, so it must not hold an object that refers back to it, such as an error: a raised
    error holds its stack frames, and they hold the event.
    """

    @override
    def __repr__(self) -> str:
        return short(self)


# ── reasoning state, citations, cache marks ──────────────────────────────────────────────────────────────────────────


class Seal(Record, frozen=True, kw_only=True):
    """A vendor's opaque reasoning state, and the issuer that can open it."""

    issuer: str
    """The route that made it and alone can read it: `anthropic`, `openai`, `gemini`, or one provider's own name."""
    kind: Literal["signature", "encrypted", "redacted"]
    data: str
    model: str | None = None
    item_id: str | None = None
    format: str | None = None
    """The issuer's name for the format of its state, sent back with it (routers name the vendor behind them)."""


class Citation(Record, frozen=True, kw_only=True):
    """The source of a span of text. `start` and `end` are code points within their text part."""

    kind: Literal["url", "document", "file", "place"] = "url"
    url: str | None = None
    title: str | None = None
    cited_text: str | None = None
    start: int | None = None
    end: int | None = None
    source: str | None = None
    extras: Extras = EMPTY


class CacheMark(Record, frozen=True, kw_only=True):
    """The end of a prefix to be cached."""

    lifetime: CacheLifetime | None = None


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class PartBase(Record, tag_field="part", frozen=True, kw_only=True):
    """The fields that every part has beside its content."""

    cache_mark: CacheMark | None = None
    seals: tuple[Seal, ...] = ()
    id: str | None = None
    extras: Extras = EMPTY


class Text(PartBase, tag="text", frozen=True, kw_only=True):
    """Text."""

    text: str
    citations: tuple[Citation, ...] = ()


class InlineData(Record, tag_field="source", tag="inline", frozen=True, kw_only=True):
    """The bytes themselves, as base64 text in the standard alphabet with padding."""

    data: str


class Link(Record, tag_field="source", tag="link", frozen=True, kw_only=True):
    """An address that the upstream fetches."""

    url: str


class StoredFile(Record, tag_field="source", tag="file", frozen=True, kw_only=True):
    """A file stored by one vendor; its id is meaningless to others."""

    protocol: str
    id: str


class PlainText(Record, tag_field="source", tag="text", frozen=True, kw_only=True):
    """A document given as its text."""

    text: str


Source: TypeAlias = InlineData | Link | StoredFile | PlainText


class Media(PartBase, tag="media", frozen=True, kw_only=True):
    """An image, audio, a video or a document."""

    kind: MediaKind
    source: Source
    media_type: str | None = None
    name: str | None = None
    """The file's name."""
    title: str | None = None
    detail: Detail | None = None
    context: str | None = None
    transcript: str | None = None


class Reasoning(PartBase, tag="reasoning", frozen=True, kw_only=True):
    """Reasoning: readable text (maybe empty), with its state in `seals`."""

    text: str = ""
    style: Literal["full", "summary"] = "full"
    redacted: bool = False
    raw: bool = False
    """Whether the text is the verbatim reasoning, as open models return it."""


class Refusal(PartBase, tag="refusal", frozen=True, kw_only=True):
    """The text of a model's refusal."""

    text: str
    category: str | None = None


class ToolCall(PartBase, tag="tool_call", frozen=True, kw_only=True):
    """A call of one of the client's tools. `arguments` is JSON text for functions, free text for custom tools."""

    call_id: str
    name: str
    arguments: str = ""
    kind: CallKind = "function"
    namespace: str | None = None
    caller: JSONObject | None = None


class Opaque(PartBase, tag="opaque", frozen=True, kw_only=True):
    """A part that only `protocol` can express, unchanged and in its place."""

    protocol: str
    kind: str
    data: JSONObject


ResultPart: TypeAlias = Text | Media | Opaque


class ToolResult(PartBase, tag="tool_result", frozen=True, kw_only=True):
    """The result of a tool call."""

    call_id: str
    content: tuple[ResultPart, ...] = ()
    name: str | None = None
    is_error: bool = False
    kind: CallKind = "function"


class ServerToolCall(PartBase, tag="server_tool_call", frozen=True, kw_only=True):
    """A call of a hosted tool, which the upstream runs (`web_search`, `url_fetch`...)."""

    call_id: str
    tool: str
    arguments: str = ""
    status: str | None = None


class SearchHit(Record, frozen=True, kw_only=True):
    """One result of a hosted search."""

    url: str
    title: str | None = None
    text: str | None = None
    extras: Extras = EMPTY


class ServerToolResult(PartBase, tag="server_tool_result", frozen=True, kw_only=True):
    """The result of a hosted tool."""

    call_id: str
    tool: str
    hits: tuple[SearchHit, ...] = ()
    content: tuple[Opaque, ...] = ()
    is_error: bool = False


Part: TypeAlias = (
    Text | Media | Reasoning | Refusal | ToolCall | ToolResult | ServerToolCall | ServerToolResult | Opaque
)


class Message(Record, frozen=True, kw_only=True):
    """A message: a turn or an instruction."""

    role: Role
    parts: tuple[Part, ...]
    authority: Authority | None = None
    """For the role `system`: which of the two role names the client used."""
    name: str | None = None
    phase: Phase | None = None
    expires: str | None = None
    id: str | None = None
    extras: Extras = EMPTY


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Grammar(Record, frozen=True, kw_only=True):
    """The grammar of a custom tool's input."""

    syntax: str
    definition: str


class Tool(Record, frozen=True, kw_only=True):
    """A tool that the model may use. `parameters` is always JSON Schema 2020-12."""

    name: str
    description: str | None = None
    parameters: JSONObject | None = None
    kind: Literal["function", "custom", "server"] = "function"
    strict: bool | None = None
    """None: not set by the client."""
    grammar: Grammar | None = None
    namespace: str | None = None
    deferred: bool = False
    shows_images: bool = False
    """Whether its results are images, which a model without image input cannot use."""
    settings: JSONObject | None = None
    cache_mark: CacheMark | None = None
    extras: Extras = EMPTY


class ToolChoice(Record, frozen=True, kw_only=True):
    """Whether the model must call a tool; a named choice is `required` with one name, an allowed list has several."""

    mode: Literal["auto", "none", "required"] = "auto"
    only: tuple[str, ...] = ()
    parallel: bool | None = None
    given: bool = False
    """Whether the client set a mode."""


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Sampling(Record, frozen=True, kw_only=True):
    """How the next token is sampled; None: not set by the client."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    logprobs: int | None = None
    """How many alternatives per token; 0: the chosen tokens only."""


class ReasoningOptions(Record, frozen=True, kw_only=True):
    """How much reasoning to do, and how much of it to return."""

    effort: Effort | None = None
    budget_tokens: int | None = None
    """-1: the model decides."""
    visible: Visibility | None = None


class OutputFormat(Record, frozen=True, kw_only=True):
    """The format of the answer."""

    kind: Literal["text", "json", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema: JSONObject | None = None
    strict: bool | None = None
    verbosity: str | None = None
    modalities: tuple[str, ...] = ()


class CacheOptions(Record, frozen=True, kw_only=True):
    """Prompt caching for the request as a whole."""

    key: str | None = None
    automatic: bool | None = None
    lifetime: CacheLifetime | None = None


class ServiceTier(StrEnum):
    """The service tier: the upstream's priority and price class."""

    AUTO = "auto"
    STANDARD = "standard"
    FLEX = "flex"
    PRIORITY = "priority"
    FAST = "fast"
    SCALE = "scale"
    ULTRAFAST = "ultrafast"


class Request(Record, frozen=True, kw_only=True):
    """The protocol-neutral request."""

    protocol: str
    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    output: OutputFormat = OutputFormat()
    reasoning: ReasoningOptions = ReasoningOptions()
    sampling: Sampling = Sampling()
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    candidates: int = 1
    stream: bool = False
    include_usage: bool = True
    cache: CacheOptions = CacheOptions()
    end_user: str | None = None
    metadata: Mapping[str, str] = EMPTY
    service_tier: ServiceTier | None = None
    continues: str | None = None
    store: bool | None = None
    version: str | None = None
    """The protocol's version that the client sent (`anthropic-version`)."""
    betas: tuple[str, ...] = ()
    extras: Extras = EMPTY


# ── the answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


class FinishReason(StrEnum):
    """Why a candidate ended."""

    STOP = "stop"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    PAUSE = "pause"
    MALFORMED_CALL = "malformed_call"
    COMPACTION = "compaction"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Finish(Record, frozen=True, kw_only=True):
    """The finish reason, with the vendor's own value in `native`."""

    reason: FinishReason
    native: str | None = None
    stop_sequence: str | None = None
    message: str | None = None
    category: str | None = None
    resume: JSONObject | None = None
    """For a pause: the fields that continue the same request; None: it continues when the turn is sent back."""
    continue_once: bool = False
    """For a pause: whether a second continuation is futile, because the upstream pauses at the same point."""


MOST_CANDIDATES = 1_024
"""The maximum in one answer or one event of a stream; more is a protocol error."""
MOST_CALLS = 1_024
"""The maximum of tool calls in one message or event."""
MOST_PARTS = 10_000
"""The maximum of parts in one answer."""
MOST_TOKENS = 10**9
"""A larger number is no plausible token count of one answer; limits and metrics compute with counts."""


class Usage(Record, frozen=True, kw_only=True):
    """Token counts as the upstream reported them. Cache reads and writes are part of `input`, reasoning of `output`."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    """All tokens written to the cache, of every lifetime."""
    cache_write_long: int = 0
    """The part of `cache_write` with a lifetime of an hour or longer."""
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0
    server_tool_calls: Mapping[str, int] = EMPTY
    estimated: bool = False
    extras: Extras = EMPTY

    @property
    def total(self) -> int:
        """All tokens, in and out."""
        return self.input + self.output


_COUNTS = tuple(field.name for field in msgspec.structs.fields(Usage) if field.type is int)


def sum_usage(usages: Sequence[Usage]) -> Usage:
    """Add the usage of several responses. Vendors' own objects are left out, because each describes one response."""
    counts = {name: sum(getattr(usage, name) for usage in usages) for name in _COUNTS}
    tools: Counter[str] = Counter()
    for usage in usages:
        tools.update(usage.server_tool_calls)
    estimated = any(usage.estimated for usage in usages)
    return Usage(**counts, server_tool_calls=tools or EMPTY, estimated=estimated)


class TokenLogprob(Record, frozen=True, kw_only=True):
    """A token's log probability, and the most likely alternatives."""

    token: str
    logprob: float
    token_bytes: tuple[int, ...] | None = None
    top: tuple["TokenLogprob", ...] = ()
    refusal: bool = False


class Candidate(Record, frozen=True, kw_only=True):
    """One candidate of an answer (there are several only if the client requested them)."""

    index: int = 0
    parts: tuple[Part, ...] = ()
    finish: Finish
    logprobs: tuple[TokenLogprob, ...] = ()
    phase: Phase | None = None
    extras: Extras = EMPTY


class Response(Record, frozen=True, kw_only=True):
    """A whole answer.

    `provider`, `request_id`, `attempts` and `warnings` are headers in HTTP; a `Gateway` sets them, and sets `model` to
    the upstream's name of the model that answered.
    """

    id: str
    model: str
    created_at: datetime
    candidates: tuple[Candidate, ...]
    usage: Usage = Usage()
    service_tier: ServiceTier | None = None
    provider: str = ""
    """The configuration's name of the provider that answered."""
    request_id: str = ""
    """Identifies the call in logs and facts."""
    attempts: int = 0
    """The number of requests sent to upstreams for it."""
    warnings: tuple[str, ...] = ()
    """What was dropped or approximated in the request or the answer, such as `dropped:seed`."""
    extras: Extras = EMPTY
    nonce: str = ""
    """Random text unique to this answer, part of every id generated for it (see `UpstreamRequest.nonce`)."""

    @override
    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in ("text", "tool_calls", "model", "provider", "request_id")}
        shown |= {"finish_reason": self.finish_reason, "warnings": self.warnings}
        return assembled(self, {**{name: value for name, value in shown.items() if value}, "usage": self.usage})

    @property
    def text(self) -> str:
        """The text of the first candidate."""
        parts = self.candidates[0].parts if self.candidates else ()
        return "".join(part.text for part in parts if isinstance(part, Text))

    @property
    def reasoning(self) -> str:
        """The readable reasoning of the first candidate."""
        parts = self.candidates[0].parts if self.candidates else ()
        return "".join(part.text for part in parts if isinstance(part, Reasoning))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of the first candidate, in order."""
        parts = self.candidates[0].parts if self.candidates else ()
        return tuple(part for part in parts if isinstance(part, ToolCall))

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first candidate ended."""
        return self.candidates[0].finish.reason if self.candidates else FinishReason.UNKNOWN


# ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────────────


class TextDelta(Small, frozen=True):
    """More text of a text part."""

    type: ClassVar[Literal["text"]] = "text"

    text: str


class ReasoningDelta(Small, frozen=True):
    """More readable reasoning."""

    type: ClassVar[Literal["reasoning"]] = "reasoning"

    text: str


class RefusalDelta(Small, frozen=True):
    """More text of a refusal."""

    type: ClassVar[Literal["refusal"]] = "refusal"

    text: str


class ArgumentsDelta(Small, frozen=True):
    """More of a call's argument text."""

    type: ClassVar[Literal["arguments"]] = "arguments"

    text: str


class MediaDelta(Small, frozen=True):
    """More of audio or an image: base64 text, and its transcript."""

    type: ClassVar[Literal["media"]] = "media"

    data: str = ""
    transcript: str = ""


class CitationDelta(Small, frozen=True):
    """A citation of the text part that is open."""

    type: ClassVar[Literal["citation"]] = "citation"

    citation: Citation


class SealDelta(Small, frozen=True):
    """A part's sealed state, always complete."""

    type: ClassVar[Literal["seal"]] = "seal"

    seal: Seal


class LogprobsDelta(Small, frozen=True):
    """Log probabilities of the tokens since the last such delta."""

    type: ClassVar[Literal["logprobs"]] = "logprobs"

    tokens: tuple[TokenLogprob, ...]


Delta: TypeAlias = (
    TextDelta | ReasoningDelta | RefusalDelta | ArgumentsDelta | MediaDelta | CitationDelta | SealDelta | LogprobsDelta
)


UNDATED = datetime.fromtimestamp(0, UTC)
"""The time of an answer whose upstream gives none; the reader of the wire replaces it."""


class Started(Small, frozen=True):
    """The answer starts. `usage` holds the counts that the upstream has reported so far, if any."""

    type: ClassVar[Literal["started"]] = "started"

    id: str
    model: str
    created_at: datetime
    usage: Usage | None = None
    service_tier: ServiceTier | None = None
    extras: Extras = EMPTY
    nonce: str = ""
    """See `Response.nonce`."""


class PartStarted(Small, frozen=True):
    """A part starts: ids and names are known; its content is empty, or already whole."""

    type: ClassVar[Literal["part_started"]] = "part_started"

    candidate: int
    index: int
    part: Part


class PartDelta(Small, frozen=True):
    """More of an open part."""

    type: ClassVar[Literal["part_delta"]] = "part_delta"

    candidate: int
    index: int
    delta: Delta


class PartEnded(Small, frozen=True):
    """A part is complete. `part` is given for calls, sealed parts and what the vendor restated; else fold it."""

    type: ClassVar[Literal["part_ended"]] = "part_ended"

    candidate: int
    index: int
    part: Part | None = None


class Finished(Small, frozen=True):
    """A candidate is complete."""

    type: ClassVar[Literal["finished"]] = "finished"

    candidate: int
    finish: Finish


class UsageReported(Small, frozen=True):
    """A snapshot of the usage so far; a later one replaces it."""

    type: ClassVar[Literal["usage"]] = "usage"

    usage: Usage


class Failed(Small, frozen=True, gc=True):
    """The stream failed. The last event of its stream."""

    type: ClassVar[Literal["failed"]] = "failed"

    error: GatewayError


class Ended(Small, frozen=True):
    """The stream ended successfully. The last event of its stream.

    A `Gateway` sets the fields that it sets in `Response`.
    """

    type: ClassVar[Literal["ended"]] = "ended"

    service_tier: ServiceTier | None = None
    model: str = ""
    provider: str = ""
    request_id: str = ""
    attempts: int = 0
    warnings: tuple[str, ...] = ()


class Passed(Small, frozen=True):
    """A frame without a protocol-neutral form, for clients of the same protocol."""

    type: ClassVar[Literal["passed"]] = "passed"

    protocol: str
    name: str | None
    data: bytes


StreamEvent: TypeAlias = (
    Started | PartStarted | PartDelta | PartEnded | Finished | UsageReported | Failed | Ended | Passed
)


class Batch(Small, frozen=True, gc=True):
    """The events that one upstream read completed, or in a passthrough the bytes of the frames that it completed.

    In a translation `raw` is None and `events` holds everything. In a passthrough `events` holds only what the gateway
    must act on: the first frame, usage, finishes, `Failed` and `Ended`.
    """

    events: Sequence[StreamEvent]
    raw: bytes | None = None
