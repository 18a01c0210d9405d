"""Spans: the host's own tracing shows a call below its request, and each attempt below the call."""

import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import SpanKind, StatusCode

from llmproxy_asgi.conversation import Usage
from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.facts import CredentialRecovered
from llmproxy_asgi.telemetry.opentelemetry import ATTRIBUTES, Tracing
from support.telemetry import began, failed, finished, started


class Host:
    """A host's tracing, and ours in it."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(self.provider)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def host() -> Host:
    return Host()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_attempts_stand_below_their_call_and_the_call_below_the_request(host: Host) -> None:
    """The call's span is a child of the host's current span, and each attempt's a client span below the call's."""
    with host.provider.get_tracer("host").start_as_current_span("POST /llm"):
        host.tracing.notice(started())
    host.tracing.notice(began(1, 1))
    host.tracing.notice(failed(1, 1))
    host.tracing.notice(began(1, 2, provider="claude", model="opus", protocol="anthropic-messages"))
    spent = Usage(input=30, output=5, cache_read=20, reasoning=2)
    host.tracing.notice(finished(1, provider="claude", upstream_model="opus", usage=spent, attempts=2))
    spans = host.spans()
    call, first, second = spans["llmproxy chat"], spans["chat gpt-x"], spans["chat opus"]
    assert call.parent is not None
    assert call.parent.span_id == spans["POST /llm"].context.span_id
    assert (call.kind, first.kind, second.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.CLIENT)
    for attempt in (first, second):
        assert attempt.parent is not None
        assert attempt.parent.span_id == call.context.span_id
    assert first.status.status_code is StatusCode.ERROR
    assert attributes(first)["error.type"] == "overloaded"
    assert attributes(first)["http.response.status_code"] == 503
    assert second.status.status_code is StatusCode.UNSET
    told = attributes(second)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "anthropic"
    assert told["gen_ai.request.model"] == "opus"
    assert told["gen_ai.usage.input_tokens"] == 30
    assert told["gen_ai.usage.cache_read.input_tokens"] == 20
    assert "gen_ai.usage.cache_creation.input_tokens" not in told
    assert attributes(call)["llmproxy.attempts"] == 2
    assert attributes(call)["gen_ai.request.model"] == "smart"
    assert attributes(call)["llmproxy.request_id"] == "req_1"
    assert "ada" not in str([attributes(span) for span in spans.values()])


def test_a_stream_that_breaks_fails_both(host: Host) -> None:
    """A stream that broke is an error of the call and of the attempt that was under way."""
    for fact in (started(), began(), finished(outcome="interrupted", kind="upstream", error="UpstreamUnreachable")):
        host.tracing.notice(fact)
    assert {span.status.status_code for span in host.spans().values()} == {StatusCode.ERROR}
    assert not host.tracing._calls


def test_a_caller_who_leaves_is_no_error(host: Host) -> None:
    """Both spans end, and neither is an error."""
    for fact in (started(protocol="gemini"), began(), finished(outcome="cancelled")):
        host.tracing.notice(fact)
    assert set(host.spans()) == {"llmproxy generate_content", "chat gpt-x"}
    assert {span.status.status_code for span in host.spans().values()} == {StatusCode.UNSET}


def test_parallel_attempts_end_with_their_call(host: Host) -> None:
    """What several attempts cost together stands on the call alone."""
    for fact in (started(), began(1, 1), began(1, 2, model="gpt-y"), finished()):
        host.tracing.notice(fact)
    spans = host.spans()
    assert "gen_ai.usage.input_tokens" not in attributes(spans["chat gpt-x"])
    assert attributes(spans["llmproxy chat"])["gen_ai.usage.input_tokens"] == 3


def test_facts_of_calls_it_did_not_see_begin(host: Host) -> None:
    """An observer that came late makes no spans of what it has not seen begin."""
    for fact in (began(), failed(), finished(), CredentialRecovered(provider="openai", credential="f")):
        host.tracing.notice(fact)
    assert host.spans() == {}


def test_the_hosts_own_provider_is_used_if_none_is_given() -> None:
    """Without a provider of its own it takes the global one, which makes nothing where none is set up."""
    tracing = Tracing()
    tracing.notice(started())
    tracing.notice(finished())
    assert isinstance(trace.get_current_span(), trace.NonRecordingSpan)


def test_names_are_the_conventions() -> None:
    """Every attribute is one of the conventions for generative AI, one of two general ones, or begins with our name."""
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    known |= {"error.type", "http.response.status_code"}
    assert [name for name in ATTRIBUTES.values() if name not in known and not name.startswith("llmproxy.")] == []


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where opentelemetry-api is missing, the error names the extra."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MisuseError, match=r"llmproxy-asgi\[otel\]"):
        Tracing()
