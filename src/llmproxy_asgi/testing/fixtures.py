"""The scripted upstream as a pytest fixture; import it into a conftest or a test module to have it."""

from collections.abc import Iterator

import pytest

from llmproxy_asgi.testing.upstream import ThreadedUpstream, Upstream


@pytest.fixture
def llm_upstream() -> Iterator[ThreadedUpstream]:
    """Yield a scripted upstream in a separate thread, for synchronous and asynchronous tests.

    Its `wait_*` methods block. An asynchronous test that needs them enters an `Upstream` instead.
    """
    with Upstream.in_thread() as upstream:
        yield upstream
