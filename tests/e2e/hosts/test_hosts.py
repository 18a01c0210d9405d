"""One suite for every framework: the examples on real servers, asked by the official SDKs and by hand."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from llmproxy_asgi.testing import Received
from support.hosts import HANG, HOSTS, MACHINE_KEY, UPSTREAM_KEYS, Host, InternalPlatform, LoginPage, running
from support.hosts.answers import CHAT, MESSAGES, PIECES, WORDS, held

SAY: dict[str, Any] = {"messages": [{"role": "user", "content": "Will it rain?"}], "max_tokens": 50}
BODIES = {
    CHAT: {"model": "openai/gpt-test", **SAY},
    MESSAGES: {"model": "anthropic/claude-test", **SAY},
}
both_protocols = pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["chat", "messages"])
platform_only = pytest.mark.parametrize("host", ["internal_platform"], indirect=True)
login_pages = pytest.mark.parametrize(
    "host", [name for name, kind in HOSTS.items() if issubclass(kind, LoginPage)], indirect=True
)


@pytest.fixture(params=list(HOSTS), scope="module")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    name: str = request.param
    with running(HOSTS[name], tmp_path_factory.mktemp(name)) as found:
        yield found


@pytest.fixture
def alice(host: Host) -> Iterator[httpx2.Client]:
    with host.client(host.sign_in("alice")) as client:
        yield client


@pytest.fixture
def stranger(host: Host) -> Iterator[httpx2.Client]:
    with host.client() as client:
        yield client


def openai_client(host: Host, headers: dict[str, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=host.mount + "/v1", api_key="unused", default_headers=headers, max_retries=0)


def anthropic_client(host: Host, headers: dict[str, str]) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=host.mount, api_key="unused", default_headers=headers, max_retries=0)


def code_of(refusal: httpx2.Response, path: str) -> str:
    """The refusal's word for what is wrong, where the protocol has it."""
    body = refusal.json()
    if path == MESSAGES:
        assert body["type"] == "error"
        return str(body["error"]["type"])
    assert set(body) == {"error"}
    return str(body["error"]["type"])


def upstream_calls(host: Host) -> list[Received]:
    return list(host.upstream.requests)


# Signed out


@both_protocols
def test_stranger_is_refused_in_the_protocols_words(host: Host, stranger: httpx2.Client, path: str) -> None:
    """Without a user and a key: a 401 that the vendor's SDK can read, without an upstream call."""
    before = len(upstream_calls(host))
    refusal = stranger.post(path, json=BODIES[path])
    assert refusal.status_code == 401
    assert code_of(refusal, path) in {"authentication_error", "invalid_request_error"}
    assert len(upstream_calls(host)) == before


def test_official_clients_see_their_own_authentication_error(host: Host) -> None:
    """A stranger's SDK raises the exception that it has for a missing key."""
    with openai_client(host, {}) as chat, pytest.raises(openai.AuthenticationError):
        chat.chat.completions.create(**BODIES[CHAT])
    with anthropic_client(host, {}) as messages, pytest.raises(anthropic.AuthenticationError):
        messages.messages.create(**BODIES[MESSAGES])


@both_protocols
def test_wrong_machine_key_is_refused_though_somebody_is_signed_in(host: Host, alice: httpx2.Client, path: str) -> None:
    """What looks like one of our keys is judged as one, and never falls through to the session."""
    before = len(upstream_calls(host))
    refusal = alice.post(path, json=BODIES[path], headers={"authorization": "Bearer llmp_0000000000000000"})
    assert refusal.status_code == 401
    assert len(upstream_calls(host)) == before


def test_forged_session_is_nobody(host: Host) -> None:
    """A cookie that the application did not sign authenticates no user."""
    with host.client({"cookie": "session=eyJ1c2VyIjogImFsaWNlIn0.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb"}) as client:
        assert client.post(CHAT, json=BODIES[CHAT]).status_code == 401


# Signed in


def test_openai_client_of_a_signed_in_user(host: Host) -> None:
    """The official client works with the session's cookie and nothing else."""
    with openai_client(host, host.sign_in("alice")) as client:
        reply = client.chat.completions.create(**BODIES[CHAT])
    assert reply.choices[0].message.content == WORDS


def test_openai_client_streams(host: Host) -> None:
    """Every piece comes through the official client, in order."""
    with openai_client(host, host.sign_in("alice")) as client:
        chunks = list(client.chat.completions.create(**BODIES[CHAT], stream=True))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert tuple(pieces) == PIECES


def test_anthropic_client_of_a_signed_in_user(host: Host) -> None:
    """The other vendor's client as well, on the same mount."""
    with anthropic_client(host, host.sign_in("bob")) as client:
        reply = client.messages.create(**BODIES[MESSAGES])
    assert [part.text for part in reply.content if part.type == "text"] == [WORDS]


def test_anthropic_client_streams(host: Host) -> None:
    """Every piece comes through the other vendor's client, in order."""
    with (
        anthropic_client(host, host.sign_in("bob")) as client,
        client.messages.stream(**BODIES[MESSAGES]) as stream,
    ):
        assert tuple(stream.text_stream) == PIECES


def test_one_vendors_client_reaches_the_others_model(host: Host) -> None:
    """The client's protocol need not be the upstream's."""
    with openai_client(host, host.sign_in("alice")) as client:
        reply = client.chat.completions.create(**BODIES[CHAT] | {"model": "anthropic/claude-test"})
    assert reply.choices[0].message.content == WORDS
    assert upstream_calls(host)[-1].path == MESSAGES


@both_protocols
def test_nothing_is_buffered(host: Host, alice: httpx2.Client, path: str) -> None:
    """While the upstream is held after its first words, the client has them already."""
    scenario = held(path)
    host.upstream.enqueue(scenario)
    with alice.stream("POST", path, json=BODIES[path] | {"stream": True}) as answered:
        assert answered.status_code == 200
        assert answered.headers["content-type"].startswith("text/event-stream")
        assert answered.headers["x-accel-buffering"] == "no"
        assert "content-length" not in answered.headers
        lines = answered.iter_lines()
        assert any(PIECES[0] in line for line in lines)
        assert not scenario.gate.is_set()
        scenario.gate.set()
        assert any(PIECES[-1] in line for line in lines)
        list(lines)


def test_client_that_leaves_ends_the_upstream_call(host: Host, alice: httpx2.Client) -> None:
    """Closing the stream closes the upstream's connection, though the upstream says nothing more."""
    index = len(upstream_calls(host))
    host.upstream.enqueue(held(CHAT))
    with alice.stream("POST", CHAT, json=BODIES[CHAT] | {"stream": True}) as answered:
        assert any(PIECES[0] in line for line in answered.iter_lines())
    host.upstream.wait_closed(index, timeout=HANG)


def test_users_are_not_mixed_up(host: Host) -> None:
    """Of many calls at once each is taken for its own user's, and the upstream learns neither name nor session."""
    signed = {user: host.sign_in(user) for user in ("alice", "bob")}
    calls = [(user, f"{user}-{number}") for number in range(10) for user in signed]
    before = len(upstream_calls(host))

    def call(user: str, request_id: str) -> httpx2.Response:
        with host.client(signed[user]) as client:
            return client.post(CHAT, json=BODIES[CHAT], headers={"x-request-id": request_id})

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda each: call(*each), calls))
    assert [answered.status_code for answered in answers] == [200] * 20
    taken = host.callers()
    assert {request_id: taken[request_id].rpartition("/")[2] for _, request_id in calls} == {
        request_id: user for user, request_id in calls
    }
    for received in upstream_calls(host)[before:]:
        told = repr(received.headers) + received.body.decode()
        assert "alice" not in told
        assert "bob" not in told


@both_protocols
def test_upstream_gets_the_operators_key_and_nothing_of_the_callers(
    host: Host, alice: httpx2.Client, path: str
) -> None:
    """Cookie, single sign-on headers, the caller's own key and address stay here."""
    headers = {"authorization": "Bearer of-the-caller", "x-forwarded-for": "203.0.113.7"}
    assert alice.post(path, json=BODIES[path], headers=headers).status_code == 200
    received = upstream_calls(host)[-1]
    names = {name.lower() for name, _ in received.headers}
    assert not names & {"cookie", "x-forwarded-user", "x-proxy-secret", "x-forwarded-for"}
    told = repr(received.headers)
    assert "of-the-caller" not in told
    assert "127.0.0.1:" + host.base_url.rpartition(":")[2] not in told
    key = received.header("x-api-key") if path == MESSAGES else (received.header("authorization") or "")[7:]
    assert key == UPSTREAM_KEYS["ANTHROPIC_API_KEY" if path == MESSAGES else "OPENAI_API_KEY"]


# Other sites


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"sec-fetch-site": "cross-site"}, id="cross-site"),
        pytest.param({"sec-fetch-site": "same-site"}, id="sister-site"),
        pytest.param({"origin": "https://elsewhere.example"}, id="foreign-origin"),
        pytest.param({"origin": "null"}, id="opaque-origin"),
        pytest.param({"content-type": "text/plain"}, id="text"),
        pytest.param({"content-type": "application/x-www-form-urlencoded"}, id="form"),
    ],
)
def test_cookie_from_another_site_is_refused(host: Host, alice: httpx2.Client, headers: dict[str, str]) -> None:
    """What another site's page could send with the user's cookie gets a 403, and the upstream hears nothing."""
    before = len(upstream_calls(host))
    refusal = alice.post(CHAT, json=BODIES[CHAT], headers=headers)
    assert refusal.status_code == 403
    assert len(upstream_calls(host)) == before


def test_cookie_from_the_applications_own_page_is_taken(host: Host, alice: httpx2.Client) -> None:
    """The same call as the application's own page sends it."""
    headers = {"sec-fetch-site": "same-origin", "origin": host.base_url}
    assert alice.post(CHAT, json=BODIES[CHAT], headers=headers).status_code == 200


# Paths

ODD_PATHS = [
    "/v1/chat/completions/",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/./chat/completions",
    "/v1/models/../chat/completions",
    "/health/../v1/chat/completions",
    "/%2e%2e/llm/v1/chat/completions",
    "/v1/chat%2Fcompletions",
    "/v1/chat/completions;x",
    "/V1/chat/completions",
    "/v1/chat/completions%00",
    "/nothing/here",
    "",
    "/",
]


def post_raw(host: Host, path: str, headers: dict[str, str]) -> int:
    """The status of a POST to exactly this path: clients that are made for more tidy dots and slashes up."""
    with closing(HTTPConnection(host.base_url.removeprefix("http://"), timeout=HANG)) as connection:
        headers = {"content-type": "application/json", **headers}
        connection.request("POST", path, json.dumps(BODIES[CHAT]), headers)
        return connection.getresponse().status


@pytest.mark.parametrize("path", ODD_PATHS)
def test_no_spelling_of_a_path_skips_the_login(host: Host, path: str) -> None:
    """However the path is written, a stranger is not served; a user is only where it means the endpoint."""
    before = len(upstream_calls(host))
    assert post_raw(host, "/llm" + path, {}) in {307, 308, 400, 401, 404, 405}
    assert len(upstream_calls(host)) == before
    status = post_raw(host, "/llm" + path, host.sign_in("alice"))
    assert status in {200, 307, 308, 400, 404, 405}
    assert len(upstream_calls(host)) == before + (status == 200)


@pytest.mark.parametrize("prefix", ["//", "/./", "/x/../"])
def test_other_spelling_of_the_mount_is_no_way_in(host: Host, prefix: str) -> None:
    """The mount under another spelling of its own path is not found, or wants the login as well."""
    before = len(upstream_calls(host))
    assert post_raw(host, f"{prefix}llm{CHAT}", {}) in {307, 308, 401, 404, 405}
    assert len(upstream_calls(host)) == before


def test_unknown_path_is_a_404_for_users(alice: httpx2.Client) -> None:
    """Below the mount there is what is documented, and nothing else."""
    assert alice.get("/v1/nothing").status_code == 404


# The application itself


def test_own_pages_still_work(host: Host) -> None:
    """The application's own routes know the same user, and refuse strangers as before."""
    with httpx2.Client(base_url=host.base_url, timeout=HANG, trust_env=False) as client:
        assert client.get("/me").status_code == 401
        me = client.get("/me", headers=host.sign_in("alice"))
    assert me.json()["name"].lower() == "alice"


@login_pages
def test_pages_of_the_login(host: Host) -> None:
    """The chat page is for users, the others are sent to the login, and what the pages load is there."""
    with httpx2.Client(base_url=host.base_url, timeout=HANG, trust_env=False) as client:
        sent_away = client.get("/")
        assert sent_away.status_code in {302, 303, 307}
        assert sent_away.headers["location"].endswith("login")
        assert "<form" in client.get("/login").text
        assert "static/chat.js" in client.get("/", headers=host.sign_in("bob")).text
        assert "textContent" in client.get("/static/chat.js").text
        assert client.get("/static/style.css").status_code == 200


@login_pages
def test_wrong_password_signs_nobody_in(host: Host) -> None:
    """Neither a wrong password nor an unknown name gives a session that the gateway takes."""
    assert isinstance(host, LoginPage)
    for user, password in (("alice", "builder"), ("mallory", "wonderland")):
        cookie = host.session(user, password)
        with host.client({"cookie": cookie} if cookie else None) as client:
            assert client.post(CHAT, json=BODIES[CHAT]).status_code == 401


@pytest.mark.parametrize("name", list(HOSTS))
def test_example_needs_no_key_of_a_vendor(name: str, tmp_path: Path) -> None:
    """As it is started by its README, without any key, the example answers from the simulated provider."""
    with (
        running(HOSTS[name], tmp_path, vendors=False) as host,
        openai_client(host, host.sign_in("alice")) as client,
    ):
        with client.chat.completions.create(model="assistant", messages=SAY["messages"], stream=True) as chunks:
            # Its story is a long one, so its first word has to do.
            assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)
        assert upstream_calls(host) == []


# Machines and single sign-on


@platform_only
def test_machine_key_works_for_its_models_alone(host: Host) -> None:
    """The key is its own caller, in its own tenant, and finds no other model."""
    assert isinstance(host, InternalPlatform)
    with host.client({"authorization": f"Bearer {MACHINE_KEY}", "x-request-id": "machine-1"}) as machine:
        assert machine.post(CHAT, json=BODIES[CHAT] | {"model": "assistant"}).status_code == 200
        refusal = machine.post(CHAT, json=BODIES[CHAT], headers={"x-request-id": "machine-2"})
    assert refusal.status_code == 404
    assert refusal.json()["error"]["code"] == "model_not_found"
    assert host.callers()["machine-1"] == "payments/ci"
    assert MACHINE_KEY not in repr(upstream_calls(host)[-1].headers)


@platform_only
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"x-proxy-secret": "guessed"}, id="wrong-secret"),
        pytest.param({"x-proxy-secret": ""}, id="no-secret"),
        pytest.param({"x-forwarded-user": "mallory"}, id="on-no-team"),
        pytest.param({"x-forwarded-user": ""}, id="no-name"),
    ],
)
def test_name_in_a_header_counts_only_with_the_proxys_secret(host: Host, changed: dict[str, str]) -> None:
    """The single sign-on's header authenticates no user unless the proxy sent it."""
    with host.client(host.sign_in("alice") | changed) as client:
        assert client.post(CHAT, json=BODIES[CHAT]).status_code == 401


@platform_only
def test_team_is_the_tenant(host: Host) -> None:
    """People of two teams are in two tenants."""
    for user, tenant in (("alice", "search"), ("bob", "payments")):
        with host.client(host.sign_in(user) | {"x-request-id": f"team-{user}"}) as client:
            assert client.post(CHAT, json=BODIES[CHAT]).status_code == 200
        assert host.callers()[f"team-{user}"] == f"{tenant}/{user}"
