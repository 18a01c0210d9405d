"""docs/protocols.md says what the checklist and the marks on tests say, and no more."""

import textwrap
from pathlib import Path

import pytest

from fidelity_checklist import CASES, FEATURES, PAGE, Proved, page, proofs, proved
from fidelity_checklist.collecting import COLLECTED, collect


@pytest.fixture(scope="module")
def collected(request: pytest.FixtureRequest) -> Proved:
    """What the tests there are prove: those of this run if it is one of all tests, else collected for this."""
    found = request.config.stash.get(COLLECTED, None)
    return found if found is not None else collect()


def test_the_page_is_what_claims_and_tests_say(collected: Proved) -> None:
    """No proof may get lost, and none stand there that is none; `make protocols` runs the tests and writes the page."""
    assert PAGE.read_text(encoding="utf-8") == page(collected), "run `make protocols`"


def test_the_cases_are_numbered_and_sentences() -> None:
    """Each case has a number and a sentence of its own, pairs, and something that it is about."""
    numbers = [case.number for case in CASES]
    assert numbers == sorted(set(numbers))
    assert len({case.claim for case in CASES}) == len(CASES)
    assert all(case.claim.endswith(".") and "|" not in case.claim and case.between for case in CASES)
    assert {number for about in FEATURES.values() for number in about} >= set(numbers)


def test_every_claim_has_a_proof_of_every_pair_that_it_is_about(collected: Proved) -> None:
    """Nothing that is claimed of a pair is left to what holds for another."""
    missing = {case.number: sorted(case.pairs - collected.get(case.number, frozenset())) for case in CASES}
    assert {number: pairs for number, pairs in missing.items() if pairs} == {}
    assert [case.number for case in CASES if case.number not in collected] == []


def test_marks_name_cases_that_there_are() -> None:
    """No test claims a number that does not exist."""
    assert set(proofs()) <= {case.number for case in CASES}


def test_pairs_are_read_from_ids() -> None:
    """A claim about several pairs is proved for the pair in a test's id; a claim about one pair needs no id."""
    assert proved({1: ["f.py::t[chat-to-gemini-sync-stream]", "f.py::t[x]"]}) == {1: {("C", "G")}}
    assert proved({19: ["f.py::t"], 20: ["f.py::t"]}) == {19: {("C", "M")}, 20: frozenset()}
    assert proved({13: ["f.py::t[whole-messages]"]}) == {13: {("M", "M")}}
    assert proved({19: ["f.py::t[messages-to-chat]"]}) == {19: frozenset()}
    assert proved({20: ["f.py::t[messages-chat]"]}) == {20: frozenset()}  # two parameters in either order


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
