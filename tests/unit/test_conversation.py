"""The vocabulary's records, where they are more than their fields."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmproxy_asgi.conversation import Batch, Failed, StreamEvent
from llmproxy_asgi.errors import GatewayError, UpstreamFailed


@pytest.mark.parametrize("made", [tuple, list])
def test_a_failure_that_was_raised_leaves_nothing_behind(made: Callable[[Any], Sequence[StreamEvent]]) -> None:
    """Error, frame, batch and event hold each other in a circle; the collector can take all of them."""

    def fail() -> None:
        batch = Batch(made([Failed(UpstreamFailed("gone"))]))
        last = batch.events[-1]
        assert isinstance(last, Failed)
        raise last.error

    left: list[weakref.ref[GatewayError]] = []
    try:
        fail()
    except UpstreamFailed as error:
        left.append(weakref.ref(error))
    gc.collect()
    assert left[0]() is None
