"""Facts as calls leave them, and a page of metrics read back into numbers."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from llmproxy_asgi.conversation import Usage
from llmproxy_asgi.facts import AnyFact, AttemptBegan, AttemptFailed, CallFinished, CallStarted

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class RecordingObserver:
    """Keep every fact."""

    def __init__(self) -> None:
        self.facts: list[AnyFact] = []

    def notice(self, fact: AnyFact, /) -> None:
        self.facts.append(fact)

    def finished(self) -> list[CallFinished]:
        """Every call's end."""
        return [fact for fact in self.facts if isinstance(fact, CallFinished)]


def started(call: int = 1, **fields: Any) -> CallStarted:
    """A call's beginning."""
    usual: dict[str, Any] = {
        "request_id": f"req_{call}",
        "protocol": "openai-chat",
        "model": "smart",
        "stream": True,
        "principal": "ada",
        "principal_kind": "user",
        "tenant": "",
    }
    return CallStarted(call=call, **{**usual, **fields})


def began(call: int = 1, attempt: int = 1, **fields: Any) -> AttemptBegan:
    """An attempt's beginning."""
    usual: dict[str, Any] = {
        "provider": "openai",
        "model": "gpt-x",
        "protocol": "openai-chat",
        "credential": "openai:0f",
    }
    return AttemptBegan(call=call, attempt=attempt, **{**usual, **fields})


def failed(call: int = 1, attempt: int = 1, **fields: Any) -> AttemptFailed:
    """An attempt's failure."""
    usual: dict[str, Any] = {
        "provider": "openai",
        "model": "gpt-x",
        "credential": "openai:0f",
        "kind": "overloaded",
        "status": 503,
        "seconds": 0.25,
        "next_action": "failover",
    }
    return AttemptFailed(call=call, attempt=attempt, **{**usual, **fields})


def finished(call: int = 1, **fields: Any) -> CallFinished:
    """A call's good end."""
    usual: dict[str, Any] = {
        "request_id": f"req_{call}",
        "principal": "ada",
        "principal_kind": "user",
        "tenant": "",
        "protocol": "openai-chat",
        "model": "smart",
        "provider": "openai",
        "upstream_model": "gpt-x",
        "upstream_protocol": "openai-chat",
        "outcome": "ok",
        "status": 200,
        "kind": "",
        "error": "",
        "stream": True,
        "attempts": 1,
        "usage": Usage(input=3, output=5),
        "exactness": "exact",
        "first_seconds": 0.3,
        "seconds": 1.2,
        "queue_seconds": 0.0,
        "warnings": (),
    }
    return CallFinished(call=call, **{**usual, **fields})


def series(page: str | bytes) -> Series:
    """Every sample of a page, by its name and labels."""
    text = page if isinstance(page, str) else page.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Series, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry at least these labels."""
    return sum(
        number for (each, marks), number in found.items() if each == name and labels.items() <= dict(marks).items()
    )
