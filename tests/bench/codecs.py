"""How fast the codecs are by themselves: bytes to bytes in one process, without sockets, loop or gateway.

    .venv/bin/python tests/bench/run.py --codecs [--rounds N]

Every stream goes through every pair of protocols at three sizes of reads, and in the same round the JSON of the same
events goes through a plain `msgspec` decoder and encoder, which gets it already cut out of its frames. What a caller
would read of each answer is compared with what the upstream said before anything is timed.

Time is this thread's processor time, so that others at work on the machine don't count, though they do slow it down.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from collections import defaultdict

import msgspec

from bench import streams
from bench.streams import Kind, Pair
from llmproxy_asgi.translators.registry import translator

READS: dict[str, int | None] = {"one event": None, "4 KiB": 4096, "64 KiB": 65536}
"""How the bytes come in. The transport hands on no more than 64 KiB at once."""
DELTAS = 10_000
_LONGEST_READ = 65536
_REQUESTS = 20


class Speed(msgspec.Struct):
    """One kind of stream through one pair, at one size of reads: events per second in each round."""

    upstream: streams.Protocol
    caller: streams.Protocol
    kind: Kind
    read: str
    ours: list[float] = []
    plain: list[float] = []

    def ratios(self) -> list[float]:
        """To plain decoding and encoding, round by round."""
        return [ours / plain for ours, plain in zip(self.ours, self.plain, strict=True)]


class Hold(msgspec.Struct):
    """For how long single reads of 64 KiB kept the thread, in seconds: medians over the rounds."""

    upstream: streams.Protocol
    caller: streams.Protocol
    median: float
    """Of the reads of all kinds of streams as the vendor writes them."""
    longest: float
    """Of the same reads, the longest."""
    lean: float
    """The longest of streams that hold as many events as go into a read."""


class Asking(msgspec.Struct):
    """A request of 200 messages with tools, in seconds, in each round."""

    caller: streams.Protocol
    upstream: streams.Protocol
    size: int
    """Bytes, as it comes in."""
    decode: list[float] = []
    encode: list[float] = []


class Findings(msgspec.Struct):
    """All that was seen."""

    speeds: list[Speed]
    holds: list[Hold]
    requests: list[Asking]


def measure(rounds: int, deltas: int = DELTAS) -> Findings:
    """Play everything, each round all of it, so that a slow moment does not fall on one alone.

    Raises:
        AssertionError: A caller would not read what the upstream said; no figure of it would mean anything.
    """
    check(400)
    speeds = {
        (pair, kind, read): Speed(*pair, kind, read)
        for pair, kind, read in itertools.product(streams.PAIRS, streams.KINDS, READS)
    }
    held: dict[tuple[Pair, Kind, bool], list[list[float]]] = defaultdict(list)
    asked = streams.conversations()
    requests = [Asking(one.protocol, upstream, len(one.body)) for one in asked for upstream in streams.PROTOCOLS]
    bodies = {one.protocol: one.body for one in asked}
    for _ in range(rounds):
        for upstream, kind in itertools.product(streams.PROTOCOLS, streams.KINDS):
            usual = streams.stream(upstream, kind, deltas)
            lean = streams.stream(upstream, kind, deltas, lean=True)
            data = usual.data()
            for caller, read in itertools.product(streams.PROTOCOLS, READS):
                speed = speeds[(upstream, caller), kind, read]
                speed.plain.append(len(data) / _plainly(data))
                speed.ours.append(len(data) / _play((upstream, caller), usual.reads(READS[read])))
            for caller in streams.PROTOCOLS:
                for wire in (usual, lean):
                    pair = (upstream, caller)
                    held[pair, kind, wire is lean].append(_each_read(pair, wire.reads(_LONGEST_READ)))
        for request in requests:
            _ask(request, bodies[request.caller])
    return Findings(list(speeds.values()), [_hold(pair, held) for pair in streams.PAIRS], requests)


def check(deltas: int) -> None:
    """Send each kind of stream through each pair and read again what comes out.

    Raises:
        AssertionError: A caller would not read what the upstream said.
    """
    for pair, kind, lean in itertools.product(streams.PAIRS, streams.KINDS, (False, True)):
        wire = streams.stream(pair[0], kind, deltas, lean=lean)
        for size in READS.values():
            codec = streams.Codec(pair)
            written = b"".join([*map(codec.feed, wire.reads(size)), codec.close()])
            assert streams.heard(pair[1], kind, written) == wire.said, (pair, kind, lean, size)


def _plainly(data: list[bytes]) -> float:
    decode, encode = msgspec.json.decode, msgspec.json.encode
    began = time.thread_time()
    for event in data:
        encode(decode(event))
    return time.thread_time() - began


def _play(pair: Pair, reads: list[bytes]) -> float:
    codec = streams.Codec(pair)
    feed = codec.feed
    began = time.thread_time()
    for read in reads:
        feed(read)
    codec.close()
    return time.thread_time() - began


def _each_read(pair: Pair, reads: list[bytes]) -> list[float]:
    """Seconds that each whole read takes; the last and shorter one, which ends the answer, included."""
    codec = streams.Codec(pair)
    clock = time.thread_time
    taken: list[float] = []
    for read in reads:
        began = clock()
        codec.feed(read)
        taken.append(clock() - began)
    return taken


def _hold(pair: Pair, held: dict[tuple[Pair, Kind, bool], list[list[float]]]) -> Hold:
    """Each read's median over the rounds; then over the reads."""
    usual: list[float] = []
    lean: list[float] = []
    for kind in streams.KINDS:
        usual += map(statistics.median, zip(*held[pair, kind, False], strict=True))
        lean += map(statistics.median, zip(*held[pair, kind, True], strict=True))
    return Hold(*pair, median=statistics.median(usual), longest=max(usual), lean=max(lean))


def _ask(request: Asking, body: bytes) -> None:
    """Read a request and write the upstream's; where both speak one protocol its bytes are passed on instead."""
    inbound, outbound = translator(request.caller).inbound, translator(request.upstream).outbound
    decode: list[float] = []
    encode: list[float] = []
    clock = time.thread_time
    for _ in range(_REQUESTS):
        began = clock()
        inbound_request = streams.opened(request.caller, body)
        if request.caller == request.upstream:
            decode.append(clock() - began)
            began = clock()
            outbound.passthrough_request(inbound_request, streams.UPSTREAM)
        else:
            asked = inbound.decode(inbound_request)
            decode.append(clock() - began)
            began = clock()
            outbound.encode(asked, streams.UPSTREAM)
        encode.append(clock() - began)
    request.decode.append(statistics.median(decode))
    request.encode.append(statistics.median(encode))


def main() -> None:
    """Measure on one core and write the findings to standard output, for `run.py`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    sys.stdout.buffer.write(msgspec.json.encode(measure(options.rounds)))


if __name__ == "__main__":
    main()
