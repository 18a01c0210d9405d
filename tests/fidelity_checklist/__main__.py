"""Run every test that proves a claim, and write the page if all of them passed."""

import sys
from collections import defaultdict

import pytest

from fidelity_checklist.marks import TESTS, proofs
from fidelity_checklist.page import PAGE, page


class Outcomes:
    """A pytest plugin that notes how the tests of each number ended."""

    def __init__(self) -> None:
        self._numbers: dict[str, list[int]] = {}
        self.passed: defaultdict[int, int] = defaultdict(int)
        self.failed: defaultdict[int, list[str]] = defaultdict(list)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Remember its numbers."""
        marks = item.iter_markers("fidelity")
        self._numbers[item.nodeid] = [number for mark in marks for number in mark.args]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of it; one that is expected to fail proves nothing and breaks nothing."""
        for number in self._numbers[report.nodeid]:
            if report.failed:
                self.failed[number].append(report.nodeid)
            elif report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
                self.passed[number] += 1


def main() -> int:
    """Run, compare with what the marks say, and write."""
    found = proofs()
    files = sorted({str(TESTS / test.partition("::")[0]) for proof in found.values() for test in proof.tests})
    outcomes = Outcomes()
    code = pytest.main(["-q", "-m", "fidelity and not verify", *files], plugins=[outcomes])
    for number, tests in sorted(outcomes.failed.items()):
        print(f"case {number} failed: {', '.join(sorted(set(tests)))}", file=sys.stderr)
    unproved = [number for number, proof in sorted(found.items()) if proof.complete and not outcomes.passed[number]]
    for number in unproved:
        print(f"case {number} has a mark, and no test of it passed", file=sys.stderr)
    if code != 0 or unproved:
        return 1
    PAGE.write_text(page(found), encoding="utf-8")
    complete = [number for number, proof in found.items() if proof.complete]
    print(
        f"{PAGE.name} is written: {len(complete)} cases, {sum(outcomes.passed[number] for number in complete)} proofs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
