"""What is kept and counted belongs to (kind, tenant, id): a name never makes one caller another."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection

from llmproxy_asgi import Gateway, LLMProxy, Principal
from llmproxy_asgi.facts import AnyFact, CallFinished, CallStarted, TokensCounted
from llmproxy_asgi.inprocess import ASGITransport
from support.telemetry import RecordingObserver

pytestmark = pytest.mark.anyio

KEY = "llmp_abcdefghijklmnop"
TENANTS_KEY = "llmp_ponmlkjihgfedcba"
SIMULATED: dict[str, Any] = {"providers": {"simulated": {}}}
RESPONSES = "/v1/responses"
HELLO = {"model": "simulated/echo", "input": "hello"}

CALLERS = {
    "the key ci": {"x-api-key": KEY},
    "the key ci of acme": {"x-api-key": TENANTS_KEY},
    "the user ci": {"authorization": "Bearer ci"},
    "the user ci of acme": {"authorization": "Bearer ci@acme"},
    "the user anonymous": {"authorization": "Bearer anonymous"},
    "the user local": {"authorization": "Bearer local"},
    "nobody": {},
}
"""Seven owners of four names, by the headers that they send."""


def who(connection: HTTPConnection) -> Principal | None:
    name, _, tenant = connection.headers.get("authorization", "").removeprefix("Bearer ").partition("@")
    return Principal(name, tenant=tenant) if name else None


@asynccontextmanager
async def serving(**access: Any) -> AsyncIterator[tuple[LLMProxy, httpx2.AsyncClient, list[AnyFact]]]:

    observer = RecordingObserver()
    keys = [
        {"name": "ci", "key": KEY, **access.pop("key", {})},
        {"name": "ci", "key": TENANTS_KEY, "tenant": "acme", **access.pop("tenants_key", {})},
    ]
    config = {**SIMULATED, "access": {"mode": "open", "keys": keys, **access}}
    proxy = LLMProxy(config, identify=who, observers=[observer])
    async with httpx2.AsyncClient(transport=ASGITransport(proxy), base_url="http://gateway.invalid") as client:
        yield proxy, client, observer.facts
    await proxy.gateway.aclose()


async def test_each_owner_finds_only_its_own_responses() -> None:
    """Of seven callers with four names none reads, continues or deletes a response that another has stored."""
    async with serving() as (_, client, _):
        kept = {}
        for name, sent in CALLERS.items():
            answer = await client.post(RESPONSES, json={**HELLO, "input": name}, headers=sent)
            kept[name] = answer.json()["id"]
        assert len(set(kept.values())) == len(CALLERS)
        for (reader, sent), (owner, response_id) in itertools.product(CALLERS.items(), kept.items()):
            expected = 200 if reader == owner else 404
            further = {**HELLO, "previous_response_id": response_id}
            found = await client.get(f"{RESPONSES}/{response_id}", headers=sent)
            went_on = await client.post(RESPONSES, json=further, headers=sent)
            assert (found.status_code, went_on.status_code) == (expected, expected), f"{reader} asks for {owner}'s"
            if reader != owner:
                assert (await client.delete(f"{RESPONSES}/{response_id}", headers=sent)).status_code == 404
        for name, sent in CALLERS.items():
            assert (await client.delete(f"{RESPONSES}/{kept[name]}", headers=sent)).status_code == 200


async def test_each_owner_has_limits_of_its_own() -> None:
    """Where all have the same limit of one call a minute, each of the seven may make one, and no second."""
    limit = {"requests_per_minute": 1}
    async with serving(default=limit, key=limit, tenants_key=limit) as (_, client, _):
        for expected in (200, 429):
            for sent in CALLERS.values():
                assert (await client.post(RESPONSES, json=HELLO, headers=sent)).status_code == expected


async def test_observers_can_tell_owners_of_one_name_apart() -> None:
    """Facts about a call or a count say the kind of its owner beside the name and the tenant."""
    async with serving() as (_, client, facts):
        for sent in (CALLERS["the key ci"], CALLERS["the user ci"], CALLERS["nobody"]):
            await client.post(RESPONSES, json=HELLO, headers=sent)
            await client.post(f"{RESPONSES}/input_tokens", json=HELLO, headers=sent)
    told = [fact for fact in facts if isinstance(fact, CallStarted | CallFinished | TokensCounted)]
    owners = [(type(fact), fact.principal_kind, fact.principal) for fact in told]
    assert owners == [
        (fact, kind, name)
        for kind, name in (("key", "ci"), ("user", "ci"), ("open", "anonymous"))
        for fact in (CallStarted, CallFinished, TokensCounted)
    ]


async def test_the_hosts_own_calls_are_nobody_elses() -> None:
    """In Python, what a call without a principal stores is not found by a principal with the id `local`."""
    async with Gateway(SIMULATED) as gateway, gateway.openai() as own, gateway.openai(principal="local") as user:
        kept = await own.responses.create(**HELLO)  # type: ignore[call-overload]
        with pytest.raises(Exception, match="404"):
            await user.responses.retrieve(kept.id)
        assert (await own.responses.retrieve(kept.id)).id == kept.id
