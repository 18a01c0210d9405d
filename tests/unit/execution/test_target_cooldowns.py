"""What a failure stops: one model by one credential, a credential, or an upstream; never more than it is about."""

from typing import Any

import pytest

from llmproxy_asgi.errors import (
    UpstreamAuthFailed,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamFailed,
    UpstreamNotConnected,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTLSError,
    UpstreamTooSlow,
    UpstreamUnreachable,
)
from llmproxy_asgi.execution.cooldown import FAILURE_THRESHOLD, MAX_MODELS, Cooldown, Subject
from llmproxy_asgi.execution.target_cooldowns import TargetCooldowns
from llmproxy_asgi.providers.base import Provider
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.providers.target import Target
from support.clock import FakeClock


def account_limit(**options: Any) -> UpstreamRateLimited:
    limit = UpstreamRateLimited("", **options)
    limit.about = "credential"
    return limit


class CooldownHarness:
    """One provider with two keys, and what is known of it."""

    def __init__(self) -> None:
        made = provider_class("openai-compatible")
        config = made.Config(type="openai-compatible", base_url="http://127.0.0.1/v1", api_key=["key-1", "key-2"])
        self.provider: Provider = made("p", config)
        self.clock = FakeClock()
        self.told: list[tuple[Subject, float | None]] = []
        self.cooldowns = TargetCooldowns(self.clock, on_change=self._notice)

    def _notice(self, subject: Subject, cooldown: Cooldown | None) -> None:
        self.told.append((subject, cooldown.seconds if cooldown else None))

    def fail(
        self, error: UpstreamError, *, times: int = 1, model: str = "big", key: int = 0, cooldown: float = 30
    ) -> None:
        for _ in range(times):
            self.cooldowns.failed(Target(self.provider, model), self.provider.credentials[key], error, cooldown)

    @property
    def stopped(self) -> set[tuple[str, int]]:
        """The pairs of a model and a key that may not be tried."""
        return {
            (model, number)
            for model in ("big", "small")
            for number, credential in enumerate(self.provider.credentials)
            if self.cooldowns.active(Target(self.provider, model), credential) is not None
        }


BIG_BY_ONE = {("big", 0)}
KEY_ONE = {("big", 0), ("small", 0)}
ALL = {("big", 0), ("big", 1), ("small", 0), ("small", 1)}


@pytest.mark.parametrize(
    ("error", "stopped"),
    [
        (UpstreamRateLimited("", retry_after=60), BIG_BY_ONE),
        (UpstreamRateLimited(""), BIG_BY_ONE),
        (account_limit(retry_after=60), KEY_ONE),
        (account_limit(), KEY_ONE),
        (UpstreamAuthFailed(""), KEY_ONE),
        (UpstreamQuotaExceeded(""), KEY_ONE),
    ],
    ids=["429 with a wait", "429", "account's 429 with a wait", "account's 429", "401", "quota"],
)
def test_a_telling_off_stops_what_it_is_about(error: UpstreamError, stopped: set[tuple[str, int]]) -> None:
    """At once, and nothing beside it."""
    harness = CooldownHarness()
    harness.fail(error)
    assert harness.stopped == stopped


@pytest.mark.parametrize(
    ("error", "stopped"),
    [
        (UpstreamFailed(""), BIG_BY_ONE),
        (UpstreamProtocolError(""), BIG_BY_ONE),
        (UpstreamTooSlow(""), BIG_BY_ONE),
        (UpstreamUnreachable(""), BIG_BY_ONE),
        (UpstreamNotConnected(""), ALL),
        (UpstreamConnectTimeout(""), ALL),
        (UpstreamTLSError(""), ALL),
        (UpstreamRefused(""), set()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_in_a_row_stop_what_they_are_about(error: UpstreamError, stopped: set[tuple[str, int]]) -> None:
    """Stop a model after so many failures of it, and every model and key after so many missing connections."""
    harness = CooldownHarness()
    harness.fail(error, times=FAILURE_THRESHOLD - 1)
    assert harness.stopped == set()
    harness.fail(error)
    assert harness.stopped == stopped


def test_missing_connections_are_counted_over_all_models_and_keys() -> None:
    """Add them up over all models and keys, because each means the same."""
    harness = CooldownHarness()
    for number in range(FAILURE_THRESHOLD):
        harness.fail(UpstreamNotConnected(""), model=f"m{number}", key=number % 2)
    assert harness.stopped == ALL


@pytest.mark.parametrize("answer", [UpstreamFailed(""), UpstreamRateLimited(""), UpstreamRefused("")])
def test_any_answer_shows_that_there_is_a_connection(answer: UpstreamError) -> None:
    """What an upstream answers, even a refusal, ends the row of missing connections."""
    harness = CooldownHarness()
    harness.fail(UpstreamNotConnected(""), times=FAILURE_THRESHOLD - 1)
    harness.fail(answer, model="other")
    harness.fail(UpstreamNotConnected(""), times=FAILURE_THRESHOLD - 1)
    assert harness.stopped == set()


def test_another_models_answers_forgive_nothing() -> None:
    """A model that always fails cools down, however well its neighbour does."""
    harness = CooldownHarness()
    for _ in range(FAILURE_THRESHOLD):
        harness.cooldowns.succeeded(Target(harness.provider, "small"), harness.provider.credentials[0])
        harness.fail(UpstreamFailed(""))
    assert harness.stopped == BIG_BY_ONE


def test_of_several_cooldowns_the_last_one_counts() -> None:
    """Use the last end of several cooldowns; if an upstream asked for one, try nothing before."""
    harness = CooldownHarness()
    harness.fail(UpstreamRateLimited("", retry_after=20))
    harness.fail(UpstreamAuthFailed(""), cooldown=50)
    cooldown = harness.cooldowns.active(Target(harness.provider, "big"), harness.provider.credentials[0])
    assert cooldown is not None
    assert (harness.cooldowns.seconds_left(cooldown), cooldown.asked) == (50, True)
    harness.clock.at += 20
    cooldown = harness.cooldowns.active(Target(harness.provider, "big"), harness.provider.credentials[0])
    assert cooldown is not None
    assert (harness.cooldowns.seconds_left(cooldown), cooldown.asked) == (30, False)


@pytest.mark.parametrize("cooldown", [0.0, 0.001])
def test_tiny_cooldowns_stop_nothing_for_long(cooldown: float) -> None:
    """Begin no cooldown with `0`, a short one with `1ms`, and respect a wait that is asked for with either."""
    harness = CooldownHarness()
    for error in (UpstreamRateLimited(""), UpstreamAuthFailed(""), UpstreamQuotaExceeded("")):
        harness.fail(error, cooldown=0)
    harness.fail(UpstreamFailed(""), times=FAILURE_THRESHOLD, cooldown=cooldown)
    harness.clock.at += 0.001
    assert harness.stopped == set()
    harness.fail(UpstreamRateLimited("", retry_after=3), cooldown=cooldown)
    assert harness.stopped == BIG_BY_ONE


def test_one_call_tries_a_whole_upstream_first() -> None:
    """Allow one call, whatever its model and key, while the upstream's circuit is half open."""
    harness = CooldownHarness()
    harness.fail(UpstreamNotConnected(""), times=FAILURE_THRESHOLD)
    harness.clock.at += 30
    assert harness.stopped == set()
    first = Target(harness.provider, "big"), harness.provider.credentials[0]
    harness.cooldowns.attempt_started(*first)
    assert harness.stopped == ALL
    harness.cooldowns.response_started(*first)
    assert harness.stopped == set()


def test_changes_name_what_they_are_about() -> None:
    """A listener reads provider, credential and model, the latter two empty where all are meant."""
    harness = CooldownHarness()
    key = harness.provider.credentials[0].fingerprint
    harness.fail(UpstreamRateLimited("", retry_after=3))
    harness.fail(UpstreamAuthFailed(""))
    harness.fail(UpstreamNotConnected(""), times=FAILURE_THRESHOLD)
    harness.clock.at += 60
    harness.cooldowns.succeeded(Target(harness.provider, "big"), harness.provider.credentials[0])
    begun = [(Subject("p", key, "big"), 3), (Subject("p", key), 30), (Subject("p"), 30)]
    assert harness.told[:3] == begun
    assert {subject for subject, cooldown in harness.told[3:] if cooldown is None} == {subject for subject, _ in begun}


def test_recovery_is_observed_although_the_wait_was_read_before() -> None:
    """Report a recovery although the target's state was read during the cooldown."""
    harness = CooldownHarness()
    harness.fail(UpstreamRateLimited("", retry_after=3))
    harness.clock.at += 3
    assert harness.stopped == set()
    harness.cooldowns.succeeded(Target(harness.provider, "big"), harness.provider.credentials[0])
    assert harness.told[-1] == (Subject("p", harness.provider.credentials[0].fingerprint, "big"), None)
    assert harness.cooldowns.is_empty


def test_models_that_callers_invent_fill_no_memory() -> None:
    """The oldest model is forgotten beyond a bound; keys and upstreams never are."""
    harness = CooldownHarness()
    harness.fail(UpstreamAuthFailed(""))
    for number in range(MAX_MODELS + 5):
        harness.fail(UpstreamRateLimited("", retry_after=60), model=f"m{number}", key=1)
    subjects = [subject for subject, _ in harness.cooldowns.all_active()]
    assert sum(bool(subject.model) for subject in subjects) == MAX_MODELS
    assert Subject("p", harness.provider.credentials[0].fingerprint) in subjects
