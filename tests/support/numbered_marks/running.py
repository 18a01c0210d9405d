"""Runs the tests that carry a mark with numbers, and compares how they ended with what the marks claim."""

import sys
from collections import defaultdict
from collections.abc import Mapping

import pytest

from support.numbered_marks.reading import TESTS, Proofs


class Outcomes:
    """A pytest plugin that notes how the tests of each number ended."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._numbers: dict[str, list[int]] = {}
        self.passed: defaultdict[int, list[str]] = defaultdict(list)
        self.failed: defaultdict[int, list[str]] = defaultdict(list)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Remember its numbers."""
        marks = item.iter_markers(self._mark)
        self._numbers[item.nodeid] = [number for mark in marks for number in mark.args]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of it; one that is expected to fail proves nothing and breaks nothing."""
        for number in self._numbers[report.nodeid]:
            if report.failed:
                self.failed[number].append(report.nodeid)
            elif report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
                self.passed[number].append(report.nodeid)


def run(mark: str, found: Mapping[int, Proofs], *, word: str) -> Outcomes | None:
    """Run every test that carries the mark, but for the long ones.

    Args:
        mark: Its name.
        found: What the marks claim.
        word: What a number counts, for messages.

    Returns:
        How they ended; None: not all is well, and stderr says what.
    """
    files = sorted({str(TESTS / test.partition("::")[0]) for proof in found.values() for test in proof.tests})
    outcomes = Outcomes(mark)
    code = pytest.main(["-q", "-m", f"{mark} and not verify", *files], plugins=[outcomes])
    for number, tests in sorted(outcomes.failed.items()):
        print(f"{word} {number} failed: {', '.join(sorted(set(tests)))}", file=sys.stderr)
    unproved = [number for number, proof in sorted(found.items()) if proof.complete and not outcomes.passed[number]]
    for number in unproved:
        print(f"{word} {number} has a mark, and no test of it passed", file=sys.stderr)
    return None if code != 0 or unproved else outcomes
