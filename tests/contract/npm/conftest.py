"""One node process for all tests of a file's worker."""

from collections.abc import Iterator

import pytest

from support.npm import Node, running_node


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    with running_node() as process:
        yield process
