"""Log facts with the standard `logging`: one record for each call, and for further facts that concern an operator.

The fields are in each record's `extra`, for structured formatters; messages contain fixed texts and the reasons of
failures, so that no caller's text can look like another record. Records contain no prompt, no response, no secret and
no person's name. The host sets handlers, levels and formatters.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import override

from llmproxy_asgi.facts import (
    AnyFact,
    AttemptFailed,
    CallFinished,
    CallRefused,
    CredentialCooled,
    CredentialRecovered,
    EndObserver,
    TargetStateChanged,
    TokensCounted,
)

_calls = logging.getLogger("llmproxy_asgi.calls")
_upstreams = logging.getLogger("llmproxy_asgi.upstreams")

_MAX_LENGTH = 200
"""Characters of a caller's text in a record."""
_MAX_REASON = 400


class CallLog(EndObserver):
    """An observer that logs facts.

    Finished calls go to `llmproxy_asgi.calls`: at INFO, or at WARNING if an upstream or the gateway is to blame. Facts
    about upstreams go to `llmproxy_asgi.upstreams`.
    """

    @override
    def wants_successes(self) -> bool:
        """Whether records of successful calls are enabled."""
        return _calls.isEnabledFor(logging.INFO)

    @override
    def notice(self, fact: AnyFact, /) -> None:
        """Log a fact if its level is enabled."""
        log = _LOG_FUNCTIONS.get(type(fact))
        if log is not None:
            log(fact)


def _finished(fact: CallFinished) -> None:
    level = (
        logging.WARNING if fact.outcome == "interrupted" or fact.status >= 500 or fact.status == 429 else logging.INFO
    )
    if not _calls.isEnabledFor(level):
        return
    usage = fact.usage
    extra = {
        "request_id": fact.request_id,
        "protocol": fact.protocol,
        "model": shown(fact.model),
        "provider": fact.provider,
        "upstream_model": shown(fact.upstream_model),
        "upstream_protocol": fact.upstream_protocol,
        "outcome": fact.outcome,
        "status": fact.status,
        "kind": fact.kind,
        "error": fact.error,
        "reason": shown(fact.reason, _MAX_REASON),
        "stream": fact.stream,
        "attempts": fact.attempts,
        "input_tokens": usage.input if usage is not None else None,
        "output_tokens": usage.output if usage is not None else None,
        "usage": fact.exactness,
        "first_seconds": rounded(fact.first_seconds),
        "seconds": rounded(fact.seconds),
        "queue_seconds": rounded(fact.queue_seconds),
        "warnings": [shown(warning) for warning in fact.warnings],
    }
    _calls.log(
        level,
        "call %s%s: status %d%s, %d attempt(s), %.3f s%s",
        fact.outcome,
        f" at {fact.provider}" if fact.reason and fact.provider else "",
        fact.status,
        f", {fact.error}" if fact.error else "",
        fact.attempts,
        fact.seconds,
        f": {extra['reason']}" if fact.reason else "",
        extra=extra,
    )


def _refused(fact: CallRefused) -> None:
    level = logging.WARNING if fact.status >= 500 else logging.INFO
    if _calls.isEnabledFor(level):
        extra = {
            "request_id": fact.request_id,
            "protocol": fact.protocol,
            "status": fact.status,
            "kind": fact.kind,
            "error": fact.error,
        }
        _calls.log(level, "request refused: status %d, %s", fact.status, fact.error, extra=extra)


def _counted(fact: TokensCounted) -> None:
    level = logging.WARNING if fact.status >= 500 or fact.status == 429 else logging.INFO
    if _calls.isEnabledFor(level):
        extra = {
            "request_id": fact.request_id,
            "protocol": fact.protocol,
            "model": shown(fact.model),
            "provider": fact.provider,
            "upstream_model": shown(fact.upstream_model),
            "outcome": fact.outcome,
            "status": fact.status,
            "kind": fact.kind,
            "error": fact.error,
            "reason": shown(fact.reason, _MAX_REASON),
            "attempts": fact.requests,
            "input_tokens": fact.tokens,
            "seconds": rounded(fact.seconds),
        }
        cause = f": {extra['reason']}" if fact.reason else ""
        _calls.log(level, "count of tokens %s: status %d%s", fact.outcome, fact.status, cause, extra=extra)


def _failed(fact: AttemptFailed) -> None:
    if not _upstreams.isEnabledFor(logging.INFO):
        return
    extra = {
        "request_id": fact.request_id,
        "provider": fact.provider,
        "upstream_model": shown(fact.model),
        "credential": fact.credential,
        "attempt": fact.attempt,
        "kind": fact.kind,
        "status": fact.status,
        "reason": shown(fact.reason, _MAX_REASON),
        "upstream_request_id": shown(fact.upstream_request_id),
        "seconds": rounded(fact.seconds),
        "next_action": fact.next_action,
    }
    cause = f"{fact.kind}: {extra['reason']}" if fact.reason else fact.kind
    _upstreams.info("attempt %d at %s failed: %s", fact.attempt, fact.provider, cause, extra=extra)


def _cooled(fact: CredentialCooled) -> None:
    extra = {
        "provider": fact.provider,
        "credential": fact.credential,
        "upstream_model": shown(fact.model),
        "seconds": rounded(fact.seconds),
        "asked": fact.asked,
        "kind": fact.kind,
        "reason": shown(fact.reason, _MAX_REASON),
    }
    cause = f"{fact.kind}: {extra['reason']}" if fact.reason else fact.kind
    _upstreams.warning("%s cools down for %.3g s: %s", _subject(fact), fact.seconds, cause, extra=extra)


def _recovered(fact: CredentialRecovered) -> None:
    extra = {"provider": fact.provider, "credential": fact.credential, "upstream_model": shown(fact.model)}
    _upstreams.info("%s serves again", _subject(fact), extra=extra)


def _subject(fact: CredentialCooled | CredentialRecovered) -> str:
    """Describe the subject of a cooldown."""
    if not fact.credential:
        return fact.provider
    if not fact.model:
        return f"a credential of {fact.provider}"
    return f"{shown(fact.model)} by a credential of {fact.provider}"


def _changed(fact: TargetStateChanged) -> None:
    extra = {"provider": fact.provider, "healthy": fact.healthy, "reason": shown(fact.reason, _MAX_REASON)}
    level = logging.INFO if fact.healthy else logging.WARNING
    state = "answers its health check" if fact.healthy else f"fails its health check: {extra['reason']}"
    _upstreams.log(level, "%s %s", fact.provider, state, extra=extra)


_LOG_FUNCTIONS: Mapping[type, Callable[[Any], None]] = {
    CallFinished: _finished,
    CallRefused: _refused,
    TokensCounted: _counted,
    AttemptFailed: _failed,
    CredentialCooled: _cooled,
    CredentialRecovered: _recovered,
    TargetStateChanged: _changed,
}
"""The logging function for each type of fact; other facts are not logged."""


def shown(text: str, max_length: int = _MAX_LENGTH) -> str:
    """Shorten a caller's text for a record, on one line."""
    text = text if len(text) <= max_length else text[:max_length] + "..."
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def rounded(seconds: float | None) -> float | None:
    """Round to milliseconds."""
    return None if seconds is None else round(seconds, 3)
