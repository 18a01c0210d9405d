"""The fidelity checklist: 103 claims about what survives on the way between two protocols, as data.

A test says which claims it proves by `@pytest.mark.fidelity(27)`. `marks` finds those tests by reading the source,
`page` writes `docs/protocols.md` from claims and marks, and `python -m fidelity_checklist` (with `tests` on the path)
runs the tests first. A claim without a test is never called passed.
"""

from fidelity_checklist.cases import CASES, Case
from fidelity_checklist.marks import Proofs, proofs
from fidelity_checklist.page import PAGE, page

__all__ = ["CASES", "PAGE", "Case", "Proofs", "page", "proofs"]
