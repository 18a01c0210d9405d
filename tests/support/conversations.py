"""Strategies for everything in `conversation.py` that a translator reads or writes.

All of it is legal: calls are answered right after their step, event rows satisfy the grammar, an answer that holds
calls and ended by itself says so. Take from a strategy what your protocol knows by naming the kinds::

    @given(responses(kinds={"text", "tool_call"}, candidates=1))
    def test_(response: Response) -> None: ...

Names and call ids have the plainest form, which every vendor takes, so that nothing needs renaming. Strategies are
made once and kept: making them costs far more than drawing from them.
"""

from base64 import b64encode
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from llmproxy_asgi.conversation import (
    EMPTY,
    ArgumentsDelta,
    CacheMark,
    Candidate,
    Citation,
    CitationDelta,
    Delta,
    Ended,
    Failed,
    Finish,
    Finished,
    FinishReason,
    InlineData,
    Link,
    LogprobsDelta,
    Media,
    Message,
    Opaque,
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    Passed,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Request,
    Response,
    Sampling,
    Seal,
    SealDelta,
    Started,
    StreamEvent,
    Text,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
    UsageReported,
)
from llmproxy_asgi.errors import UpstreamError, UpstreamFailed, UpstreamOverloaded

PartKind = Literal["text", "citations", "reasoning", "refusal", "tool_call", "media", "opaque"]
ANSWER_KINDS: frozenset[PartKind] = frozenset(
    ("text", "citations", "reasoning", "refusal", "tool_call", "media", "opaque")
)

_LETTERS = st.text("abcXYZ019", min_size=1, max_size=6)


@cache
def texts(*, min_size: int = 1) -> SearchStrategy[str]:
    """Any text that UTF-8 can carry, with what breaks careless framing drawn often."""
    plain = st.text(st.characters(exclude_categories=["Cs"]), min_size=min_size, max_size=40)
    nasty = st.sampled_from(
        ["\r\n\r\n", "\n\ndata: x\n\n", '"model":"m"', "\u2028\u0085", "😀é", "\\", "[DONE]", "\x00"]
    )
    return plain | nasty


@cache
def names() -> SearchStrategy[str]:
    """Tool names that are legal everywhere."""
    return st.tuples(st.sampled_from(["get", "Find", "x-y", "a_b"]), _LETTERS).map("_".join)


@cache
def call_ids() -> SearchStrategy[str]:
    """Call ids that are legal everywhere."""
    return _LETTERS.map("call_".__add__)


@cache
def json_values() -> SearchStrategy[Any]:
    """JSON values, shallow."""
    leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts(min_size=0)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3))


@cache
def json_objects() -> SearchStrategy[dict[str, Any]]:
    """JSON objects, shallow."""
    return st.dictionaries(texts(), json_values(), max_size=3)


@cache
def arguments() -> SearchStrategy[str]:
    """Arguments of function calls as a careful model writes them: the text of a JSON object, spacing of any kind."""
    compact = json_objects().map(lambda value: msgspec.json.encode(value).decode())
    return compact | st.sampled_from(["{}", '{"city": "Köln"}', '{ "a" : 1.10 }'])


@cache
def base64_texts(*, min_size: int = 1) -> SearchStrategy[str]:
    """Standard base64 with padding."""
    return st.binary(min_size=min_size, max_size=30).map(lambda data: b64encode(data).decode())


@cache
def seals(issuers: Sequence[str] = ("anthropic", "openai", "gemini")) -> SearchStrategy[Seal]:
    """Sealed reasoning state."""
    return st.builds(
        Seal,
        issuer=st.sampled_from(issuers),
        kind=st.sampled_from(["signature", "encrypted", "redacted"]),
        data=base64_texts(),
        model=st.none() | names(),
        item_id=st.none() | _LETTERS.map("rs_".__add__),
    )


@cache
def cache_marks() -> SearchStrategy[CacheMark | None]:
    """Mostly none."""
    return st.none() | st.builds(CacheMark, lifetime=st.sampled_from([None, "5m", "1h"]))


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _citations(text: str) -> SearchStrategy[tuple[Citation, ...]]:
    one = st.builds(
        Citation,
        url=st.sampled_from(["https://example.org/a", "https://example.org/b"]),
        title=st.none() | texts(),
        start=st.just(0),
        end=st.just(len(text)),
    )
    return st.lists(one, max_size=2).map(tuple)


@cache
@st.composite
def answer_texts(draw: DrawFn, *, cited: bool = False) -> Text:
    """A text of the model."""
    text = draw(texts())
    return Text(text=text, citations=draw(_citations(text)) if cited else ())


@cache
def reasoning(*, sealed: bool = True) -> SearchStrategy[Reasoning]:
    """Reasoning that is readable, sealed, or both."""
    sealing = st.lists(seals(), max_size=1).map(tuple) if sealed else st.just(())
    whole = st.builds(Reasoning, text=texts(min_size=0 if sealed else 1), seals=sealing)
    return whole.filter(lambda part: bool(part.text or part.seals))


@cache
def tool_calls() -> SearchStrategy[ToolCall]:
    """A function call."""
    return st.builds(ToolCall, call_id=call_ids(), name=names(), arguments=arguments())


@cache
def pictures() -> SearchStrategy[Media]:
    """An image, inline or by its address."""
    inline = st.builds(InlineData, data=base64_texts())
    return st.builds(Media, kind=st.just("image"), source=inline | st.just(Link(url="https://example.org/i.png"))).map(
        lambda media: msgspec.structs.replace(media, media_type="image/png")
    )


@cache
def _answer_part(kind: PartKind) -> SearchStrategy[Part]:
    match kind:
        case "text":
            return answer_texts()
        case "citations":
            return answer_texts(cited=True)
        case "reasoning":
            return reasoning()
        case "refusal":
            return st.builds(Refusal, text=texts())
        case "tool_call":
            return tool_calls()
        case "media":
            return pictures()
        case "opaque":
            return st.builds(Opaque, protocol=st.just("made-up"), kind=st.just("thing"), data=json_objects())


def answer_parts(kinds: Collection[PartKind] = ANSWER_KINDS) -> SearchStrategy[tuple[Part, ...]]:
    """The parts of one candidate, no two calls with one id."""
    return _answer_parts(frozenset(kinds))


@cache
def _answer_parts(kinds: frozenset[PartKind]) -> SearchStrategy[tuple[Part, ...]]:
    one = st.one_of([_answer_part(kind) for kind in sorted(kinds)])
    return st.lists(one, max_size=5).map(_distinct)


def _distinct(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts without calls whose id an earlier one has."""
    seen: set[str] = set()
    kept: list[Part] = []
    for part in parts:
        if isinstance(part, ToolCall):
            if part.call_id in seen:
                continue
            seen.add(part.call_id)
        kept.append(part)
    return tuple(kept)


def finishes(parts: Sequence[Part]) -> SearchStrategy[Finish]:
    """A finish that is true of these parts."""
    called = any(isinstance(part, ToolCall) for part in parts)
    itself = FinishReason.TOOL_CALLS if called else FinishReason.STOP
    return st.builds(Finish, reason=st.sampled_from([itself, itself, itself, FinishReason.LENGTH]))


@cache
def logprobs() -> SearchStrategy[tuple[TokenLogprob, ...]]:
    """The probabilities of a few tokens."""
    number = st.floats(-20, 0, allow_nan=False)
    flat = st.builds(TokenLogprob, token=texts(), logprob=number)
    one = st.builds(TokenLogprob, token=texts(), logprob=number, top=st.lists(flat, max_size=2).map(tuple))
    return st.lists(one, min_size=1, max_size=3).map(tuple)


@cache
@st.composite
def usages(draw: DrawFn) -> Usage:
    """Counts that add up: shares lie inside their totals."""
    fresh, read, written = draw(st.tuples(*[st.integers(0, 10_000)] * 3))
    thought, said = draw(st.tuples(*[st.integers(0, 10_000)] * 2))
    return Usage(
        input=fresh + read + written,
        output=thought + said,
        cache_read=read,
        cache_write=written,
        reasoning=thought,
    )


@st.composite
def responses(
    draw: DrawFn,
    *,
    kinds: Collection[PartKind] = ANSWER_KINDS,
    candidates: int = 2,
    with_logprobs: bool = True,
    with_extras: bool = True,
) -> Response:
    """A whole answer, by its finish true to its parts.

    Args:
        draw: Hypothesis's own.
        kinds: What the parts may be.
        candidates: The most there may be.
        with_logprobs: Whether candidates may carry log probabilities.
        with_extras: Whether the answer may carry what the vocabulary has no word for.
    """
    made = []
    for index in range(draw(st.integers(1, candidates))):
        parts = draw(answer_parts(kinds))
        tokens = draw(st.just(()) | logprobs()) if with_logprobs and parts else ()
        made.append(Candidate(index=index, parts=parts, finish=draw(finishes(parts)), logprobs=tokens))
    return Response(
        id=draw(_LETTERS.map("answer_".__add__)),
        model=draw(names()),
        created_at=draw(moments()),
        candidates=tuple(made),
        usage=draw(usages()),
        extras=draw(st.sampled_from([EMPTY, {"made-up": {"a": [1]}}])) if with_extras else EMPTY,
    )


@cache
def moments() -> SearchStrategy[datetime]:
    """Whole seconds, as protocols count them."""
    return st.integers(1_600_000_000, 2_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pieces(draw: DrawFn, text: str) -> list[str]:
    """The text, cut somewhere; now and then with an empty piece, as upstreams send them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _told(draw: DrawFn, number: int, index: int, part: Part) -> list[StreamEvent]:
    """One part as a row of its own."""
    header: Part = part
    deltas: list[Delta] = []
    match part:
        case Text():
            header = msgspec.structs.replace(part, text="", citations=(), seals=())
            deltas = [TextDelta(piece) for piece in _pieces(draw, part.text)]
            deltas += [CitationDelta(citation) for citation in part.citations]
        case Reasoning():
            header = msgspec.structs.replace(part, text="", seals=())
            deltas = [ReasoningDelta(piece) for piece in _pieces(draw, part.text)]
        case Refusal():
            header = msgspec.structs.replace(part, text="", seals=())
            deltas = [RefusalDelta(piece) for piece in _pieces(draw, part.text)]
        case ToolCall():
            header = msgspec.structs.replace(part, arguments="", seals=())
            deltas = [ArgumentsDelta(piece) for piece in _pieces(draw, part.arguments)]
        case _:
            header = msgspec.structs.replace(part, seals=())
    deltas += [SealDelta(seal) for seal in part.seals]
    restated = isinstance(part, ToolCall) or bool(part.seals) or draw(st.booleans())
    return [
        PartStarted(number, index, header),
        *(PartDelta(number, index, delta) for delta in deltas),
        PartEnded(number, index, part if restated else None),
    ]


def _interleaved(draw: DrawFn, rows: Sequence[Sequence[StreamEvent]]) -> list[StreamEvent]:
    """All rows as one; each keeps its order, and the first events of the rows keep theirs."""
    waiting = [list(row) for row in rows]
    running: list[list[StreamEvent]] = []
    woven: list[StreamEvent] = []
    while waiting or running:
        if waiting and (not running or draw(st.booleans())):
            running.append(waiting.pop(0))
            row = running[-1]
        else:
            row = draw(st.sampled_from(running))
        woven.append(row.pop(0))
        running = [left for left in running if left]
    return woven


@st.composite
def event_rows(
    draw: DrawFn, response: Response | None = None, *, overlapping: bool = True, passed: bool = True
) -> list[StreamEvent]:
    """A legal stream of `response` (or of one drawn here) in some pieces and some order.

    Args:
        draw: Hypothesis's own.
        response: What `fold` makes of it.
        overlapping: Whether parts may overlap, as interleaved calls do.
        passed: Whether frames without a meaning may stand between.
    """
    response = draw(responses()) if response is None else response
    candidates = []
    for candidate in response.candidates:
        rows = [_told(draw, candidate.index, index, part) for index, part in enumerate(candidate.parts)]
        if candidate.logprobs:
            rows[0].insert(1, PartDelta(candidate.index, 0, LogprobsDelta(candidate.logprobs)))
        woven = _interleaved(draw, rows) if overlapping else [event for row in rows for event in row]
        candidates.append([*woven, Finished(candidate.index, candidate.finish)])
    body = _interleaved(draw, candidates) if overlapping else [event for row in candidates for event in row]
    early = draw(st.booleans())
    started = Started(
        response.id,
        response.model,
        response.created_at,
        response.usage if early else None,
        response.service_tier,
        response.extras,
    )
    row: list[StreamEvent] = [started, *body]
    if not early or draw(st.booleans()):
        row.insert(draw(st.integers(1, len(row))), UsageReported(Usage(input=response.usage.input)))
        row.append(UsageReported(response.usage))
    row.append(Ended(response.service_tier if draw(st.booleans()) else None))
    if passed:
        for place in draw(st.lists(st.integers(0, len(row) - 1), max_size=2)):
            row.insert(place, Passed("made-up", "ping", b"{}"))
    return row


@cache
def upstream_errors() -> SearchStrategy[UpstreamError]:
    """Errors that an upstream may report in its stream."""
    return st.sampled_from([UpstreamFailed, UpstreamOverloaded]).map(lambda kind: kind("It broke."))


@st.composite
def broken_rows(draw: DrawFn) -> list[StreamEvent]:
    """A legal stream that fails somewhere, maybe at once."""
    row = draw(event_rows())
    return [*row[: draw(st.integers(0, len(row) - 1))], Failed(draw(upstream_errors()))]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def user_parts(*, images: bool = True) -> SearchStrategy[tuple[Part, ...]]:
    """What a user says and shows."""
    said: SearchStrategy[Part] = st.builds(Text, text=texts(), cache_mark=cache_marks())
    return st.lists(said | pictures() if images else said, min_size=1, max_size=3).map(tuple)


def results(call: ToolCall) -> SearchStrategy[ToolResult]:
    """An answer to this call."""
    return st.builds(
        ToolResult,
        call_id=st.just(call.call_id),
        name=st.just(call.name),
        kind=st.just(call.kind),
        content=texts().map(lambda text: (Text(text=text),)),
        is_error=st.booleans(),
    )


@st.composite
def _step(draw: DrawFn, calls: Sequence[ToolCall], *, with_reasoning: bool) -> list[Message]:
    """One step of the model, and all that was given back."""
    parts: list[Part] = [draw(reasoning())] if with_reasoning and draw(st.booleans()) else []
    if not calls or draw(st.booleans()):
        parts.append(Text(text=draw(texts())))
    answered = [Message(role="tool", parts=tuple(draw(results(call)) for call in calls))] if calls else []
    return [Message(role="assistant", parts=(*parts, *calls)), *answered]


@st.composite
def message_rows(
    draw: DrawFn, *, tools: Sequence[Tool] = (), images: bool = True, with_reasoning: bool = True
) -> tuple[Message, ...]:
    """A conversation: instructions, then turns; every call answered, the user or a tool having the last word."""
    rows: list[Message] = []
    if draw(st.booleans()):
        rows.append(Message(role="system", parts=(Text(text=draw(texts())),), authority="system"))
    rows.append(Message(role="user", parts=draw(user_parts(images=images))))
    ids = iter(range(1000))
    for _ in range(draw(st.integers(0, 3))):
        used = draw(st.lists(st.sampled_from(tools), max_size=2)) if tools else []
        calls = [ToolCall(call_id=f"call_{next(ids)}", name=tool.name, arguments=draw(arguments())) for tool in used]
        rows.extend(draw(_step(calls, with_reasoning=with_reasoning)))
        if not calls or draw(st.booleans()):
            rows.append(Message(role="user", parts=draw(user_parts(images=images))))
    return tuple(rows)


@cache
def tool_lists() -> SearchStrategy[tuple[Tool, ...]]:
    """Function tools, no two of one name."""
    schema = st.sampled_from(
        [
            {"type": "object", "properties": {}},
            {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        ]
    )
    one = st.builds(Tool, name=names(), description=st.none() | texts(), parameters=schema)
    return st.lists(one, max_size=3, unique_by=lambda tool: tool.name).map(tuple)


@st.composite
def requests(draw: DrawFn, *, protocol: str = "made-up", images: bool = True, with_reasoning: bool = True) -> Request:
    """A request that every chat protocol can express, but for reasoning state of other issuers.

    Args:
        draw: Hypothesis's own.
        protocol: What it says it came in.
        images: Whether users may show pictures.
        with_reasoning: Whether the history may hold reasoning.
    """
    tools = draw(tool_lists())
    choices = [ToolChoice()]
    if tools:
        choices += [
            ToolChoice(mode="required", given=True),
            ToolChoice(mode="required", only=(tools[0].name,), given=True),
        ]
    return Request(
        protocol=protocol,
        model=draw(names()),
        messages=draw(message_rows(tools=tools, images=images, with_reasoning=with_reasoning)),
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
        sampling=Sampling(temperature=draw(st.sampled_from([None, 0.0, 0.5, 1.0]))),
        max_output_tokens=draw(st.none() | st.integers(1024, 4096)),
        stop=tuple(draw(st.lists(st.sampled_from(["END", "\n\n"]), max_size=2, unique=True))),
        stream=draw(st.booleans()),
    )
