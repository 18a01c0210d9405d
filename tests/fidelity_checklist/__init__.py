"""The fidelity checklist: 103 claims about what survives on the way between two protocols, as data.

A test says which claims it proves by `@pytest.mark.fidelity(27)`, and its id between which protocols. `pairs` reads
those, `page` writes `docs/protocols.md` from claims and proofs, and `python -m fidelity_checklist` (with `tests` on the
path) runs the tests first. A claim without a test is never called proved.
"""

from fidelity_checklist.cases import CASES, FEATURES, PAIRS, Case
from fidelity_checklist.marks import Proofs, proofs
from fidelity_checklist.page import PAGE, page
from fidelity_checklist.pairs import Proved, of_items, proved

__all__ = ["CASES", "FEATURES", "PAGE", "PAIRS", "Case", "Proofs", "Proved", "of_items", "page", "proofs", "proved"]
