"""A slice of the soak: forty streams for some seconds, with all its faults, leavers and checks but memory's slope."""

import asyncio
from pathlib import Path

from soak.run import Options, report, soak


def test_a_slice_of_the_soak_breaks_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Healthy answers are whole, books agree, and the process has what it had before; `make soak` runs it for long."""
    outcome = asyncio.run(soak(Options(seconds=15, streams=40, pace=0.1, seed=5), tmp_path))
    assert outcome.passed, f"{report(outcome)}\n{(tmp_path / 'host.log').read_text(errors='replace')[-3000:]}"
    assert outcome.calls > 150
