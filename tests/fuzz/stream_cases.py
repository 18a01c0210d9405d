"""Cases that are answers of upstreams, through the translators alone: decoder to encoder, or relay, as an attempt does.

What the decoder makes of it must be legal for `StreamValidator`, what the encoder writes must be legal in the
caller's protocol, and neither may raise. Reads come cut anywhere.
"""

import json
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import msgspec

from fuzz import mutate, seeds
from fuzz.harness import MODELS, MOST_SECONDS
from fuzz.legal import Illegal, check_error, check_stream, check_whole, read
from fuzz.seeds import CHAT, COMPLETIONS, GEMINI, UPSTREAMS
from fuzz.spoiled import spoiled_answer, spoiled_error, spoiled_stream
from llmproxy_asgi.conversation import Batch, Ended, Failed, Finished, FinishReason, StreamEvent
from llmproxy_asgi.conversation_state.reasoning import ReasoningTap, extract_reasoning
from llmproxy_asgi.errors import BadRequest, GatewayError, UpstreamError, UpstreamTimeout
from llmproxy_asgi.translators.base import InboundRequest, StreamDecoder, Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.grammar import Rule
from llmproxy_asgi.translators.registry import translator
from llmproxy_asgi.translators.stream_validator import StreamRuleError, StreamValidator

NOW = datetime(2026, 11, 21, tzinfo=UTC)
_LAST = (Failed, Ended)
_ERROR_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"retry-after": "3"},
    {"retry-after": "-1", "retry-after-ms": "x"},
    {"retry-after": "9" * 400},
    {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "x-should-retry": "maybe"},
    {"retry-after-ms": "1e400", "x-ratelimit-reset-requests": "1m3s", "x-ratelimit-remaining-requests": "0"},
    {"anthropic-ratelimit-requests-reset": "2026-13-45T99:00:00Z", "retry-after": "nan"},
)


class StreamCase(NamedTuple):
    """What an upstream says, to whom."""

    kind: str
    """`stream`, `whole` or `error`."""
    upstream: str
    """The stream's protocol."""
    caller: str
    """The protocol it is wanted in."""
    relays: bool
    request: int
    """Which of the caller's requests it answers."""
    pieces: Sequence[bytes]
    breaks: bool
    """Whether the connection breaks behind the last piece, or a clock runs out."""
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012  never changed

    def show(self) -> str:
        """The input, for debugging."""
        head = f"{self.kind} of {self.upstream} for {self.caller}{', relayed' if self.relays else ''} {self.status}"
        said = b"".join(self.pieces).decode("utf-8", "backslashreplace")
        cut = f"\n\n(in {len(self.pieces)} pieces{', then broken' if self.breaks else ''})"
        return f"{head} {self.headers or ''}\n\n{said}{cut}"


def stream_case(upstream: str, rng: random.Random) -> StreamCase:
    """One case, all of it from `rng`."""
    caller = rng.choice((*UPSTREAMS, COMPLETIONS)) if upstream == CHAT else rng.choice(UPSTREAMS)
    relays = caller == upstream and rng.random() < 0.7  # the others are read as events by Python's callers
    request = rng.randrange(1000)
    way = rng.random()
    if way < 0.1:
        status = rng.choice((400, 401, 403, 404, 409, 413, 418, 422, 429, 500, 503, 529, 599, 302))
        said = [spoiled_error(upstream, rng)]
        return StreamCase("error", upstream, caller, relays, request, said, False, status, rng.choice(_ERROR_HEADERS))
    if way < 0.35:
        return StreamCase("whole", upstream, caller, relays, request, [spoiled_answer(upstream, rng)], False)
    pieces = mutate.cut_up(spoiled_stream(upstream, rng), rng)
    return StreamCase("stream", upstream, caller, relays, request, pieces, rng.random() < 0.05)


def play_stream(case: StreamCase) -> None:
    """Play it, and judge what comes.

    Raises:
        Illegal: That breaks a promise.
    """
    began = time.thread_time()
    {"stream": _stream, "whole": _whole, "error": _error}[case.kind](case)
    seconds = time.thread_time() - began
    if seconds > MOST_SECONDS:
        raise Illegal(f"it took {seconds:.1f} s")


# ── requests that are answered ───────────────────────────────────────────────────────────────────────────────────────


def _opened(caller: str, body: bytes, *, stream: bool, array: bool) -> InboundRequest:
    path = {}
    if caller == GEMINI:
        method = "streamGenerateContent" if stream else "generateContent"
        path = {"model": "asked", "method": method, "alt": "json" if array else "sse"}
    return translator(caller).inbound.open(body, headers={}, path=path)


@cache
def _bodies(caller: str, upstream: str, *, stream: bool) -> tuple[tuple[bytes, UpstreamRequest], ...]:
    """Requests of this caller's that this upstream takes, and what its decoder has to remember of each."""
    spoken = upstream_of(upstream)
    found = []
    for seed in seeds.requests(caller):
        tree = dict(seed.tree)
        if seed.name.startswith("embed"):
            continue
        if caller != GEMINI:
            tree = {key: value for key, value in tree.items() if key != "stream_options"}
            tree |= {"model": "asked", "stream": stream}
        body = json.dumps(tree).encode()
        inbound = translator(caller).inbound
        try:
            request = inbound.decode(_opened(caller, body, stream=stream, array=False))
            found.append((body, translator(upstream).outbound.encode(request, spoken)))
        except BadRequest:
            continue
    assert found
    return tuple(found)


@cache
def upstream_of(protocol: str) -> Upstream:
    """Where a request goes."""
    issuers = {"openai-chat": "openai", "openai-responses": "openai", "anthropic-messages": "anthropic"}
    return Upstream(provider="made-up", model=MODELS[0], client_model="asked", issuer=issuers.get(protocol, protocol))


def _asked(case: StreamCase, *, stream: bool) -> tuple[InboundRequest, UpstreamRequest, bool]:
    """The request that is answered; whether an array is wanted for its stream."""
    bodies = _bodies(case.caller, case.upstream, stream=stream)
    body, upstream_request = bodies[case.request % len(bodies)]
    array = case.caller == GEMINI and stream and case.request % 3 == 0
    return _opened(case.caller, body, stream=stream, array=array), upstream_request, array


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _stream(case: StreamCase) -> None:
    inbound_request, upstream_request, array = _asked(case, stream=True)
    inbound, outbound = translator(case.caller).inbound, translator(case.upstream).outbound
    to = upstream_of(case.upstream)
    decoder = (
        outbound.passthrough_stream(inbound_request, to) if case.relays else outbound.decoder(upstream_request, to)
    )
    encoder = inbound.encoder(inbound_request)
    validator, tap = StreamValidator(), ReasoningTap()
    out: list[bytes] = []
    began, paused = False, False
    for batch in _batches(case, decoder):
        tap.feed(batch.events)
        if not case.relays:
            _check_order(validator, batch.events)
        if not began and batch.events and isinstance(last := batch.events[-1], Failed):
            _check_problem(case.caller, last.error)
            return
        began = began or bool(batch.events or batch.raw)
        paused |= any(isinstance(each, Finished) and each.finish.reason == FinishReason.PAUSE for each in batch.events)
        if case.relays:
            out.append(batch.raw or b"")
            if batch.events and isinstance(last := batch.events[-1], Failed):
                out.append(inbound.encoder(inbound_request).feed((Failed(last.error),)))
        else:
            out.append(encoder.feed(batch.events))
    told = case.relays or (case.caller != case.upstream and not paused)  # a pause is not told but gone on with
    if told:
        check_stream(case.caller, b"".join(out), relayed=case.relays, array=array)


def _batches(case: StreamCase, decoder: StreamDecoder) -> list[Batch]:
    """As an attempt reads: up to the first batch with an ending."""
    found: list[Batch] = []
    for piece in case.pieces:
        found.append(decoder.feed(piece))
        if found[-1].events and isinstance(found[-1].events[-1], _LAST):
            break
    else:
        broken = UpstreamTimeout("The upstream stopped in the middle of its answer.")
        found.append(Batch((Failed(decoder.broke(broken)),)) if case.breaks else decoder.close())
    endings = [event for batch in found for event in batch.events if isinstance(event, _LAST)]
    if len(endings) != 1 or found[-1].events[-1] is not endings[0]:
        raise Illegal(f"one ending, and it last: {endings}")
    return found


def _check_order(validator: StreamValidator, events: Sequence[StreamEvent]) -> None:
    for event in events:
        try:
            validator.check(event)
        except StreamRuleError as error:
            if (
                error.rule is Rule.CALLS_ARE_SAID
                and isinstance(event, Finished)
                and event.finish.reason is FinishReason.TOOL_CALLS
            ):
                continue  # it made none, but says so: the claim is passed on
            raise Illegal(f"out of order: {error}: {event}") from None


def _whole(case: StreamCase) -> None:
    inbound_request, upstream_request, _ = _asked(case, stream=False)
    inbound, outbound = translator(case.caller).inbound, translator(case.upstream).outbound
    to, body = upstream_of(case.upstream), b"".join(case.pieces)
    try:
        body.decode()
    except UnicodeDecodeError:
        return  # refused before any translator sees it
    try:
        if case.relays:
            restored = outbound.passthrough_response(body, inbound_request, to)
            if not isinstance(read(restored.raw or b""), dict):
                raise Illegal("what is passed on is no object")
            return
        answer = outbound.decode(body, upstream_request, to, received_at=NOW)
    except UpstreamError as error:
        _check_problem(case.caller, error)
        return
    extract_reasoning(answer)
    msgspec.json.encode(answer)
    if case.caller == case.upstream or any(each.finish.reason == FinishReason.PAUSE for each in answer.candidates):
        return  # read by Python's callers; not told but gone on with
    check_whole(case.caller, inbound.encode(answer, inbound_request))


def _error(case: StreamCase) -> None:
    error: Any = translator(case.upstream).outbound.decode_error(case.status, case.headers, b"".join(case.pieces))
    if not isinstance(error, UpstreamError):
        raise Illegal(f"no error of an upstream's: {error!r}")
    _check_problem(case.caller, error)


def _check_problem(caller: str, error: GatewayError) -> None:
    problem = translator(caller).inbound.problem(error, request_id="req_1")
    if problem.status == 500 or problem.status < 400:
        raise Illegal(f"a status of {problem.status}: {error!r}")
    for name, value in problem.headers:
        if not (name + value).isprintable() or not value.isascii():
            raise Illegal(f"a header's value: {name}: {value!r}")
    check_error(caller, problem.status, problem.body)
