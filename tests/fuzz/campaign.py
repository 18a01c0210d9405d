"""Many cases of one area, one after the other, and what they came to."""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fuzz.harness import FuzzHarness
from fuzz.header_cases import header_case, play_header
from fuzz.request_cases import play_request, request_case
from fuzz.seeds import PROTOCOLS, UPSTREAMS
from fuzz.stream_cases import play_stream, stream_case
from fuzz.wire_cases import play_wire, wire_case

_PER_HOUSE = 1000
"""Cases that one gateway serves; what it keeps for callers is bounded, but need not be carried through all of them."""


class Case(NamedTuple):
    """One case of any area."""

    show: Callable[[], str]
    """Its input as text."""
    play: Callable[[FuzzHarness], Awaitable[None]]
    """Play it; raises if it breaks a promise."""


def _requests(protocol: str, rng: random.Random) -> Case:
    case = request_case(protocol, rng)
    return Case(case.show, lambda harness: play_request(case, harness, rng))


def _headers(protocol: str, rng: random.Random) -> Case:
    case = header_case(protocol, rng)
    return Case(case.show, lambda harness: play_header(case, harness, rng))


def _streams(protocol: str, rng: random.Random) -> Case:
    case = stream_case(protocol, rng)

    async def play(_: FuzzHarness) -> None:
        play_stream(case)

    return Case(case.show, play)


def _wires(protocol: str, rng: random.Random) -> Case:
    case = wire_case(protocol, rng)
    return Case(case.show, lambda harness: play_wire(case, harness))


AREAS: dict[str, tuple[Callable[[str, random.Random], Case], tuple[str, ...]]] = {
    "requests": (_requests, PROTOCOLS),
    "headers": (_headers, PROTOCOLS),
    "streams": (_streams, UPSTREAMS),
    "wires": (_wires, UPSTREAMS),
}
"""What is fuzzed, and by which protocols: callers' for requests and headers, upstreams' for streams and wires."""


def make(area: str, protocol: str, seed: int, number: int) -> Case:
    """Exactly one case: the same for the same four, on any machine."""
    made, _ = AREAS[area]
    return made(protocol, random.Random(f"{area}/{protocol}/{seed}/{number}"))


@dataclass(slots=True)
class Find:
    """A case that broke a promise."""

    area: str
    protocol: str
    seed: int
    number: int
    error: str

    @property
    def command(self) -> str:
        """What makes it again."""
        where = f"--area {self.area} --protocol {self.protocol} --seed {self.seed} --case {self.number}"
        return f"python -m fuzz {where}"


@dataclass(slots=True)
class Result:
    """What a campaign came to."""

    count: int = 0
    seconds: float = 0.0
    finds: list[Find] = field(default_factory=list)

    def told(self) -> str:
        """The finds, for a failing test."""
        return "\n\n".join(f"{find.command}\n{find.error}" for find in self.finds)


async def run(area: str, protocol: str, *, seed: int, count: int, first: int = 0, most_finds: int = 20) -> Result:
    """So many cases from number `first` on, or as many as it takes to find enough."""
    result = Result()
    began = time.monotonic()
    for start in range(first, first + count, _PER_HOUSE):
        numbers = range(start, min(start + _PER_HOUSE, first + count))
        try:
            async with FuzzHarness() as harness:
                for number in numbers:
                    result.count += 1
                    if found := await _find(harness, area, protocol, seed, number):
                        result.finds.append(found)
                        if len(result.finds) >= most_finds:
                            break
        except Exception:  # noqa: BLE001  what is left over is a find of all these cases
            error = traceback.format_exc(limit=-3)
            result.finds.append(Find(area, protocol, seed, start, f"cases {numbers}: {error}"))
        if len(result.finds) >= most_finds:
            break
    result.seconds = time.monotonic() - began
    return result


async def _find(harness: FuzzHarness, area: str, protocol: str, seed: int, number: int) -> Find | None:
    try:
        case = make(area, protocol, seed, number)
        await case.play(harness)
    except Exception:  # noqa: BLE001  whatever it is, it is a find
        return Find(area, protocol, seed, number, traceback.format_exc(limit=-4))
    return None


def campaign(area: str, protocol: str, *, seed: int, count: int, first: int = 0, most_finds: int = 20) -> Result:
    """`run`, on an event loop of its own."""
    return asyncio.run(run(area, protocol, seed=seed, count=count, first=first, most_finds=most_finds))
