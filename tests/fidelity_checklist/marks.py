"""Which tests prove what."""

from pathlib import Path

import numbered_marks
from numbered_marks import TESTS, Proofs

__all__ = ["TESTS", "Proofs", "proofs"]


def proofs(tests: Path = TESTS) -> dict[int, Proofs]:
    """The proofs of each number that any test carries."""
    return numbered_marks.proofs("fidelity", tests)
