"""No input makes the gateway fail in a way that it should not: a slice for every day, and the long form."""

import time

import pytest

from fuzz.campaign import AREAS, Find, Result, campaign, make
from fuzz.figures import note
from fuzz.seeds import COMPLETIONS, EMBEDDINGS
from fuzz.sockets import socket_case, wired

SLICE = {"requests": 500, "headers": 150, "streams": 700, "wires": 120}
"""Cases of each protocol in every run of the tests; always the same ones."""
SLICE_SEED = 1
LONG = {"requests": 50_000, "headers": 2_000, "streams": 23_500, "wires": 1_500}
"""Cases of each protocol in the long form: with those over sockets 50 000 requests of each protocol that chats, 10 000
odd heads in all, 100 000 streams in all."""
NARROW = 10_000
"""Requests of each protocol that does not chat."""
LONG_SEED = 20261121
EVERY = [pytest.param(area, protocol, id=f"{area}-{protocol}") for area in AREAS for protocol in AREAS[area][1]]
SOCKETS = 4_000


@pytest.mark.parametrize(("area", "protocol"), EVERY)
def test_a_slice_of_what_nobody_sends(area: str, protocol: str) -> None:
    """No 500, no exception, no call over a second of processor time, every answer legal, nothing left over."""
    result = campaign(area, protocol, seed=SLICE_SEED, count=SLICE[area])
    assert not result.finds, result.told()
    assert result.count == SLICE[area]


@pytest.mark.verify
@pytest.mark.parametrize(("area", "protocol"), EVERY)
def test_much_of_what_nobody_sends(area: str, protocol: str) -> None:
    """The same over as many cases as the page claims; the figures go there."""
    count = NARROW if area == "requests" and protocol in {COMPLETIONS, EMBEDDINGS} else LONG[area]
    result = campaign(area, protocol, seed=LONG_SEED, count=count)
    note(area, protocol, LONG_SEED, result)
    assert not result.finds, result.told()


def test_a_slice_over_sockets() -> None:
    """A server and a real transport in between change nothing."""
    result = _over_sockets(100, seed=SLICE_SEED)
    assert not result.finds, result.told()


@pytest.mark.verify
def test_much_over_sockets() -> None:
    """The same over more cases; the figures go to the page."""
    result = _over_sockets(SOCKETS, seed=LONG_SEED)
    note("sockets", "all", LONG_SEED, result)
    assert not result.finds, result.told()


def test_a_case_is_made_again_by_its_number() -> None:
    """Area, protocol, seed and number are all that a case depends on; any other number is another case."""
    for area, (_, protocols) in AREAS.items():
        shown = [make(area, protocols[0], 7, number).show() for number in (1, 1, 2, 3)]
        assert shown[0] == shown[1]
        assert len(set(shown)) == 3


def _over_sockets(count: int, *, seed: int) -> Result:
    result = Result()
    began = time.monotonic()
    with wired() as gateway:
        for number in range(count):
            case, rng = socket_case(number, seed=seed)
            result.count += 1
            try:
                gateway.play(case, rng)
            except Exception as error:  # noqa: BLE001  whatever it is, it is a find
                shown = f"{error!r}\n{case.show()[:3000]}"
                result.finds.append(Find("sockets", "all", seed, number, shown))
    result.seconds = time.monotonic() - began
    return result
