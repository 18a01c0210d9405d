"""Run every test that proves a claim, and write the page if all of them passed."""

import sys

from fidelity_checklist.marks import proofs
from fidelity_checklist.page import PAGE, page
from fidelity_checklist.pairs import proved
from support.numbered_marks import run


def main() -> int:
    """Run, compare with what the marks say, and write."""
    outcomes = run("fidelity", proofs(), word="case")
    if outcomes is None:
        return 1
    pairs = proved(outcomes.passed)
    PAGE.write_text(page(pairs), encoding="utf-8")
    print(f"{PAGE.name} is written: {len(pairs)} cases, {sum(map(len, pairs.values()))} proofs of a pair")
    return 0


if __name__ == "__main__":
    sys.exit(main())
