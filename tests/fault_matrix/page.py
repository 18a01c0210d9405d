"""The table of `docs/reliability.md`: the rows, their tests, and whether these have passed."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path, PurePosixPath

from fault_matrix.rows import ROWS, Row
from support.numbered_marks import Proofs

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
PART = "faults"
"""The name of the page's part that holds the table."""


def table(found: Mapping[int, Proofs]) -> str:
    """The table and the sentence above it.

    Args:
        found: What proves each row.
    """
    passed = sum(_passed(row, found) for row in ROWS)
    lines = [
        f"Today {passed} of {len(ROWS)} rows pass.",
        "",
        "| row | fault | expected behavior | tests | result |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in ROWS:
        tests = found[row.number].tests if row.number in found else []
        state = "passed" if _passed(row, found) else "not yet"
        lines.append(f"| {row.number} | {row.fault} | {row.behaviour} | {_named(tests)} | {state} |")
    return "\n".join(lines)


def _passed(row: Row, found: Mapping[int, Proofs]) -> bool:
    return row.number in found and found[row.number].complete


def _named(tests: list[str]) -> str:
    """The tests by their files, in few words: a row may have many."""
    files = []
    for path, of_file in groupby(tests, lambda test: test.partition("::")[0]):
        count = len(list(of_file))
        files.append(f"[{PurePosixPath(path).stem}](../tests/{path})" + (f" ({count})" if count > 1 else ""))
    return ", ".join(files)
