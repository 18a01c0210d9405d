"""Run every test that proves a row, and write the table if all of them passed."""

import sys

from fault_matrix.page import PAGE, PART, table
from fault_matrix.rows import ROWS
from support.numbered_marks import proofs, run
from support.page_sections import with_part


def main() -> int:
    """Run, compare with what the marks say, and write."""
    found = proofs("fault")
    outcomes = run("fault", found, word="row")
    if outcomes is None:
        return 1
    PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), PART, table(found)), encoding="utf-8")
    proved = [row for row in ROWS if row.number in found and found[row.number].complete]
    proofs_made = sum(len(outcomes.passed[row.number]) for row in proved)
    print(f"{PAGE.name} is written: {len(proved)} of {len(ROWS)} rows, {proofs_made} proofs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
