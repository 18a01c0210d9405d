"""The harness of the executor's tests."""

from collections.abc import AsyncIterator

import pytest

from support.execution import ExecutorHarness


@pytest.fixture
async def harness() -> AsyncIterator[ExecutorHarness]:
    """Fail a test that leaves an answer open."""
    made = ExecutorHarness()
    yield made
    assert all(answer.closed for answer in made.given), "an answer was left open"
