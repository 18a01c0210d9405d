"""A scripted upstream for the tests of providers, extensions and host applications.

It needs no test framework. `fixtures` offers it as a pytest fixture, and is the only module here that imports pytest.
"""

from llmproxy_asgi.testing.scenario import (
    Answer,
    Close,
    Drip,
    Gate,
    HalfClose,
    Hold,
    Received,
    Reset,
    Scenario,
    Send,
    Step,
    Wait,
    error_answer,
    json_answer,
    raw_answer,
    sse_answer,
)
from llmproxy_asgi.testing.upstream import ThreadedUpstream, Upstream

__all__ = [
    "Answer",
    "Close",
    "Drip",
    "Gate",
    "HalfClose",
    "Hold",
    "Received",
    "Reset",
    "Scenario",
    "Send",
    "Step",
    "ThreadedUpstream",
    "Upstream",
    "Wait",
    "error_answer",
    "json_answer",
    "raw_answer",
    "sse_answer",
]
