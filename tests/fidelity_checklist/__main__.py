"""Run every test that proves a claim, and write the page if all of them passed."""

import sys

from fidelity_checklist.marks import proofs
from fidelity_checklist.page import PAGE, page
from numbered_marks import run


def main() -> int:
    """Run, compare with what the marks say, and write."""
    found = proofs()
    outcomes = run("fidelity", found, word="case")
    if outcomes is None:
        return 1
    PAGE.write_text(page(found), encoding="utf-8")
    complete = [number for number, proof in found.items() if proof.complete]
    print(
        f"{PAGE.name} is written: {len(complete)} cases, {sum(outcomes.passed[number] for number in complete)} proofs"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
