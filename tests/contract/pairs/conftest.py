"""One gateway and one upstream for all tests of the pairs; each test starts with a clean sheet."""

from collections.abc import Iterator

import pytest

from support.pairs import PairHarness, pair_harness


@pytest.fixture(scope="session")
def shared_harness() -> Iterator[PairHarness]:
    with pair_harness(spares=300) as made:
        yield made


@pytest.fixture
def harness(shared_harness: PairHarness) -> Iterator[PairHarness]:
    shared_harness.reset()
    yield shared_harness
    errors, shared_harness.upstream.errors = shared_harness.upstream.errors, []
    shared_harness.reset()
    assert errors == []
