"""What every test shares: one event loop family, and property tests that neither the clock nor chance can fail."""

import pytest
from hypothesis import settings

from fidelity_checklist import collecting

settings.register_profile("project", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("project")


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, the only family that is supported."""
    return "asyncio"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note what the tests prove of the fidelity checklist, before any is deselected."""
    collecting.note(config, items)
