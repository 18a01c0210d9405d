"""What every test shares: one event loop family, and property tests that neither the clock nor chance can fail."""

import pytest
from hypothesis import settings

settings.register_profile("project", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("project")


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, the only family that is supported."""
    return "asyncio"
