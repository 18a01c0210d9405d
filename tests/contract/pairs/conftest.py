"""One gateway and one upstream for all tests of the pairs; each test starts with a clean sheet."""

from collections.abc import Iterator

import pytest

from support.pairs import Stage, staged


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    with staged(spares=300) as made:
        yield made


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    shared_stage.reset()
    yield shared_stage
    errors, shared_stage.upstream.errors = shared_stage.upstream.errors, []
    shared_stage.reset()
    assert errors == []
