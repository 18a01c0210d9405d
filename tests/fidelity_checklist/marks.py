"""Which tests prove what."""

from pathlib import Path

from support import numbered_marks
from support.numbered_marks import TESTS, Proofs

__all__ = ["TESTS", "Proofs", "proofs"]


def proofs(tests: Path = TESTS) -> dict[int, Proofs]:
    """The proofs of each number that any test carries."""
    return numbered_marks.proofs("fidelity", tests)
