"""The vocabulary's records, where they are more than their fields."""

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmproxy_asgi.conversation import Batch, Failed, Message, Request, Seal, StreamEvent, Text, Tool, ToolResult
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


def test_the_collector_skips_the_records_of_a_request() -> None:
    """Its hundred thousand parts do not lengthen a collection, which stops the process."""
    part = ToolResult(call_id="a", content=(Text(text="x", seals=(Seal(issuer="i", kind="signature", data="d"),)),))
    message = Message(role="tool", parts=(part,), extras={"openai-chat": {"x": []}})
    request = Request(protocol="openai-chat", model="m", messages=(message,), tools=(Tool(name="f"),))
    for record in (request, message, part, part.content[0], request.tools[0]):
        assert not gc.is_tracked(record)
