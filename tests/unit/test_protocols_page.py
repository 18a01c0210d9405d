"""docs/protocols.md says what the checklist and the marks on tests say, and no more."""

import textwrap
from pathlib import Path

from fidelity_checklist import CASES, PAGE, page, proofs


def test_the_page_is_what_claims_and_marks_say() -> None:
    """The page can be written anew and does not change; `make protocols` does that, after running the tests."""
    assert PAGE.read_text(encoding="utf-8") == page(proofs()), "run `make protocols`"


def test_the_cases_are_numbered_and_sentences() -> None:
    """103 cases, numbered from one, each with a sentence of its own and with pairs."""
    assert [case.number for case in CASES] == list(range(1, 104))
    assert len({case.claim for case in CASES}) == len(CASES)
    assert all(case.claim.endswith(".") and "|" not in case.claim and case.between for case in CASES)


def test_every_row_says_whether_there_is_a_proof() -> None:
    """A row that says passed has a test with its number; every other row says not yet."""
    found = proofs()
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[2:3].isdigit()]
    assert len(rows) == len(CASES)
    for row in rows:
        number, *_, state = (cell.strip() for cell in row.strip("|").split("|"))
        if state.startswith("passed"):
            assert found[int(number)].tests
            assert not found[int(number)].waiting
        else:
            assert state == "not yet"


def test_every_case_of_the_served_protocols_has_a_test() -> None:
    """What Chat and Messages alone can make true is tested, be it as something still missing."""
    found = proofs()
    assert [case.number for case in CASES if case.due and case.number not in found] == []


def test_marks_name_cases_that_are_due() -> None:
    """No test claims a number that does not exist or cannot be proved yet."""
    assert set(proofs()) <= {case.number for case in CASES if case.due}


def test_marks_are_found_on_functions_and_on_parameters(tmp_path: Path) -> None:
    """A decorator, a mark on a parameter and one in a list that a decorator names all count; xfail holds back."""
    (tmp_path / "test_some.py").write_text(
        textwrap.dedent(
            """
            import pytest

            ROWS = [pytest.param(1, marks=pytest.mark.fidelity(5))]

            @pytest.mark.fidelity(1, 2)
            def test_plain(): ...

            @pytest.mark.xfail(reason="missing", strict=True)
            @pytest.mark.fidelity(3)
            def test_missing(): ...

            @pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.fidelity(4))])
            async def test_parameters(n): ...

            @pytest.mark.parametrize("n", ROWS)
            def test_rows(n): ...
            """
        ),
        encoding="utf-8",
    )
    found = proofs(tmp_path)
    assert {number: proof.tests for number, proof in found.items()} == {
        1: ["test_some.py::test_plain"],
        2: ["test_some.py::test_plain"],
        3: ["test_some.py::test_missing"],
        4: ["test_some.py::test_parameters"],
        5: ["test_some.py::test_rows"],
    }
    assert [number for number, proof in found.items() if not proof.complete] == [3]
