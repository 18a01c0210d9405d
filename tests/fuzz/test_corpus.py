"""Whatever fuzzing has found stays found."""

import asyncio
from pathlib import Path

import pytest

from fuzz.corpus import files, load
from fuzz.harness import FuzzHarness


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_find_breaks_nothing_any_more(path: Path) -> None:
    """An input that once broke a promise is answered as it must be, and leaves nothing behind."""

    async def play() -> None:
        async with FuzzHarness() as harness:
            await load(path).play(harness)

    asyncio.run(play())
