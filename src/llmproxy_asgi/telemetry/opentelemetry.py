"""Trace facts with the host's own OpenTelemetry: one span for each call, with a child span for each attempt.

::

    POST /llm/v1/messages            the host's request span, where it has one
      └─ llmproxy chat               the call      (INTERNAL)
           ├─ chat gpt-5             an attempt    (CLIENT), failed
           └─ chat claude-opus       an attempt    (CLIENT)

Only the API is used (the extra `otel`): the host configures the provider, the exporter and the sampler. Attributes
follow the semantic conventions for generative AI, as of release 1.37; only `ATTRIBUTES` names them. No prompt, no
response, no secret and no person's name becomes an attribute.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmproxy_asgi.errors import MisuseError
from llmproxy_asgi.facts import AnyFact, AttemptBegan, AttemptFailed, CallFinished, CallStarted
from llmproxy_asgi.telemetry.logs import rounded, shown

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

    Value = str | int | float | bool | list[str]

MISSING = "Spans need opentelemetry-api: pip install 'llmproxy-asgi[otel]'"

ATTRIBUTES = {
    "operation": "gen_ai.operation.name",
    "vendor": "gen_ai.provider.name",
    "asked": "gen_ai.request.model",
    "stream": "gen_ai.request.stream",
    "answers": "gen_ai.response.model",
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "cache_read": "gen_ai.usage.cache_read.input_tokens",
    "cache_write": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
    "first": "gen_ai.response.time_to_first_chunk",
    "error": "error.type",
    "http_status": "http.response.status_code",
    # Attributes that the conventions do not define:
    "request_id": "llmproxy.request_id",
    "protocol": "llmproxy.protocol",
    "upstream_protocol": "llmproxy.upstream.protocol",
    "provider": "llmproxy.provider",
    "credential": "llmproxy.credential",
    "attempt": "llmproxy.attempt",
    "attempts": "llmproxy.attempts",
    "next_action": "llmproxy.attempt.next_action",
    "reason": "llmproxy.reason",
    "upstream_request_id": "llmproxy.upstream.request_id",
    "outcome": "llmproxy.outcome",
    "status": "llmproxy.status",
    "exactness": "llmproxy.usage",
    "queue": "llmproxy.queue_seconds",
    "warnings": "llmproxy.warnings",
}
"""The names of attributes, by the names used in this module."""

_OPERATIONS = {
    "gemini": "generate_content",
    "openai-completions": "text_completion",
    "openai-embeddings": "embeddings",
    "gemini-embeddings": "embeddings",
}
_CHAT = "chat"
_VENDORS = {"anthropic-messages": "anthropic", "gemini": "gcp.gemini", "gemini-embeddings": "gcp.gemini"}
_OPENAI = "openai"


@dataclass(slots=True)
class _Traced:
    """The spans of one active call."""

    span: "Span"
    context: "Context"
    """A context with the call's span as the current one, the parent of its attempts."""
    attempts: "dict[int, Span]" = field(default_factory=dict)


class Tracing:
    """An observer that creates spans: `LLMProxy(..., observers=[Tracing()])`.

    Args:
        tracer_provider: The host's provider; by default the global one.

    Raises:
        MisuseError: opentelemetry-api is not installed.
    """

    def __init__(self, tracer_provider: "TracerProvider | None" = None) -> None:
        try:
            from opentelemetry import trace
        except ImportError:
            raise MisuseError(MISSING) from None
        self._trace = trace
        self._tracer = trace.get_tracer("llmproxy_asgi", tracer_provider=tracer_provider)
        self._calls: dict[int, _Traced] = {}

    def notice(self, fact: AnyFact) -> None:
        """Start or end a span."""
        match fact:
            case CallStarted():
                self._started(fact)
            case AttemptBegan():
                self._began(fact)
            case AttemptFailed():
                self._failed(fact)
            case CallFinished():
                self._finished(fact)
            case _:
                pass

    def _started(self, fact: CallStarted) -> None:
        operation = _OPERATIONS.get(fact.protocol, _CHAT)
        # The current context is the host's: this runs in the task of the request.
        span = self._tracer.start_span(
            f"llmproxy {operation}",
            kind=self._trace.SpanKind.INTERNAL,
            attributes=named(
                operation=operation,
                asked=shown(fact.model),
                stream=fact.stream,
                protocol=fact.protocol,
                request_id=fact.request_id,
            ),
        )
        self._calls[fact.call] = _Traced(span, self._trace.set_span_in_context(span))

    def _began(self, fact: AttemptBegan) -> None:
        traced = self._calls.get(fact.call)
        if traced is None:
            return
        operation = _OPERATIONS.get(fact.protocol, _CHAT)
        model = shown(fact.model)
        traced.attempts[fact.attempt] = self._tracer.start_span(
            f"{operation} {model}",
            context=traced.context,
            kind=self._trace.SpanKind.CLIENT,
            attributes=named(
                operation=operation,
                vendor=_VENDORS.get(fact.protocol, _OPENAI),
                asked=model,
                provider=fact.provider,
                upstream_protocol=fact.protocol,
                credential=fact.credential,
                attempt=fact.attempt,
            ),
        )

    def _failed(self, fact: AttemptFailed) -> None:
        traced = self._calls.get(fact.call)
        span = traced.attempts.pop(fact.attempt, None) if traced is not None else None
        if span is not None:
            span.set_attributes(
                named(
                    error=fact.kind,
                    http_status=fact.status,
                    next_action=fact.next_action,
                    reason=fact.reason or None,
                    upstream_request_id=fact.upstream_request_id or None,
                )
            )
            self._end(span, fact.kind)

    def _finished(self, fact: CallFinished) -> None:
        traced = self._calls.pop(fact.call, None)
        if traced is None:
            return
        usage = _usage(fact)
        for span in traced.attempts.values():
            if len(traced.attempts) == 1:
                span.set_attributes(usage)
            self._end(span, fact.kind if fact.outcome == "interrupted" else "")
        traced.span.set_attributes(usage)
        traced.span.set_attributes(
            named(
                provider=fact.provider or None,
                upstream_protocol=fact.upstream_protocol or None,
                outcome=fact.outcome,
                status=fact.status,
                reason=fact.reason or None,
                attempts=fact.attempts,
                exactness=fact.exactness,
                queue=rounded(fact.queue_seconds) or None,
                warnings=[shown(warning) for warning in fact.warnings] or None,
            )
        )
        self._end(traced.span, fact.kind)

    def _end(self, span: "Span", kind: str) -> None:
        if kind:
            span.set_attributes(named(error=kind))
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, kind))
        span.end()


def named(**values: "Value | None") -> "Mapping[str, Value]":
    """Return attributes under their names, without those that are None."""
    return {ATTRIBUTES[word]: value for word, value in values.items() if value is not None}


def _usage(fact: CallFinished) -> "Mapping[str, Value]":
    usage = fact.usage
    return named(
        answers=shown(fact.upstream_model) or None,
        first=fact.first_seconds,
        input=usage.input if usage is not None else None,
        output=usage.output if usage is not None else None,
        cache_read=(usage.cache_read or None) if usage is not None else None,
        cache_write=(usage.cache_write or None) if usage is not None else None,
        reasoning=(usage.reasoning or None) if usage is not None else None,
    )
