"""Run every test that proves a row, and write the table if all of them passed."""

import sys

from fault_matrix.page import PAGE, PART, table
from fault_matrix.rows import ROWS
from numbered_marks import proofs, run
from page_sections import with_part


def main() -> int:
    """Run, compare with what the marks say, and write."""
    found = proofs("fault")
    outcomes = run("fault", found, word="row")
    if outcomes is None:
        return 1
    PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), PART, table(found)), encoding="utf-8")
    proved = sum(row.number in found and found[row.number].complete for row in ROWS)
    print(f"{PAGE.name} is written: {proved} of {len(ROWS)} rows, {sum(outcomes.passed.values())} proofs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
