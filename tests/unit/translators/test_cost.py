"""What a piece of a stream costs, counted in calls and not in seconds, so that it is the same on every machine.

The benchmark measures speed; this notices when a hot path has become longer. A figure below may be lowered whenever
the code allows it. Who raises one should have measured what it costs: `make bench ARGS=--codecs`.
"""

import functools
import gc
import itertools
from datetime import UTC, datetime

import msgspec
import pytest

from bench import streams, traffic
from bench.calls import Calls
from bench.streams import Kind, Pair, Protocol
from llmproxy_asgi.translators.addresses import refuse_addresses
from llmproxy_asgi.translators.registry import translator

READ = 65536
SLACK = 2
_PROTOCOLS: dict[traffic.Wire, Protocol] = {"chat": "openai-chat", "messages": "anthropic-messages"}
"""Calls by which versions of Python may differ."""

# By the upstream's protocol, then by the caller's. Each is the dearest of text, reasoning and tool arguments.
ALONE: dict[Protocol, dict[Protocol, int]] = {
    "openai-chat": {"openai-chat": 12, "openai-responses": 25, "anthropic-messages": 23, "gemini": 22},
    "openai-responses": {"openai-chat": 24, "openai-responses": 12, "anthropic-messages": 25, "gemini": 24},
    "anthropic-messages": {"openai-chat": 18, "openai-responses": 20, "anthropic-messages": 10, "gemini": 18},
    "gemini": {"openai-chat": 21, "openai-responses": 23, "anthropic-messages": 22, "gemini": 14},
}
TOGETHER: dict[Protocol, dict[Protocol, int]] = {
    "openai-chat": {"openai-responses": 18, "anthropic-messages": 16, "gemini": 15},
    "openai-responses": {"openai-chat": 15, "anthropic-messages": 15, "gemini": 13},
    "anthropic-messages": {"openai-chat": 12, "openai-responses": 14, "gemini": 12},
    "gemini": {"openai-chat": 11, "openai-responses": 13, "anthropic-messages": 12},
}
MESSAGE: dict[Protocol, int] = {"openai-chat": 102, "openai-responses": 100, "anthropic-messages": 108, "gemini": 96}
"""By the caller's protocol, for the upstream that is dearest."""
WHOLE: dict[traffic.Wire, int] = {"chat": 78, "messages": 381}
"""By the caller's protocol, to a Chat upstream."""


def feed_all(codec: streams.Codec, reads: list[bytes]) -> None:
    """Play a stream up to its end."""
    for read in reads:
        codec.feed(read)


def per_delta(pair: Pair, kind: Kind, size: int | None) -> tuple[float, float]:
    """Calls that one more piece of a stream makes, and JSON readers and writers among them."""
    counted: list[Calls] = []
    deltas = (100, 200) if size is None else (400, 1200)
    for count in deltas:
        codec = streams.Codec(pair)
        reads = streams.stream(pair[0], kind, count).reads(size)
        counted.append(Calls().during(functools.partial(feed_all, codec, reads)))
    few, many = counted
    more = deltas[1] - deltas[0]
    return (many.all - few.all) / more, (many.json - few.json) / more


CASES = [
    pytest.param((upstream, caller), kind, id=f"{streams.TITLES[upstream]} to {streams.TITLES[caller]}, {kind}")
    for (upstream, caller), kind in itertools.product(streams.PAIRS, streams.KINDS)
]


@pytest.mark.parametrize(("pair", "kind"), CASES)
def test_a_piece_that_comes_alone_makes_few_calls(pair: Pair, kind: Kind) -> None:
    """A read that holds one piece makes no more calls than it did, and one reader and one writer of JSON among them."""
    calls, json = per_delta(pair, kind, None)
    assert calls <= ALONE[pair[0]][pair[1]] + SLACK
    assert json <= (0 if pair[0] == pair[1] else 2)


@pytest.mark.parametrize(("pair", "kind"), CASES)
def test_a_piece_among_many_makes_fewer_calls(pair: Pair, kind: Kind) -> None:
    """In a read of 64 KiB a piece makes no more calls than it did; where it is passed through, next to none."""
    calls, json = per_delta(pair, kind, READ)
    assert calls <= (0.2 if pair[0] == pair[1] else TOGETHER[pair[0]][pair[1]] + SLACK)
    assert json <= (0 if pair[0] == pair[1] else 2)


@pytest.mark.parametrize("caller", streams.PROTOCOLS)
def test_a_message_makes_few_calls(caller: Protocol) -> None:
    """One more message in a long conversation makes no more calls than it did, read and then written for anybody."""
    found: dict[Protocol, float] = {}
    for upstream in streams.PROTOCOLS:
        if upstream != caller:
            few, many = (requested(caller, upstream, messages) for messages in (60, 100))
            found[upstream] = (many - few) / 40
    assert max(found.values()) <= MESSAGE[caller] * 1.05, found


def requested(caller: Protocol, upstream: Protocol, messages: int) -> int:
    """Calls that it makes to read a conversation and to write it for an upstream."""
    body = next(one.body for one in streams.conversations(messages, tools=2) if one.protocol == caller)
    inbound, outbound = translator(caller).inbound, translator(upstream).outbound

    def work() -> None:
        outbound.encode(inbound.decode(streams.opened(caller, body)), streams.UPSTREAM)

    work()  # what is made once in a process
    return Calls().during(work).all


@pytest.mark.parametrize("wire", WHOLE)
def test_a_whole_call_makes_few_calls(wire: traffic.Wire) -> None:
    """The codecs make no more calls for a short request to a Chat upstream and its answer than they did."""
    body, answer = traffic.request_payload(wire, "plain-1"), traffic.plain_answer()
    caller, upstream = translator(_PROTOCOLS[wire]).inbound, translator("openai-chat").outbound

    def work() -> None:
        inbound_request = caller.open(body, headers={})
        refuse_addresses(inbound_request, streams.UPSTREAM)
        if wire == "chat":
            upstream.passthrough_request(inbound_request, streams.UPSTREAM)
            upstream.passthrough_response(answer, inbound_request, streams.UPSTREAM)
        else:
            sent = upstream.encode(caller.decode(inbound_request), streams.UPSTREAM)
            decoded = upstream.decode(answer, sent, streams.UPSTREAM, received_at=datetime.now(UTC))
            caller.encode(decoded, inbound_request)

    work()  # what is made once in a process
    assert Calls().during(work).all <= WHOLE[wire] * 1.05


def test_nothing_is_collected_while_calls_are_counted() -> None:
    """However much garbage the work makes, no collection runs meanwhile, so that no hook or finalizer is counted."""
    collections: list[str] = []
    seen: list[int] = []

    def note(phase: str, _info: dict[str, int]) -> None:
        collections.append(phase)

    def work() -> None:
        before = len(collections)
        for _ in range(gc.get_threshold()[0] * 3):
            cycle: list[object] = []
            cycle.append(cycle)
        seen.append(len(collections) - before)

    gc.callbacks.append(note)
    try:
        Calls().during(work)
        assert seen == [0]
        assert gc.isenabled()
        work()
        assert seen[1] > 0  # so the hook does see collections
    finally:
        gc.callbacks.remove(note)


def test_the_count_sees_what_is_called() -> None:
    """Each call of a function counts, and readers and writers of JSON count by themselves as well."""

    def work() -> None:
        for _ in range(3):
            len(msgspec.json.encode([abs(-1)]))

    counted = Calls().during(work)
    assert (counted.all, counted.json) == (1 + 9 + 1, 3)  # and the call that ends the counting
