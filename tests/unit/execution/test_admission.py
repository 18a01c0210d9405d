"""Queues by caller and by target: their owners, what a reload keeps, and what is evicted."""

import asyncio
from typing import Any

import pytest

from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.errors import RateLimited, Unavailable
from llmproxy_asgi.execution.admission import AdmissionQueues, CallerQueues, TargetAdmission, admit
from llmproxy_asgi.execution.admission_queue import UNLIMITED
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.providers.base import Credential, Provider
from llmproxy_asgi.providers.registry import provider_class
from llmproxy_asgi.providers.target import Target
from llmproxy_asgi.settings import CallerLimits, CallLimits
from support.clock import FakeClock

pytestmark = pytest.mark.anyio

ANN, BOB = Owner("user", "", "ann"), Owner("user", "", "bob")
ONE_A_MINUTE = CallLimits(calls=((1 / 60, 1.0),))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def providers(**blocks: dict[str, Any]) -> list[Provider]:
    common = {"type": "openai-compatible", "base_url": "https://a.example/v1"}
    keys = {"api_key": ["sk-0123456789-a", "sk-0123456789-b"]}
    config = load_config({"providers": {name: {**common, **keys, **block} for name, block in blocks.items()}})
    return [provider_class(block.type)(name, block) for name, block in config.providers.items()]


def places(*made: Provider) -> list[tuple[Target, Credential]]:
    """Every credential of every provider."""
    return [(Target(one, "m"), credential) for one in made for credential in one.credentials]


def admission(queues: AdmissionQueues, made: list[Provider]) -> TargetAdmission:
    found = queues.targets(made)
    assert found is not None
    return found


async def test_each_owner_has_separate_limits(clock: FakeClock) -> None:
    """Count equal limits of two owners separately, also of one name in two tenants."""
    queues = CallerQueues(clock)
    for owner in (ANN, BOB, Owner("user", "acme", "ann")):
        await admit(queues.queue(owner, ONE_A_MINUTE), 0)
        with pytest.raises(RateLimited) as caught:
            await admit(queues.queue(owner, ONE_A_MINUTE), 0)
        assert caught.value.retry_after == pytest.approx(60.0)


async def test_idle_queues_are_evicted(clock: FakeClock) -> None:
    """Keep only the queues that matter, however many callers there were."""
    queues = CallerQueues(clock)
    queues.queue(ANN, ONE_A_MINUTE).try_admit(0)
    for number in range(5_000):
        queues.queue(Owner("user", "", f"user-{number}"), ONE_A_MINUTE).try_admit(0)
        clock.at += 1
        if number % 30 == 0:
            assert queues.queue(BOB, ONE_A_MINUTE).try_admit(0) is not None or number == 0
            assert queues.queue(BOB, ONE_A_MINUTE).try_admit(0) is None, "was evicted too early"
            clock.at += 60
    assert len(queues) < 200


async def test_the_queue_of_a_running_call_is_kept(clock: FakeClock) -> None:
    """Keep a caller's slot while its call runs, however long it takes and however many others call meanwhile."""
    queues = CallerQueues(clock)
    limits = CallLimits(max_concurrency=1)
    permit = queues.queue(ANN, limits).try_admit(0)
    assert permit is not None
    for number in range(1_000):
        queues.queue(Owner("user", "", f"user-{number}"), limits)
    assert queues.queue(ANN, limits).try_admit(0) is None
    permit.release()
    assert queues.queue(ANN, limits).try_admit(0) is not None


async def test_nothing_is_made_where_nothing_is_limited(clock: FakeClock) -> None:
    """Create nothing for a plan without limits."""
    assert AdmissionQueues(clock).targets(providers(a={}, b={"retry": {"attempts": 1}})) is None
    assert CallerLimits().call_limits is None


async def test_a_provider_without_limits_takes_everything(clock: FakeClock) -> None:
    """Admit calls without a limit, beside a provider with limits."""
    made = providers(free={}, bound={"max_concurrency": 1})
    one = admission(AdmissionQueues(clock), made)
    (free, _), (bound, credential) = places(*made)[0], places(*made)[2]
    assert one.try_admit(free, made[0].credentials[0], 0) is UNLIMITED
    assert one.try_admit(bound, credential, 0) is not None
    assert one.try_admit(bound, credential, 0) is None
    target, _, permit = await one.wait([(bound, credential), (free, made[0].credentials[0])], 0)
    assert (target.provider.name, permit) == ("free", UNLIMITED)


async def test_a_reload_keeps_the_state_of_unchanged_limits(clock: FakeClock) -> None:
    """Keep the used quota across a reload with a new provider object; start anew where limits changed."""
    queues = AdmissionQueues(clock)
    limits = {"rate_limit": {"requests_per_second": 0.1, "burst": 1}}
    before = providers(a=limits)
    assert admission(queues, before).try_admit(*places(*before)[0], 0) is not None
    same = providers(a={**limits, "priority": 5})
    assert admission(queues, same).try_admit(*places(*same)[0], 0) is None
    other = providers(a={"rate_limit": {"requests_per_second": 0.2, "burst": 1}})
    assert admission(queues, other).try_admit(*places(*other)[0], 0) is not None


async def test_the_slots_of_a_provider_are_one_number_whatever_keys_it_has(clock: FakeClock) -> None:
    """Share slots among keys with separate rates, also with a key that a reload adds."""
    queues = AdmissionQueues(clock)
    limits = {"max_concurrency": 2, "rate_limit": {"requests_per_second": 100, "scope": "credential"}}
    before = providers(a=limits)
    for place in places(*before):
        assert admission(queues, before).try_admit(*place, 0) is not None
    after = providers(a={**limits, "api_key": ["sk-0123456789-a", "sk-0123456789-b", "sk-0123456789-c"]})
    one = admission(queues, after)
    assert [one.try_admit(*place, 0) for place in places(*after)] == [None, None, None]


async def test_a_key_that_two_providers_use_has_each_ones_limits(clock: FakeClock) -> None:
    """Limit providers separately, also with the same secret."""
    made = providers(a={"max_concurrency": 1}, b={"max_concurrency": 1})
    one = admission(AdmissionQueues(clock), made)
    taken = [one.try_admit(*place, 0) is not None for place in places(*made)]
    assert taken == [True, False, True, False]


async def test_the_error_where_all_are_at_their_limits(clock: FakeClock) -> None:
    """Name the shortest wait; send 429 for a rate, and 503 if only the end of other calls adds capacity."""
    made = providers(
        slow={"rate_limit": {"requests_per_second": 0.01, "burst": 1}},
        quick={"rate_limit": {"requests_per_second": 0.1, "burst": 1}},
        busy={"max_concurrency": 1},
    )
    one = admission(AdmissionQueues(clock), made)
    for place in places(*made)[::2]:
        assert one.try_admit(*place, 0) is not None
    slow, quick, busy = (places(provider) for provider in made)
    with pytest.raises(RateLimited) as limited:
        await one.wait([*slow, *quick], 0)
    assert limited.value.retry_after == pytest.approx(10.0)
    with pytest.raises(Unavailable) as unavailable:
        await one.wait(busy, 0)
    assert unavailable.value.retry_after == 1.0


async def test_the_first_target_with_capacity_serves(clock: FakeClock) -> None:
    """End the wait with the credential and a permit of the first target with capacity."""
    wait = {"rate_limit": {"requests_per_second": 1, "burst": 1, "queue_timeout": "10s"}}
    made = providers(a={"max_concurrency": 1, "rate_limit": {"queue_timeout": "10s"}}, b=wait)
    one = admission(AdmissionQueues(clock), made)
    first, other = places(*made)[0], places(*made)[2]
    holder = one.try_admit(*first, 0)
    assert holder is not None
    assert one.try_admit(*other, 0) is not None
    waits = [asyncio.create_task(one.wait([first, other], 0)) for _ in range(2)]
    await asyncio.sleep(0)
    holder.release()
    await asyncio.sleep(0)
    clock.turn(1.0)
    names = [(await task)[0].provider.name for task in waits]
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    ("limits", "tokens", "message"),
    [
        ({"requests_per_minute": 60}, 0, "You have reached your limit of 60 requests per minute. Try again in 1 s."),
        ({"requests_per_minute": 1}, 0, "You have reached your limit of 1 request per minute. Try again in 60 s."),
        (
            {"rate_limit": {"requests_per_second": 0.5, "burst": 2}},
            0,
            "You have reached your limit of 0.5 requests per second. Try again in 2 s.",
        ),
        (
            {"requests_per_minute": 60, "tokens_per_minute": 600},
            600,
            "You have reached your limit of 600 tokens per minute. Try again in 60 s.",
        ),
        (
            {"max_concurrency": 3},
            0,
            "You have reached your limit of 3 calls at once. Try again when one of them has ended.",
        ),
    ],
    ids=["by the minute", "one", "by the second", "tokens", "at once"],
)
async def test_a_refusal_names_the_limit_and_the_wait(
    clock: FakeClock, limits: dict[str, Any], tokens: int, message: str
) -> None:
    """Name the limit with the longest wait."""
    called = CallerLimits(**limits).call_limits
    assert called is not None
    queue = CallerQueues(clock).queue(ANN, called)
    while queue.try_admit(tokens):
        pass
    with pytest.raises(RateLimited) as caught:
        await admit(queue, tokens)
    assert caught.value.message == message


async def test_a_full_provider_names_its_limit(clock: FakeClock) -> None:
    """Tell callers that the limit is the gateway's, which one it is, and how long to wait."""
    for block, message in (
        ({"rate_limit": {"requests_per_second": 2, "burst": 1}}, "(2 requests per second). Try again in 0.5 s."),
        ({"max_concurrency": 1}, "(1 call at once). Try again when a call has ended."),
    ):
        made = providers(one=block)
        admitted = admission(AdmissionQueues(clock), made)
        assert admitted.try_admit(*places(*made)[0], 0)
        with pytest.raises((RateLimited, Unavailable)) as caught:
            await admitted.wait(places(*made), 0)
        assert caught.value.message == f"This gateway has reached its limit for every upstream of this model {message}"
