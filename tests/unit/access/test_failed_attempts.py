"""Wrong keys of one address are limited; right ones never are."""

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from llmproxy_asgi.access.failed_attempts import FailedAttempts, site_of, source_of
from llmproxy_asgi.access.identify import Authenticator
from llmproxy_asgi.errors import Forbidden, GatewayError, RateLimited, Unauthenticated
from llmproxy_asgi.principal import SCOPE_KEY
from llmproxy_asgi.settings import KeyEntry, Secret
from support.clock import FakeClock

pytestmark = pytest.mark.anyio

KEY = "llmp_abcdefghijklmnop"
UNPREFIXED = "team-key-0123456789"
ENTRIES = [KeyEntry(name="ci", key=Secret(KEY)), KeyEntry(name="team", key=Secret(UNPREFIXED))]
LIMIT = 3


def asking(key: str | None = None, *, client: Any = ("203.0.113.7", 5), **more: Any) -> dict[str, Any]:
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    return {"type": "http", "method": "POST", "headers": headers, "query_string": b"", "client": client, **more}


class Host:
    """An application whose users have tokens, and which counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.right = {"Bearer alice-token"}

    def identify(self, connection: HTTPConnection) -> str | None:
        self.asked += 1
        return "alice" if connection.headers.get("authorization") in self.right else None


class AuthenticatorHarness:
    def __init__(self, mode: Any = "host", *, per_minute: int | None = LIMIT) -> None:
        self.host = Host()
        self.clock = FakeClock()
        self.attempts = FailedAttempts(self.clock)
        self.keeper = Authenticator(
            mode=mode,
            keys=ENTRIES,
            identify=self.host.identify if mode != "keys" else None,
            attempts=self.attempts,
            failed_attempts_per_minute=per_minute,
        )

    async def status(self, scope: dict[str, Any]) -> int:
        try:
            await self.keeper.authenticate(scope)
        except GatewayError as error:
            return error.status
        return 200

    async def fail(self, times: int, **more: Any) -> list[int]:
        return [await self.status(asking(f"wrong-{number}", **more)) for number in range(times)]


@pytest.mark.parametrize("mode", ["host", "keys"])
async def test_so_many_wrong_keys_a_minute_and_then_a_429_with_the_wait(mode: Any) -> None:
    """The limit is exact, comes back evenly, and a refused try does not lengthen the wait."""
    harness = AuthenticatorHarness(mode)
    assert await harness.fail(LIMIT + 2) == [401] * LIMIT + [429] * 2
    with pytest.raises(RateLimited, match="20 s") as refused:
        await harness.keeper.authenticate(asking("wrong"))
    assert refused.value.retry_after == 20
    harness.clock.turn(20)
    assert await harness.fail(2) == [401, 429]
    harness.clock.turn(60)
    assert await harness.fail(LIMIT + 1) == [401] * LIMIT + [429]


@pytest.mark.parametrize("mode", ["host", "keys", "open"])
async def test_keys_of_our_form_are_counted_in_every_mode(mode: Any) -> None:
    """A wrong key that begins with our prefix is an attempt wherever it is sent, well formed or not."""
    harness = AuthenticatorHarness(mode)
    for wrong in ("llmp_wrong", "llmp_" + "x" * 20_000, "llmp_\x7f"):
        assert await harness.status(asking(wrong)) == 401
    assert await harness.status(asking("llmp_wrong")) == 429


async def test_a_right_key_passes_whatever_its_neighbours_try() -> None:
    """Callers behind one address are not locked out by one of them."""
    harness = AuthenticatorHarness()
    await harness.fail(50)
    assert await harness.status(asking(KEY)) == 200
    assert await harness.status(asking(UNPREFIXED)) == 200
    assert await harness.status(asking("wrong")) == 429


async def test_a_token_that_the_host_has_accepted_goes_on_passing() -> None:
    """A user who was there when the guessing began stays; a stranger's tokens do not reach the host any more."""
    harness = AuthenticatorHarness()
    await harness.fail(1)
    assert await harness.status(asking("alice-token")) == 200
    await harness.fail(LIMIT)
    before = harness.host.asked
    assert await harness.status(asking("alice-token")) == 200
    assert harness.host.asked == before + 1
    assert await harness.fail(20) == [429] * 20
    assert harness.host.asked == before + 1


async def test_a_token_that_the_host_refuses_now_is_no_better_than_others() -> None:
    """Having been right once does not help for ever."""
    harness = AuthenticatorHarness()
    await harness.fail(1)
    assert await harness.status(asking("alice-token")) == 200
    harness.host.right.clear()
    assert await harness.status(asking("alice-token")) == 401
    await harness.fail(1)
    before = harness.host.asked
    assert await harness.status(asking("alice-token")) == 429
    assert harness.host.asked == before


async def test_who_sends_no_credential_tries_nothing() -> None:
    """A browser that is not signed in yet is asked to sign in, however often, and can from any address."""
    harness = AuthenticatorHarness()
    assert {await harness.status(asking()) for _ in range(20)} == {401}
    await harness.fail(LIMIT + 1)
    assert await harness.status(asking()) == 401


async def test_basic_credentials_are_counted() -> None:
    """Passwords are what is guessed most."""
    harness = AuthenticatorHarness()
    basic = {**asking(), "headers": [(b"authorization", b"Basic YTpi")]}
    assert [await harness.status(basic) for _ in range(LIMIT + 1)] == [401] * LIMIT + [429]
    harness.clock.turn(60)
    harness.host.right.add("Basic YTpi")
    await harness.fail(1)
    assert await harness.status(basic) == 200
    await harness.fail(LIMIT)
    assert await harness.status(basic) == 200


async def test_a_refusal_by_the_adapter_is_counted_too() -> None:
    """Count a credential that the host refuses through the adapter, but not a request without one."""
    harness = AuthenticatorHarness()
    said: list[dict[str, Any]] = [{SCOPE_KEY: Unauthenticated("no")}, {SCOPE_KEY: None}]
    for adapter in said:
        harness.clock.turn(60)
        assert [await harness.status(asking("wrong", **adapter)) for _ in range(LIMIT + 1)] == [401] * LIMIT + [429]
        assert await harness.status(asking(**adapter)) == 401


async def test_a_refusal_of_a_known_user_is_no_failed_attempt() -> None:
    """Count no failed attempt for a 403 of the host."""
    harness = AuthenticatorHarness()
    forbidden = asking("token", **{SCOPE_KEY: Forbidden("no")})
    assert {await harness.status(forbidden) for _ in range(10)} == {403}


@pytest.mark.parametrize("client", [None, ("", 0), ()], ids=["none", "empty", "nothing"])
async def test_without_an_address_nothing_is_counted(client: Any) -> None:
    """Behind a Unix socket all callers would be one."""
    harness = AuthenticatorHarness()
    assert set(await harness.fail(LIMIT * 3, client=client)) == {401}


async def test_the_limit_can_be_switched_off() -> None:
    """`failed_attempts_per_minute: null` counts nothing."""
    harness = AuthenticatorHarness(per_minute=None)
    assert set(await harness.fail(100)) == {401}
    assert not harness.attempts.has_any


async def test_each_address_counts_for_itself() -> None:
    """One address's failures are not another's."""
    harness = AuthenticatorHarness()
    await harness.fail(LIMIT)
    assert await harness.fail(1, client=("203.0.113.8", 5)) == [401]
    assert await harness.fail(1, client=("203.0.113.7", 99)) == [429]


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("a:strange:name", "a:strange:name"),
        ("testclient", "testclient"),
    ],
)
def test_a_subscribers_ipv6_network_is_one_source(address: str, source: str) -> None:
    """Count all 2^64 addresses of one network as one source."""
    assert source_of({"client": (address, 1)}) == source


@pytest.mark.parametrize(
    ("source", "site"),
    [
        ("2001:db8:1:2::", "2001:db8:1::"),
        ("2001:db8:1:ffff::", "2001:db8:1::"),
        ("203.0.113.7", None),
        ("a:strange:name", None),
        ("testclient", None),
    ],
)
def test_a_sites_ipv6_network_is_known(source: str, site: str | None) -> None:
    """It holds 65 536 sources."""
    assert site_of(source) == site


async def test_all_sources_of_a_site_have_a_limit_of_their_own() -> None:
    """Allow a /48 network 16 times the attempts of one source, refilled evenly."""
    harness = AuthenticatorHarness()
    tries = [(await harness.fail(1, client=(f"2001:db8:1:{number:x}::1", 5)))[0] for number in range(16 * LIMIT + 5)]
    assert tries == [401] * (16 * LIMIT) + [429] * 5
    assert await harness.status(asking(KEY, client=("2001:db8:1:ff::1", 5))) == 200
    assert await harness.fail(1, client=("2001:db8:2::1", 5)) == [401]
    assert await harness.fail(1, client=("::ffff:203.0.113.7", 5)) == [401]
    harness.clock.turn(60 / (16 * LIMIT))
    assert await harness.fail(2, client=("2001:db8:1:ff::1", 5)) == [401, 429]
    harness.clock.turn(60)
    assert await harness.fail(LIMIT + 1, client=("2001:db8:1:ff::1", 5)) == [401] * LIMIT + [429]


async def test_addresses_of_ipv4_have_no_site() -> None:
    """Mapped into IPv6 they would all be of one."""
    harness = AuthenticatorHarness()
    for number in range(40):
        assert await harness.fail(LIMIT, client=(f"::ffff:203.0.113.{number}", 5)) == [401] * LIMIT
    assert not harness.attempts._sites


async def test_no_header_changes_the_source() -> None:
    """What a client says of where it comes from is not believed; that is the server's affair."""
    harness = AuthenticatorHarness()
    for number in range(LIMIT + 1):
        asked = asking("wrong")
        asked["headers"] += [(b"x-forwarded-for", b"198.51.100.%d" % number), (b"forwarded", b"for=198.51.100.1")]
        assert await harness.status(asked) == (401 if number < LIMIT else 429)


async def test_the_table_of_sources_is_bounded() -> None:
    """A million addresses are remembered as ten thousand, and those of a minute ago not at all."""
    harness = AuthenticatorHarness()
    for number in range(10_100):
        harness.attempts.count(f"10.{number}", LIMIT)
    assert len(harness.attempts._failures) == 10_000
    harness.clock.turn(61)
    harness.attempts.count("203.0.113.7", LIMIT)
    assert list(harness.attempts._failures) == ["203.0.113.7"]
    for number in range(10_100):
        harness.attempts.count(f"2001:{number:x}:1:2::", LIMIT)
    assert len(harness.attempts._sites) == 10_000
    harness.clock.turn(61)
    harness.attempts.count("2001:db8:1:2::", LIMIT)
    assert list(harness.attempts._sites) == ["2001:db8:1::"]
    for number in range(10_100):
        harness.attempts.accept(b"%d" % number)
    assert len(harness.attempts._accepted) == 10_000


async def test_a_changed_configuration_forgets_nothing() -> None:
    """Keep the counts when the configuration changes."""
    harness = AuthenticatorHarness()
    await harness.fail(LIMIT)
    again = Authenticator(mode="keys", keys=ENTRIES, attempts=harness.attempts, failed_attempts_per_minute=LIMIT)
    with pytest.raises(RateLimited):
        await again.authenticate(asking("wrong"))
