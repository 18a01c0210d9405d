"""docs/reliability.md says of faults what the matrix and the marks on tests say, and no more."""

import textwrap
from pathlib import Path

import pytest

from fault_matrix import PAGE, ROWS, table
from support.numbered_marks import Proofs, proofs
from support.page_sections import part, with_part


def test_the_table_is_what_rows_and_marks_say() -> None:
    """The table can be written anew and does not change; `make faults` does that, after running the tests."""
    assert part(PAGE.read_text(encoding="utf-8"), "faults").strip() == table(proofs("fault")), "run `make faults`"


def test_rows_are_in_order_and_fit_into_a_table() -> None:
    """Each number once, ascending, each with words of its own."""
    numbers = [row.number for row in ROWS]
    assert numbers == sorted(set(numbers)) == [*range(1, 38), 42, 45, 46, *range(50, 58)]
    assert all("|" not in row.fault + row.behaviour and row.fault and row.behaviour for row in ROWS)


def test_marks_name_rows_that_there_are() -> None:
    """No test claims a row that the matrix does not have."""
    assert set(proofs("fault")) <= {row.number for row in ROWS}


def test_every_fault_of_upstreams_and_of_requests_has_a_test() -> None:
    """Rows 1 to 32: those that need no more than one gateway and one upstream."""
    found = proofs("fault")
    assert [number for number in range(1, 33) if number not in found or not found[number].complete] == []


def test_a_row_without_a_complete_proof_has_not_passed() -> None:
    """Neither no test at all nor one that is expected to fail is called passed."""
    found = {1: Proofs(["a/test_b.py::test_c", "a/test_b.py::test_d"]), 2: Proofs(["test_x.py::test_y"] * 1)}
    found[2].waiting = list(found[2].tests)
    lines = table(found).splitlines()
    assert lines[0].startswith("Today 1 of ")
    assert lines[4].endswith("| [test_b](../tests/a/test_b.py) (2) | passed |")
    assert lines[5].endswith("| [test_x](../tests/test_x.py) | not yet |")
    assert lines[6].endswith("|  | not yet |")


def test_other_parts_of_the_page_are_left_alone() -> None:
    """Only what stands between the marks is another afterwards, however often it is written."""
    page = "# Title\n\n<!-- begin: a -->\nold\n<!-- end: a -->\n\n<!-- begin: b -->\nB\n<!-- end: b -->\nend\n"
    once = with_part(page, "a", "new\n")
    assert once == page.replace("old\n", "\nnew\n\n")
    assert with_part(once, "a", "new") == once
    assert part(once, "a").strip() == "new"
    for name in ("c", "a -->"):
        with pytest.raises(LookupError):
            with_part(page, name, "x")


def test_marks_of_a_module_count_for_all_its_tests(tmp_path: Path) -> None:
    """A mark in `pytestmark` is one on each test; other marks and other numbers are not mixed in."""
    (tmp_path / "test_some.py").write_text(
        textwrap.dedent(
            """
            import pytest

            pytestmark = [pytest.mark.anyio, pytest.mark.fault(7)]

            def test_plain(): ...

            @pytest.mark.fidelity(1)
            @pytest.mark.fault(8, 9)
            async def test_more(): ...
            """
        ),
        encoding="utf-8",
    )
    found = proofs("fault", tmp_path)
    assert {number: proof.tests for number, proof in found.items()} == {
        7: ["test_some.py::test_plain", "test_some.py::test_more"],
        8: ["test_some.py::test_more"],
        9: ["test_some.py::test_more"],
    }
