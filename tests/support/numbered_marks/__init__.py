"""Marks with numbers, such as `@pytest.mark.fault(7)`: which tests carry which, and how those tests end.

`proofs` finds the marks by reading the source, `run` runs the tests that carry one. What the numbers stand for, and the
page that is made of it, is up to the callers (`fidelity_checklist`, `fault_matrix`).
"""

from support.numbered_marks.reading import TESTS, Proofs, proofs
from support.numbered_marks.running import Outcomes, run

__all__ = ["TESTS", "Outcomes", "Proofs", "proofs", "run"]
