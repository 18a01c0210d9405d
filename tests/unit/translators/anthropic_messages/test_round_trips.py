"""Round trips of requests and responses through both codec halves."""

from collections.abc import Sequence

import msgspec
from hypothesis import assume, given

from llmproxy_asgi.conversation import (
    EMPTY,
    Candidate,
    Finish,
    Message,
    Part,
    Reasoning,
    Request,
    Response,
    Seal,
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.translators.assemble import fold, unfold
from llmproxy_asgi.translators.pairing import arguments_object, drop_empty, merge
from support.conversations import PartKind, requests, responses
from support.wires.messages import (
    INBOUND,
    OUTBOUND,
    RECEIVED_AT,
    drained,
    opened,
    plain_upstream_request,
    upstream,
    written,
)

ROUTE = "claude-upstream-1"


def plain(part: Part, *, marks: bool) -> object:
    """Return a part as Messages can express it: arguments by value, no restated media types or tool names."""
    if not marks:
        part = msgspec.structs.replace(part, cache_mark=None)
    match part:
        case ToolCall():
            return (part.call_id, part.name, arguments_object(part.arguments))
        case ToolResult():
            return (part.call_id, part.content, part.is_error)
        case _:
            return part


def turns(messages: Sequence[Message], *, marks: bool = True) -> list[tuple[str, list[object]]]:
    """Return a conversation in its normal form."""
    kept = merge(drop_empty(messages, blank=True), roles=("system", "user", "assistant", "tool"))
    return [(turn.role, [plain(part, marks=marks) for part in turn.parts]) for turn in kept]


def without_reasoning(messages: Sequence[Message]) -> list[Message]:
    return [
        msgspec.structs.replace(turn, parts=tuple(part for part in turn.parts if not isinstance(part, Reasoning)))
        for turn in messages
    ]


def says_something(asked: Request) -> bool:
    """Return whether no text is only white space, which Anthropic refuses."""
    parts = [part for turn in asked.messages for part in turn.parts]
    inner = [part for result in parts if isinstance(result, ToolResult) for part in result.content]
    return all(not isinstance(part, Text) or part.text.strip() for part in [*parts, *inner])


@given(requests(images=False, with_reasoning=True))
def test_a_request_comes_back(asked: Request) -> None:
    """Keep a request's meaning through encoding and decoding, except for what warnings name."""
    assume(says_something(asked))
    upstream_request = OUTBOUND.encode(asked, upstream(issuer="nobody"))
    inbound_request = INBOUND.open(upstream_request.body, headers=dict(upstream_request.headers))
    found = INBOUND.decode(inbound_request)
    marks = "clamped:cache_breakpoints" not in upstream_request.warnings
    assert turns(found.messages, marks=marks) == turns(without_reasoning(asked.messages), marks=marks)
    dropped = any(isinstance(part, Reasoning) for turn in asked.messages for part in turn.parts)
    assert ("dropped:reasoning" in upstream_request.warnings) == dropped
    assert [(tool.name, tool.description, tool.parameters) for tool in found.tools] == [
        (tool.name, tool.description, tool.parameters) for tool in asked.tools
    ]
    assert (found.tool_choice.mode, found.tool_choice.only) == (asked.tool_choice.mode, asked.tool_choice.only)
    assert found.sampling == asked.sampling
    assert found.max_output_tokens == (asked.max_output_tokens or 32_000)
    assert (found.stream, found.stop) == (asked.stream, tuple(stop for stop in asked.stop if stop.strip()))


@given(requests())
def test_encoding_twice_gives_the_same_bytes(asked: Request) -> None:
    """Encode without randomness or time."""
    assume(says_something(asked))
    assert OUTBOUND.encode(asked, upstream()) == OUTBOUND.encode(asked, upstream())


def native(part: Part) -> Part:
    """Return the part with state as this upstream would have issued it."""
    if not isinstance(part, Reasoning):
        return part
    seals = tuple(Seal(issuer="anthropic", kind="signature", data=seal.data, model=ROUTE) for seal in part.seals)
    return Reasoning(text=part.text, seals=seals)


def normal(parts: Sequence[Part]) -> list[object]:
    """Return parts in this protocol's normal form: no empty texts, arguments by value, no model on state."""
    kept: list[object] = []
    for part in parts:
        match part:
            case Text(text=""):
                continue
            case ToolCall():
                kept.append((part.call_id, part.name, arguments_object(part.arguments)))
            case Reasoning():
                kept.append((part.text, [(seal.kind, seal.data) for seal in part.seals]))
            case _:
                kept.append(part)
    return kept


def asked_like(response: Response) -> Response:
    """Return the response with native state and Anthropic's finish."""
    candidate = response.candidates[0]
    parts = tuple(map(native, candidate.parts))
    plain_finish = Finish(reason=candidate.finish.reason)
    one = Candidate(parts=tuple(part for part in parts if part != Reasoning()), finish=plain_finish)
    return msgspec.structs.replace(response, candidates=(one,), extras=EMPTY)


KINDS: frozenset[PartKind] = frozenset({"text", "tool_call", "reasoning"})


@given(responses(kinds=KINDS, candidates=1, with_logprobs=False, with_extras=False))
def test_a_response_comes_back(response: Response) -> None:
    """Keep a response's meaning through encoding for a caller and decoding as an upstream's."""
    assume(response.usage.total)
    given_answer = asked_like(response)
    body = INBOUND.encode(given_answer, opened())
    found = OUTBOUND.decode(body, plain_upstream_request(), upstream(), received_at=RECEIVED_AT)
    compare(found, given_answer)


@given(responses(kinds=KINDS, candidates=1, with_logprobs=False, with_extras=False))
def test_a_streamed_response_comes_back(response: Response) -> None:
    """Keep a response's meaning through both stream codecs."""
    assume(response.usage.total)  # no usage at all is estimated
    given_answer = asked_like(response)
    stream = written(list(unfold(given_answer)))
    found = fold(drained(OUTBOUND.decoder(plain_upstream_request(), upstream()), [stream]))
    compare(found, given_answer)


def compare(found: Response, expected: Response) -> None:
    (read,), (told,) = found.candidates, expected.candidates
    unsigned = [part for part in told.parts if isinstance(part, Reasoning) and not part.seals]
    if not unsigned:  # unsigned reasoning returns with its mark
        assert normal(read.parts) == normal(told.parts)
    assert read.finish.reason == told.finish.reason
    counts = ("input", "output", "cache_read", "cache_write", "reasoning")
    assert [getattr(found.usage, key) for key in counts] == [getattr(expected.usage, key) for key in counts]
