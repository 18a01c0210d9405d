"""Between which protocols a test proves its claims: what its id says of the pair it runs on.

A test that runs on several pairs has each of them in the ids of its cases (`[messages-to-gemini-sync-stream]`). One
whose id names no pair proves the one pair that its claim is about; of a claim about several it proves the claim alone.
"""

import re
from collections.abc import Iterable, Mapping

import pytest

from fidelity_checklist.cases import CASES, LETTERS

Proved = Mapping[int, frozenset[tuple[str, str]]]
"""The pairs for which each claim is proved, by its number; a number that is not there has no test."""

_CODES = {name.lower(): letter for letter, name in LETTERS.items() if letter != "*"}
_NAMES = "|".join(_CODES)
_LANE = re.compile(rf"\b({_NAMES})-to-({_NAMES})\b")
_ONE = re.compile(rf"\b({_NAMES})\b")


def proved(tests: Mapping[int, Iterable[str]]) -> Proved:
    """The pairs that some tests prove.

    Args:
        tests: Node ids by the numbers that they carry.
    """
    cases = {case.number: case.pairs for case in CASES}
    return {
        number: frozenset(pair for test in ids for pair in _pairs(test, cases.get(number, frozenset())))
        for number, ids in sorted(tests.items())
    }


def of_items(items: Iterable[pytest.Item]) -> Proved:
    """The pairs that collected tests will prove, if they pass; those that are expected to fail prove nothing."""
    found: dict[int, list[str]] = {}
    for item in items:
        if item.get_closest_marker("xfail") is None and item.get_closest_marker("verify") is None:
            for mark in item.iter_markers("fidelity"):
                for number in mark.args:
                    found.setdefault(number, []).append(item.nodeid)
    return proved(found)


def _pairs(test: str, concerned: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    case = test.partition("[")[2]
    pair = _LANE.search(case)
    if pair is not None:
        return concerned & {(_CODES[pair[1]], _CODES[pair[2]])}
    if len(concerned) == 1:
        return concerned
    same = frozenset((letter, letter) for letter in _CODES.values())
    if concerned <= same and (named := _ONE.search(case)) is not None:
        return concerned & {(_CODES[named[1]], _CODES[named[1]])}
    return frozenset()
