"""The fault matrix: what goes wrong on either side of a gateway, and what it does then, as data.

A test says which rows it proves by `@pytest.mark.fault(7)`. `page` writes the table of `docs/reliability.md` from rows
and marks, and `python -m fault_matrix` (with `tests` on the path; `make faults`) runs those tests first. A row without
a test is never called passed.
"""

from fault_matrix.page import PAGE, table
from fault_matrix.rows import ROWS, Row

__all__ = ["PAGE", "ROWS", "Row", "table"]
