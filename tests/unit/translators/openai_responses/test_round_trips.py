"""What one half writes the other reads: the same conversation, the same answer, whole or streamed, at every split."""

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    EMPTY,
    CacheLifetime,
    CacheMark,
    Candidate,
    Ended,
    Finish,
    Finished,
    FinishReason,
    InlineData,
    Link,
    Media,
    Message,
    Part,
    PartDelta,
    PartEnded,
    PartStarted,
    Reasoning,
    Refusal,
    Request,
    Response,
    Seal,
    SealDelta,
    StreamEvent,
    Text,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
)
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.assemble import fold
from support.conversations import event_rows, requests, responses
from support.wires.openai_responses import (
    INBOUND,
    OUTBOUND,
    STARTED,
    accumulated,
    helped,
    inbound_request,
    read,
    upstream,
    upstream_request,
)

ASKING = inbound_request(stream=True)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def essence(response: Response) -> object:
    """What of an answer this protocol can say, in order."""
    candidate = response.candidates[0]
    return [said for part in candidate.parts for said in _part_said(part)], _finish(candidate), _usage(response.usage)


def _part_said(part: Part) -> list[object]:
    match part:
        case Text():
            return [("text", part.text, [(cited.url, cited.title) for cited in part.citations])]
        case Refusal():
            return [("refusal", part.text)]
        case Reasoning():
            return [("thought", part.text, _seals(part.seals))]
        case ToolCall():
            return [("call", part.call_id, part.name, part.kind, part.arguments)]
        case Media(source=InlineData(data=data)):
            return [("picture", data)]
        case _:
            return []


def _seals(seals: tuple[Seal, ...]) -> list[tuple[str, str]]:
    return [(seal.issuer, seal.data) for seal in seals]


def _finish(candidate: Candidate) -> str:
    if candidate.finish.reason is FinishReason.LENGTH:
        return "length"
    if any(isinstance(part, ToolCall) for part in candidate.parts):
        return "call"
    return "refusal" if any(isinstance(part, Refusal) for part in candidate.parts) else "stop"


def _usage(usage: Usage) -> object:
    return msgspec.structs.asdict(msgspec.structs.replace(usage, extras=EMPTY))


def _spelled(tokens: tuple[TokenLogprob, ...]) -> list[tuple[str, float, tuple[int, ...]]]:
    """Tokens have their alternatives; missing bytes are those of the text."""
    flat = [each for token in tokens for each in (token, *token.top)]
    return [(each.token, each.logprob, each.token_bytes or tuple(each.token.encode())) for each in flat]


@settings(max_examples=150)
@given(responses(candidates=1))
def test_a_whole_answer_survives(response: Response) -> None:
    """An answer that one half writes is read by the other with all that this protocol can say."""
    content = INBOUND.encode(response, ASKING)
    found = OUTBOUND.decode(content, upstream_request(), upstream(), received_at=response.created_at)
    assert essence(found) == essence(response)
    assert found.created_at == response.created_at
    if _begins_with_text(response):
        assert _spelled(found.candidates[0].logprobs) == _spelled(response.candidates[0].logprobs)


def _begins_with_text(response: Response) -> bool:
    """Whether probabilities, which come with the first part, have a text to stand in."""
    parts = response.candidates[0].parts
    return bool(parts) and isinstance(parts[0], Text)


SEAL = Seal(issuer="openai", kind="encrypted", data="AA==")
OVERLAPPING: list[StreamEvent] = [
    STARTED,
    PartStarted(0, 0, Text(text="a")),
    PartEnded(0, 0),
    PartStarted(0, 1, Text(text="")),
    PartStarted(0, 2, Reasoning()),
    PartDelta(0, 2, SealDelta(SEAL)),
    PartDelta(0, 1, TextDelta("b")),
    PartEnded(0, 2, Reasoning(seals=(SEAL,))),
    PartEnded(0, 1),
    Finished(0, Finish(reason=FinishReason.STOP)),
    Ended(),
]
"""Reasoning that has only a seal starts while a text is open that has no words yet."""


@settings(max_examples=150)
@given(event_rows(), st.integers(0, 10_000))
@example(OVERLAPPING, 0)
def test_a_stream_survives_at_every_split(row: list[StreamEvent], at: int) -> None:
    """A stream that one half writes is read by the other as the answer it tells, cut anywhere."""
    content = INBOUND.encoder(ASKING).feed(row)
    cut = at % (len(content) + 1)
    found = fold(read(OUTBOUND.decoder(upstream_request(), upstream()), content[:cut], content[cut:]))
    assert sorted(map(str, _said(found))) == sorted(map(str, _said(fold(row))))
    assert _finish(found.candidates[0]) == _finish(fold(row).candidates[0])


def _said(response: Response) -> list[object]:
    return [said for part in response.candidates[0].parts for said in _part_said(part)]


@settings(max_examples=60, deadline=None)
@given(event_rows())
def test_the_official_helper_reads_every_stream(row: list[StreamEvent]) -> None:
    """Whatever legal row is written, the official stream helper accumulates the same answer."""
    content = INBOUND.encoder(ASKING).feed(row)
    whole = fold(row)
    texts = "".join(part.text for part in whole.candidates[0].parts if isinstance(part, Text))
    if whole.candidates[0].finish.reason is FinishReason.LENGTH:
        assert helped(content)[-1].type == "response.incomplete"
    else:
        assert accumulated(content).output_text == texts


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def normal(request: Request) -> Request:
    """A request as this protocol can say it."""
    messages = tuple(each for message in request.messages if (each := _message(message)) is not None)
    limit = request.max_output_tokens
    return msgspec.structs.replace(
        request,
        protocol="openai-responses",
        model="big-1",
        messages=messages,
        tool_choice=request.tool_choice if request.tools else ToolChoice(),
        tools=tuple(msgspec.structs.replace(tool, strict=bool(tool.strict)) for tool in request.tools),
        max_output_tokens=max(limit, 16) if limit is not None else None,
        stop=(),
    )


def _message(message: Message) -> Message | None:
    parts = tuple(part for each in message.parts for part in _part(each))
    return Message(role=message.role, parts=parts, authority=message.authority) if parts else None


def _part(part: Part) -> tuple[Part, ...]:
    match part:
        case Reasoning():
            return ()
        case ToolCall():
            return (msgspec.structs.replace(part, arguments=part.arguments or "{}", seals=(), id=None),)
        case ToolResult():
            words = "".join(inner.text for inner in part.content if isinstance(inner, Text))
            prefix = "[tool error] " if part.is_error else ""
            return (ToolResult(call_id=part.call_id, content=(Text(text=prefix + words),)),)
        case Media(source=Link()):  # an address tells no type
            return (_marked(msgspec.structs.replace(part, media_type=None, detail="auto")),)
        case Media():
            return (_marked(msgspec.structs.replace(part, detail="auto")),)
        case _:
            return (_marked(part),)


def _marked(part: Part) -> Part:
    """The part with the lifetime of its mark as this protocol counts them."""
    if part.cache_mark is None:
        return part
    lifetimes: dict[CacheLifetime | None, CacheLifetime | None] = {"5m": "30m", "1h": "12h", "24h": "12h"}
    lifetime = part.cache_mark.lifetime
    return msgspec.structs.replace(part, cache_mark=CacheMark(lifetime=lifetimes.get(lifetime, lifetime)))


@settings(max_examples=150)
@given(requests())
def test_a_request_survives(made: Request) -> None:
    """A request that one half writes is read by the other with all that this protocol can say."""
    sent = OUTBOUND.encode(made, upstream())
    assert sent == OUTBOUND.encode(made, upstream())
    found = INBOUND.decode(INBOUND.open(sent.body, headers={}))
    assert _loose(normal(found).messages) == _loose(normal(made).messages)
    for name in ("tools", "tool_choice", "sampling", "max_output_tokens", "stream", "output", "candidates"):
        assert getattr(normal(found), name) == getattr(normal(made), name), name


def _loose(messages: tuple[Message, ...]) -> list[tuple[str, str | None, tuple[Part, ...]]]:
    """Turns with neighbours of the model's side as one: items are flat."""
    rows: list[tuple[str, str | None, tuple[Part, ...]]] = []
    for message in messages:
        if rows and rows[-1][0] == message.role == "assistant":
            before = rows.pop()
            rows.append(("assistant", None, (*before[2], *message.parts)))
        else:
            rows.append((message.role, message.authority, message.parts))
    return rows


@settings(max_examples=80)
@given(st.binary(max_size=200))
def test_no_body_makes_open_raise_anything_else(body: bytes) -> None:
    """Whatever is sent, it is opened or refused."""
    _try(body)


_WORDS = st.sampled_from(
    [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "input_text",
        "input_image",
        "input_file",
        "output_text",
        "web_search_call",
        "user",
        "assistant",
        "developer",
        "auto",
        "json_schema",
        "x",
    ]
)
_KEYS = st.sampled_from(
    [
        "type",
        "role",
        "content",
        "text",
        "call_id",
        "name",
        "output",
        "arguments",
        "summary",
        "id",
        "tools",
        "encrypted_content",
        "image_url",
        "file_data",
        "format",
        "schema",
        "mode",
        "phase",
        "action",
    ]
)
_FIELDS = st.sampled_from(
    [
        "input",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "include",
        "metadata",
        "top_logprobs",
        "truncation",
        "previous_response_id",
        "service_tier",
        "prompt_cache_options",
        "store",
        "instructions",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(_FIELDS, _JSON, max_size=4))
def test_no_request_makes_decode_raise_anything_else(fields: dict[str, object]) -> None:
    """Whatever JSON is sent, it is read or refused with the field's name."""
    _try(msgspec.json.encode({"model": "m", "input": "x", **fields}))


def _try(body: bytes) -> None:
    """Read a body; a refusal names its field."""
    refusal: BadRequest | None = None
    try:
        INBOUND.decode(INBOUND.open(body, headers={}))
    except BadRequest as error:
        refusal = error
    assert refusal is None or refusal.param or refusal.code == "invalid_json"
