"""What one half writes the other reads: the same conversation, the same answer, whole or streamed, at every split."""

from collections.abc import Sequence

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmproxy_asgi.conversation import (
    EMPTY,
    CacheLifetime,
    CacheMark,
    Candidate,
    FinishReason,
    Link,
    Media,
    Message,
    Part,
    Reasoning,
    Refusal,
    Request,
    Response,
    Seal,
    StreamEvent,
    Text,
    TokenLogprob,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
)
from llmproxy_asgi.translators.assemble import fold
from support.conversations import event_rows, requests, responses
from support.wires.openai_chat import INBOUND, OUTBOUND, inbound_request, read, upstream, upstream_request

ASKING = inbound_request(stream=True, n=2, stream_options={"include_usage": True})


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def essence(response: Response) -> object:
    """What of an answer this protocol can say, in one fixed order."""
    return [_candidate(candidate) for candidate in response.candidates], _usage(response.usage)


def _candidate(candidate: Candidate) -> object:
    parts = candidate.parts
    text = "".join(part.text for part in parts if isinstance(part, Text))
    calls = sorted(
        (
            part.call_id,
            part.name,
            part.kind,
            part.arguments or ("" if part.kind == "custom" else "{}"),
            _seals(part.seals),
        )
        for part in parts
        if isinstance(part, ToolCall)
    )
    thoughts = _thoughts([part for part in parts if isinstance(part, Reasoning)])
    thoughts += [("", _seals(part.seals)) for part in parts if isinstance(part, Text) and part.seals]
    return (
        text,
        _refusal(candidate, text),
        calls,
        _said(thoughts),
        _finish(candidate, text),
        _spelled(candidate.logprobs),
    )


def _spelled(tokens: tuple[TokenLogprob, ...]) -> list[tuple[str, float, tuple[int, ...]]]:
    """Tokens have their alternatives; missing bytes are those of the text."""
    flat = [each for token in tokens for each in (token, *token.top)]
    return [(each.token, each.logprob, each.token_bytes or tuple(each.token.encode())) for each in flat]


def _said(thoughts: Sequence[tuple[str, object]]) -> object:
    return sorted((text, str(seals)) for text, seals in thoughts if text or seals)


def _thoughts(parts: Sequence[Reasoning]) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """Encrypted state without text joins the unsealed text before it: an entry has no other tie to its text."""
    joined: list[Reasoning] = []
    for part in parts:
        encrypted = bool(part.seals) and part.seals[0].kind != "signature"
        if encrypted and not part.text and joined and joined[-1].text and not joined[-1].seals:
            part = Reasoning(text=joined.pop().text, seals=part.seals)  # noqa: PLW2901 - one part on the wire
        joined.append(part)
    return sorted((part.text, _seals(part.seals)) for part in joined)


def _seals(seals: tuple[Seal, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((seal.issuer, seal.data) for seal in seals)


def _refusal(candidate: Candidate, text: str) -> str:
    said = "".join(part.text for part in candidate.parts if isinstance(part, Refusal))
    explained = candidate.finish.reason is FinishReason.REFUSAL and not text
    return said or ((candidate.finish.message or "") if explained else "")


def _finish(candidate: Candidate, text: str) -> str:
    """The finish as this protocol can say it."""
    refused = any(isinstance(part, Refusal) for part in candidate.parts) or bool(_refusal(candidate, text))
    called = any(isinstance(part, ToolCall) for part in candidate.parts)
    match candidate.finish.reason:
        case FinishReason.LENGTH | FinishReason.CONTEXT_LENGTH:
            return "length"
        case FinishReason.CONTENT_FILTER:
            return "content_filter"
        case FinishReason.REFUSAL if not refused:
            return "content_filter"
        case _:
            return "call" if called else "stop"


def _usage(usage: Usage) -> object:
    counts = msgspec.structs.replace(usage, extras=EMPTY, server_tool_calls=EMPTY, cache_write_long=0, estimated=False)
    return msgspec.structs.asdict(counts)


@settings(max_examples=120)
@given(responses(kinds=("text", "reasoning", "refusal", "tool_call"), with_extras=False))
def test_a_whole_answer_survives(response: Response) -> None:
    """An answer that one half writes is read by the other with all that this protocol can say."""
    found = OUTBOUND.decode(
        INBOUND.encode(response, ASKING), upstream_request(), upstream(), received_at=response.created_at
    )
    assert essence(found) == essence(response)
    assert found.created_at == response.created_at


@settings(max_examples=120)
@given(event_rows(), st.data())
def test_a_stream_survives_at_every_split(row: list[StreamEvent], data: st.DataObject) -> None:
    """A stream that one half writes is read by the other as the answer it tells, cut anywhere."""
    content = INBOUND.encoder(ASKING).feed(row)
    cut = data.draw(st.integers(0, len(content)))
    found = fold(read(OUTBOUND.decoder(upstream_request(), upstream()), content[:cut], content[cut:]))
    assert _streamed(found) == _streamed(fold(row))


def _streamed(response: Response) -> object:
    """What of an answer a stream of this protocol can say."""
    return [
        (
            "".join(part.text for part in candidate.parts if isinstance(part, Text)),
            sorted(
                (part.call_id, part.name, part.kind, part.arguments or ("" if part.kind == "custom" else "{}"))
                for part in candidate.parts
                if isinstance(part, ToolCall)
            ),
            sorted(
                (seal.issuer, seal.data)
                for part in candidate.parts
                if not isinstance(part, Refusal)
                for seal in part.seals
            ),
        )
        for candidate in response.candidates
    ]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def normal(request: Request) -> Request:
    """A request as this protocol can say it."""
    messages = tuple(each for message in request.messages if (each := _message(message)) is not None)
    return msgspec.structs.replace(
        request,
        protocol="openai-chat",
        model="big-1",
        messages=messages,
        tool_choice=request.tool_choice if request.tools else ToolChoice(),
        include_usage=request.stream,
        extras=EMPTY,
        version=None,
        betas=(),
    )


def _message(message: Message) -> Message | None:
    parts = tuple(part for each in message.parts for part in _part(each))
    if message.role == "assistant":
        text = "".join(part.text for part in parts if isinstance(part, Text))
        calls = [part for part in parts if isinstance(part, ToolCall)]
        parts = (*((Text(text=text),) if text else ()), *calls)
    if not parts:
        return None
    return Message(role=message.role, parts=parts, authority=message.authority, name=message.name)


def _part(part: Part) -> tuple[Part, ...]:
    match part:
        case Reasoning():
            return ()
        case ToolCall():
            return (msgspec.structs.replace(part, arguments=part.arguments or "{}", seals=()),)
        case ToolResult():
            words = "".join(inner.text for inner in part.content if isinstance(inner, Text))
            prefix = "[tool error] " if part.is_error else ""
            return (ToolResult(call_id=part.call_id, content=(Text(text=prefix + words),)),)
        case Text(text=""):
            return ()
        case Media(source=Link()):  # an address tells no type
            return (_marked(msgspec.structs.replace(part, media_type=None)),)
        case _:
            return (_marked(part),)


def _marked(part: Part) -> Part:
    """The part with the lifetime of its mark as this protocol counts them."""
    if part.cache_mark is None:
        return part
    lifetimes: dict[CacheLifetime | None, CacheLifetime | None] = {"5m": "30m", "1h": "12h", "24h": "12h"}
    lifetime = part.cache_mark.lifetime
    return msgspec.structs.replace(part, cache_mark=CacheMark(lifetime=lifetimes.get(lifetime, lifetime)))


@settings(max_examples=120)
@given(requests())
def test_a_request_survives(made: Request) -> None:
    """A request that one half writes is read by the other with all that this protocol can say."""
    marked = [part for each in made.messages for part in each.parts if getattr(part, "cache_mark", None)]
    assume(len(marked) <= 4)  # of more, Chat takes the last four
    sent = OUTBOUND.encode(made, upstream())
    found = INBOUND.decode(INBOUND.open(sent.body, headers={}))
    assert normal(found).messages == normal(made).messages
    rest = ("tools", "tool_choice", "sampling", "max_output_tokens", "stop", "stream", "output", "candidates")
    for name in rest:
        assert getattr(normal(found), name) == getattr(normal(made), name), name
    dropped = any(isinstance(part, Reasoning) for each in made.messages for part in each.parts)
    assert ("dropped:reasoning" in sent.warnings) == dropped
