"""The caller's identity: keys first, then the adapter's principal, then the host's function; otherwise refused."""

import asyncio
import itertools
import sys
import threading
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

import pytest
from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from llmproxy_asgi.access.identify import Authenticator, Identify
from llmproxy_asgi.access.keys import Grant
from llmproxy_asgi.errors import BadRequest, Forbidden, InternalError, MisuseError, Unauthenticated
from llmproxy_asgi.principal import ANYBODY, CSRF_KEY, LOCAL, SCOPE_KEY, OwnerKind, Principal
from llmproxy_asgi.settings import KeyEntry, Secret

pytestmark = pytest.mark.anyio

KEY = "llmp_abcdefghijklmnop"
OTHER_KEY = "team-key-0123456789"
ENTRIES = [
    KeyEntry(name="ci", key=Secret(KEY), models=("fast",), groups=("robots",), tenant="t1"),
    KeyEntry(name="team", key=Secret(OTHER_KEY)),
]


def scope(*headers: tuple[str, str], method: str = "POST", query: str = "", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": "/v1/chat/completions",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        **more,
    }


def authenticator(
    mode: Any = "host", identify: Identify | None = None, keys: Any = ENTRIES, csrf: Any = None
) -> Authenticator:
    return Authenticator(mode=mode, keys=keys, identify=identify, csrf=csrf)


async def test_without_any_rule_every_call_is_refused_with_what_to_set() -> None:
    """The safe default names identify, keys and open."""
    with pytest.raises(Unauthenticated, match=r"identify=.*access\.keys.*access\.mode: open"):
        await authenticator(keys=[]).authenticate(scope())


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", f"Bearer {KEY}"),
        ("authorization", f"bearer {KEY}"),
        ("x-api-key", KEY),
        ("x-goog-api-key", KEY),
    ],
    ids=["bearer", "lower-case", "x-api-key", "x-goog-api-key"],
)
async def test_a_key_is_found_in_every_vendors_header(header: tuple[str, str]) -> None:
    """The official SDKs put it where their vendor wants it."""
    grant = await authenticator().authenticate(scope(header))
    assert (grant.principal.id, grant.principal.tenant, grant.principal.groups) == ("ci", "t1", ("robots",))
    assert grant.models == ("fast",)


STRANGERS = ["sk-ant-oat01-stranger", "eyJhbGciOiJSUzI1NiJ9.e30.x", "dummy", "unused", "x" * 20_000, "caf\xe9"]
"""What clients and clouds send beside our key: tokens of theirs, placeholders, and what can be no key of anybody's."""


@pytest.mark.parametrize("stranger", STRANGERS, ids=["oauth", "id-token", "dummy", "unused", "too-long", "not-ascii"])
@pytest.mark.parametrize("mode", ["host", "keys", "open"])
@pytest.mark.parametrize(("ours", "name"), [(KEY, "ci"), (OTHER_KEY, "team")], ids=["prefixed", "unprefixed"])
async def test_a_key_decides_whatever_strange_token_stands_beside_it(
    mode: Any, stranger: str, ours: str, name: str
) -> None:
    """In any two headers and in either order: the one that is in the table is the caller's."""
    keeper = authenticator(mode, lambda _: "alice")
    for one, other in itertools.permutations(("authorization", "x-api-key", "x-goog-api-key"), 2):
        right = (one, f"Bearer {ours}" if one == "authorization" else ours)
        wrong = (other, f"Bearer {stranger}" if other == "authorization" else stranger)
        for headers in ((right, wrong), (wrong, right)):
            assert (await keeper.authenticate(scope(*headers))).principal.id == name
        in_query = scope(wrong, query=f"alt=sse&key={ours}")
        assert (await keeper.authenticate(in_query, key_in_query=True)).principal.id == name


@pytest.mark.parametrize("mode", ["host", "keys", "open"])
@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {KEY}"), ("x-api-key", OTHER_KEY)],
        [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {OTHER_KEY}")],
        [("authorization", f"Bearer {KEY},Bearer {OTHER_KEY}")],
        [("x-api-key", f"{OTHER_KEY}, {KEY}")],
        [("x-goog-api-key", KEY), ("x-api-key", "llmp_another-of-our-form")],
        [("x-api-key", "llmp_wrong"), ("authorization", "Bearer sk-ant-oat01-stranger")],
        [("authorization", "Bearer llmp_wrong"), ("x-api-key", OTHER_KEY)],
        [("authorization", "Bearer stranger,Bearer llmp_wrong")],
        [("authorization", "Basic YTpi,Bearer llmp_wrong")],
        [("x-api-key", "llmp_" + "x" * 20_000), ("authorization", "Bearer stranger")],
    ],
)
async def test_two_keys_of_ours_and_a_wrong_one_of_our_form_are_refused(
    mode: Any, headers: list[tuple[str, str]]
) -> None:
    """Two that are in the table or begin with `llmp_` contradict each other; a wrong one is never passed over."""
    with pytest.raises(Unauthenticated):
        await authenticator(mode, lambda _: "alice").authenticate(scope(*headers))


async def test_the_same_key_twice_is_one_key() -> None:
    """In two headers, in one that was joined from two, and in the query."""
    same = [("authorization", f"Bearer {KEY}"), ("x-api-key", KEY), ("x-goog-api-key", f"{KEY}, {KEY}")]
    asked = scope(*same, ("authorization", f"Bearer {KEY},Bearer {KEY}"), query=f"key={KEY}")
    assert (await authenticator().authenticate(asked, key_in_query=True)).principal.id == "ci"


async def test_a_key_is_found_behind_credentials_of_another_scheme() -> None:
    """WSGI servers join two `Authorization` headers with a comma, and either may be the one with the key."""
    for value in (f"Basic YTpi,Bearer {KEY}", f"Bearer {KEY}, Basic YTpi", f'Digest a="b", c="d", bearer {KEY}'):
        assert (await authenticator().authenticate(scope(("authorization", value)))).principal.id == "ci"
    both = [("authorization", "Basic YTpi"), ("authorization", f"Bearer {KEY}")]
    for headers in (both, both[::-1]):
        assert (await authenticator().authenticate(scope(*headers))).principal.id == "ci"


async def test_several_strange_tokens_are_the_hosts_business() -> None:
    """Pass two tokens that are no gateway keys to `identify`; in the mode `keys` they are a wrong key."""
    headers = [("authorization", "Bearer one"), ("x-api-key", "two")]
    assert (await authenticator(identify=lambda _: "alice").authenticate(scope(*headers))).principal.id == "alice"
    with pytest.raises(Unauthenticated, match="not valid"):
        await authenticator("keys", identify=lambda _: "alice").authenticate(scope(*headers))


async def test_a_key_in_the_query_counts_only_where_the_path_allows_it() -> None:
    """Read `?key=` on Gemini's paths only."""
    asked = scope(query=f"key={KEY}&alt=sse")
    assert (await authenticator().authenticate(asked, key_in_query=True)).principal.id == "ci"
    with pytest.raises(Unauthenticated):
        await authenticator().authenticate(asked)


async def test_our_prefix_is_judged_by_the_table_alone() -> None:
    """A wrong key of our form never falls through to the host, not even in open mode."""
    for mode in ("host", "keys", "open"):
        with pytest.raises(Unauthenticated, match="not valid"):
            await authenticator(mode, lambda _: "alice").authenticate(scope(("x-api-key", "llmp_wrong")))


async def test_a_foreign_key_goes_to_the_host() -> None:
    """Pass a token that is no gateway key to the host, because it may be the host's own."""
    seen: list[str | None] = []

    def identify(connection: HTTPConnection) -> str:
        seen.append(connection.headers.get("authorization"))
        return "alice"

    grant = await authenticator(identify=identify).authenticate(scope(("authorization", "Bearer host-token")))
    assert (grant.principal.id, seen) == ("alice", ["Bearer host-token"])


@pytest.mark.parametrize("answer", ["alice", 7, Principal("alice", tenant="t2")], ids=["str", "int", "principal"])
async def test_identify_may_be_sync_or_async(answer: Any) -> None:
    """Both give the same principal; an int becomes text."""

    async def later(_: HTTPConnection) -> Any:
        return answer

    expected = answer if isinstance(answer, Principal) else Principal(str(answer))
    assert (await authenticator(identify=lambda _: answer).authenticate(scope())).principal == expected
    assert (await authenticator(identify=later).authenticate(scope())).principal == expected


async def test_identify_without_a_caller_is_a_401() -> None:
    """Refuse a call that `identify` answers with None, also in the mode `open`."""
    with pytest.raises(Unauthenticated, match="not signed in"):
        await authenticator(identify=lambda _: None).authenticate(scope())
    assert await authenticator("open", identify=lambda _: None).authenticate(scope()) == Grant(ANYBODY, kind="open")
    assert await authenticator("open").authenticate(scope(("authorization", "Bearer sk-whatever"))) == Grant(
        ANYBODY, kind="open"
    )


@pytest.mark.parametrize("answer", [True, 1.5, object(), "", "a\nb", "x" * 256, Exception()])
async def test_a_wrong_answer_of_identify_is_a_500(answer: Any) -> None:
    """Answer 500 when `identify` names no caller: that is a bug of the host, never an admission."""
    with pytest.raises(InternalError):
        await authenticator(identify=lambda _: answer).authenticate(scope())


async def test_identify_that_fails_refuses_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The reason is in the log, not in the answer."""

    def identify(_: HTTPConnection) -> str:
        raise RuntimeError("database password is hunter2")

    with pytest.raises(InternalError) as caught:
        await authenticator(identify=identify).authenticate(scope())
    assert "hunter2" not in caught.value.message
    assert "hunter2" in caplog.text


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthenticated), (403, Forbidden), (302, Unauthenticated), (503, InternalError)]
)
async def test_the_hosts_own_refusal_is_kept(status: int, error: type[Exception]) -> None:
    """A hook may refuse as its framework does; what says that it failed is no refusal."""

    def identify(_: HTTPConnection) -> str:
        raise HTTPException(status)

    with pytest.raises(error):
        await authenticator(identify=identify).authenticate(scope())


async def test_an_adapters_principal_beats_identify_and_a_key_beats_both() -> None:
    """The order is fixed."""
    adapter_principal: dict[str, Any] = {SCOPE_KEY: Principal("bob")}
    keeper = authenticator(identify=lambda _: "alice")
    assert (await keeper.authenticate(scope(**adapter_principal))).principal.id == "bob"
    assert (await keeper.authenticate(scope(("x-api-key", KEY), **adapter_principal))).principal.id == "ci"
    with pytest.raises(InternalError):
        await keeper.authenticate(scope(**{SCOPE_KEY: "bob"}))


@pytest.mark.parametrize("name", ["ci", "anonymous", "local"])
async def test_a_host_user_is_never_taken_for_a_key_an_anonymous_or_a_local_caller(name: str) -> None:
    """Give a key, an anonymous caller and the host's own call kinds that differ from a user's."""
    for answer in (name, Principal(name), LOCAL if name == "local" else ANYBODY):

        def identify(_: HTTPConnection, answer: str | Principal = answer) -> str | Principal:
            return answer

        grant = await authenticator("open", identify=identify).authenticate(scope())
        assert grant.owner.kind == "user"
    adapter_principal: dict[str, Any] = {SCOPE_KEY: Principal(name)}
    assert (await authenticator().authenticate(scope(**adapter_principal))).owner.kind == "user"


async def test_each_way_to_be_known_is_a_kind_of_its_own() -> None:
    """A key, an anonymous caller of an open gateway, and the host's own in-process call are no users."""
    kinds: list[tuple[Any, OwnerKind]] = [
        (scope(("x-api-key", KEY)), "key"),
        (scope(), "open"),
        ({**scope(), SCOPE_KEY: LOCAL}, "local"),
    ]
    for asked, kind in kinds:
        assert (await authenticator("open").authenticate(asked)).owner.kind == kind


async def test_no_header_names_a_principal() -> None:
    """Whatever a client sends, only the host's object counts."""
    named = [("x-user", "root"), ("x-forwarded-user", "root"), (SCOPE_KEY, "root"), ("x-llmproxy-principal", "root")]
    with pytest.raises(Unauthenticated):
        await authenticator().authenticate(scope(*named))


JSON = ("content-type", "application/json")
COOKIE = ("cookie", "session=abc")
FOREIGN = ("sec-fetch-site", "cross-site")


KNOWN_BY: dict[str, tuple[dict[str, Any], list[tuple[str, str]], Any]] = {
    "cookie": ({"identify": lambda _: "alice"}, [COOKIE], {}),
    "Basic": ({"identify": lambda _: "alice"}, [("authorization", "Basic YTpi")], {}),
    "Negotiate": ({"identify": lambda _: "alice"}, [("authorization", "Negotiate YII")], {}),
    "address or certificate": ({"identify": lambda _: "alice"}, [], {}),
    "an adapter": ({}, [], {SCOPE_KEY: Principal("alice")}),
    "open": ({"mode": "open"}, [], {}),
    "open, with a key in the query": ({"mode": "open"}, [], {"query": "key=anything"}),
}
"""Ways to be known that take nothing of the page that makes a browser call."""


@pytest.mark.parametrize("known_by", KNOWN_BY)
async def test_a_foreign_page_cannot_call_as_whoever_the_browser_is(known_by: str) -> None:
    """Whatever a caller is known by, a request without a key header must not be cross-site."""
    how, headers, more = KNOWN_BY[known_by]
    keeper = authenticator(**how)
    own = [*headers, JSON, ("sec-fetch-site", "same-origin")]
    assert await keeper.authenticate(scope(*own, **more), key_in_query=True)
    assert await keeper.authenticate(scope(*headers, JSON, **more), key_in_query=True)
    for site in ("cross-site", "same-site", "none"):
        with pytest.raises(Forbidden, match=r"access\.origins") as refused:
            await keeper.authenticate(scope(*headers, JSON, ("sec-fetch-site", site), **more), key_in_query=True)
        assert refused.value.code == "cross_origin"
    reading = {**scope(*headers, FOREIGN, method="GET", **more)}
    assert await keeper.authenticate(reading, key_in_query=True)


@pytest.mark.parametrize(
    "header", [("authorization", "Bearer host-token"), ("x-api-key", "k"), ("x-goog-api-key", "k")]
)
async def test_a_key_header_clears_a_request(header: tuple[str, str]) -> None:
    """No browser adds one by itself, and no foreign page can without the host's leave."""
    asked = scope(header, COOKIE, FOREIGN, ("content-type", "text/plain"), ("content-length", "5"))
    assert await authenticator(identify=lambda _: "alice").authenticate(asked)
    assert await authenticator("open").authenticate(asked)


async def test_a_key_in_the_query_does_not_make_a_cookie_safe() -> None:
    """Any page can write one into an address, so the cookie still has to come from the same site."""
    asked = scope(COOKIE, JSON, ("sec-fetch-site", "cross-site"), query="key=anything")
    with pytest.raises(Forbidden, match="another site"):
        await authenticator(identify=lambda _: "alice").authenticate(asked, key_in_query=True)


async def test_a_csrf_check_that_could_not_say_no_is_refused_at_the_start() -> None:
    """What an asynchronous one returns would always count as true."""

    async def csrf(_: HTTPConnection) -> bool:
        return False

    with pytest.raises(MisuseError, match="csrf"):
        authenticator(identify=lambda _: "alice", csrf=csrf)


async def test_the_hosts_csrf_token_stands_in_for_the_origin() -> None:
    """A host that checks a token of its own may vouch for the request."""
    asked = scope(COOKIE, JSON, ("sec-fetch-site", "cross-site"), ("x-csrf-token", "right"))

    def csrf(connection: HTTPConnection) -> bool:
        return connection.headers.get("x-csrf-token") == "right"

    assert await authenticator(identify=lambda _: "alice", csrf=csrf).authenticate(asked)
    with pytest.raises(Forbidden):
        await authenticator(identify=lambda _: "alice", csrf=lambda _: False).authenticate(asked)
    form = scope(COOKIE, FOREIGN, ("content-type", "text/plain"), ("content-length", "5"), ("x-csrf-token", "right"))
    assert await authenticator("open", csrf=csrf).authenticate(form)


async def test_an_adapter_may_have_checked_the_hosts_token() -> None:
    """It says so in the scope, with nothing but True."""
    asked = scope(COOKIE, JSON, FOREIGN)
    keeper = authenticator(identify=lambda _: "alice")
    assert await keeper.authenticate({**asked, CSRF_KEY: True})
    for said in (False, None, "yes", 1):
        with pytest.raises(Forbidden):
            await keeper.authenticate({**asked, CSRF_KEY: said})


async def test_a_csrf_check_may_refuse_as_its_framework_does(caplog: pytest.LogCaptureFixture) -> None:
    """A status below 500 is a refusal; any other exception is the host's bug, and the request is refused."""

    def failing(error: Exception) -> Authenticator:
        def csrf(_: HTTPConnection) -> bool:
            raise error

        return authenticator(identify=lambda _: "alice", csrf=csrf)

    asked = scope(COOKIE, JSON, FOREIGN)
    with pytest.raises(Forbidden):
        await failing(HTTPException(400)).authenticate(asked)
    for error in (HTTPException(503), RuntimeError("the token's key is hunter2")):
        with pytest.raises(InternalError) as caught:
            await failing(error).authenticate(asked)
        assert "hunter2" not in caught.value.message
    assert "hunter2" in caplog.text


async def test_pages_of_named_origins_may_call() -> None:
    """`access.origins` names further origins exactly; their pages still send JSON."""
    keeper = Authenticator(mode="host", identify=lambda _: "alice", origins=["https://app.example.com"])
    app = ("origin", "https://app.example.com")
    for site in ("cross-site", "same-site"):
        assert await keeper.authenticate(scope(COOKIE, JSON, app, ("sec-fetch-site", site)))
    with pytest.raises(Forbidden, match="content-type"):
        await keeper.authenticate(scope(COOKIE, app, FOREIGN, ("content-length", "5")))
    for other in ("http://app.example.com", "https://app.example.com:8443", "https://app.example.com.evil", "null"):
        with pytest.raises(Forbidden, match=r"access\.origins"):
            await keeper.authenticate(scope(COOKIE, JSON, ("origin", other), FOREIGN))


async def test_reading_needs_no_origin() -> None:
    """A GET changes nothing, so a cookie is enough."""
    asked = scope(COOKIE, ("sec-fetch-site", "cross-site"), method="GET")
    assert await authenticator(identify=lambda _: "alice").authenticate(asked)


@pytest.mark.parametrize(
    "value", ["Bearer " + "x" * 20_000, "Bearer a\x01b", "Bearer \xff\xfe"], ids=["long", "control", "latin"]
)
async def test_what_cannot_be_a_key_is_refused_before_any_look_up(value: str) -> None:
    """Length and characters are checked first."""
    with pytest.raises(Unauthenticated):
        await authenticator("open").authenticate(scope(("authorization", value)))


async def test_the_hosts_own_tokens_may_be_long() -> None:
    """Signed tokens are thousands of characters, and what is no bearer's is the host's in any length."""
    keeper = authenticator(identify=lambda connection: connection.headers["authorization"].partition(" ")[0])
    for value in ("Bearer " + "x" * 8000, "Negotiate " + "x" * 20_000):
        admitted = await keeper.authenticate(scope(("authorization", value)))
        assert admitted.principal.id == value.partition(" ")[0]


async def test_a_query_of_too_many_fields_is_a_bad_request() -> None:
    """It is not read to find a key in it."""
    asked = scope(query="&".join(["a=1"] * 70 + [f"key={KEY}"]))
    with pytest.raises(BadRequest, match="too many parameters"):
        await authenticator().authenticate(asked, key_in_query=True)


async def test_a_slow_hook_keeps_nobody_else_waiting() -> None:
    """Two plain hooks can be at work at once: here each waits until the other has come."""
    both = threading.Barrier(2, timeout=10)

    def identify(_: HTTPConnection) -> str:
        both.wait()
        return "alice"

    keeper = authenticator(identify=identify)
    grants = await asyncio.gather(keeper.authenticate(scope()), keeper.authenticate(scope()))
    assert [grant.principal.id for grant in grants] == ["alice", "alice"]


async def test_a_hook_is_asked_though_all_threads_of_the_host_are_taken() -> None:
    """They may be waiting for the very calls whose callers are to be identified."""
    async with AsyncExitStack() as stack:
        threads = to_thread.current_default_thread_limiter()
        for number in range(int(threads.total_tokens)):
            await threads.acquire_on_behalf_of(number)
            stack.callback(threads.release_on_behalf_of, number)
        admitted = asyncio.wait_for(authenticator(identify=lambda _: "alice").authenticate(scope()), 10)
        assert (await admitted).principal.id == "alice"


async def test_in_django_plain_hooks_share_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its database connections belong to one thread."""
    monkeypatch.setitem(sys.modules, "django", ModuleType("django"))
    keeper = authenticator(identify=lambda _: threading.get_ident())
    grants = await asyncio.gather(*(keeper.authenticate(scope()) for _ in range(4)))
    assert len({grant.principal.id for grant in grants}) == 1


async def test_basic_credentials_are_the_hosts_business() -> None:
    """Do not read `Authorization: Basic` as a gateway key."""
    keeper = authenticator(identify=lambda connection: connection.headers["authorization"])
    assert (await keeper.authenticate(scope(("authorization", "Basic YTpi")))).principal.id == "Basic YTpi"


async def test_an_adapter_that_found_nobody_is_believed() -> None:
    """A signed-out caller of a mount whose adapter asks the host reads that, not the operator's instructions."""
    with pytest.raises(Unauthenticated, match="not signed in"):
        await authenticator(keys=[]).authenticate({**scope(), SCOPE_KEY: None})
    assert not authenticator().has_identify
    assert authenticator(identify=lambda _: "alice").has_identify
