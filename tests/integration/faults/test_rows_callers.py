"""Rows 30 to 32: callers that are slow, say too much, or send JSON that is made to hurt."""

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from llmproxy_asgi.facts import CallRefused
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream
from support.faults import (
    EVERY,
    GatewayHarness,
    at_once,
    block,
    fine,
    gateway,
    is_fine,
    is_refusal,
    request,
)
from support.faults.process import MEASURES, ProcessHarness, process
from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES
from support.pairs.asks import TURNS, tools

MIB = 1024 * 1024
CLIENTS = pytest.mark.parametrize("client", EVERY)
MEASURED = pytest.mark.skipif(not MEASURES, reason="this system does not tell what a process costs")


def answer(received: Received) -> Scenario:
    # By its bytes: what is relayed may hold what no reader of JSON takes.
    spoken = MESSAGES if received.path.endswith("/messages") else CHAT
    return fine(spoken, stream=b'"stream":true' in received.body.replace(b" ", b""))


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    with Upstream.in_thread(default=answer) as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh(upstream: ThreadedUpstream) -> None:
    upstream.requests.clear()


@pytest.fixture(scope="module")
def strict_gateway(upstream: ThreadedUpstream) -> Iterator[GatewayHarness]:
    """Little time and little room."""
    limits = {"body": "64KiB", "body_timeout": "300ms"}
    with gateway(block(upstream), limits=limits, access={"mode": "open", "default": {"max_concurrency": 50}}) as made:
        yield made


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *lines, "", ""]).encode()


def status_of(connection: socket.socket) -> int:
    """The status of the answer that comes; 0 where the connection is closed without one."""
    data = b""
    while b"\r\n" not in data:
        more = connection.recv(4096)
        if not more:
            return 0
        data += more
    return int(data.split(b" ", 2)[1])


# ── 30 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fault(30)
@CLIENTS
@pytest.mark.parametrize("drips", [False, True], ids=["stops", "drips"])
def test_a_slow_body_is_a_408(
    strict_gateway: GatewayHarness, upstream: ThreadedUpstream, client: str, *, drips: bool
) -> None:
    """Whether it stops or comes a byte at a time; meanwhile a faster one is served."""
    path, body = request(client)
    data = json.dumps(body).encode()
    stop = threading.Event()
    with strict_gateway.raw() as connection:
        connection.sendall(head(path, "content-length: 60000") + data[:10])

        def drip() -> None:
            while drips and not stop.wait(0.02):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert is_fine(strict_gateway.ask(client))
        status = status_of(connection)
        stop.set()
        dripping.join()
    assert status == 408
    assert len(upstream.requests) == 1


@pytest.mark.fault(30)
def test_fifty_slow_bodies_leave_nothing_behind(strict_gateway: GatewayHarness) -> None:
    """Each has its 408, is reported as a refusal, and releases its slot: these fifty are all there are."""
    before = len([fact for fact in strict_gateway.observer.facts if isinstance(fact, CallRefused)])

    def slow(number: int) -> int:
        path, _ = request(EVERY[number % 4])
        with strict_gateway.raw() as connection:
            connection.sendall(head(path, "transfer-encoding: chunked") + b"5\r\n{")
            return status_of(connection)

    assert at_once(slow, range(50)) == [408] * 50
    refused = [fact for fact in strict_gateway.observer.facts if isinstance(fact, CallRefused)][before:]
    assert [each.status for each in refused] == [408] * 50
    assert is_fine(strict_gateway.ask())


@pytest.mark.fault(30)
def test_who_leaves_in_the_middle_of_a_body_is_forgotten(
    strict_gateway: GatewayHarness, upstream: ThreadedUpstream
) -> None:
    """No upstream call is made, and nothing is logged as a fault of the gateway."""
    for client in EVERY:
        path, _ = request(client)
        with strict_gateway.raw() as connection:
            connection.sendall(head(path, "content-length: 5000") + b"{")
    assert is_fine(strict_gateway.ask())
    assert len(upstream.requests) == 1


# ── 31 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.fault(31)
@CLIENTS
def test_a_body_over_the_limit_is_a_413(
    strict_gateway: GatewayHarness, upstream: ThreadedUpstream, client: str
) -> None:
    """By its length at once, without one at the limit; one byte less than too much is read."""
    path, body = request(client)
    data = json.dumps(body).encode()
    fits = data + b" " * (64 * 1024 - len(data))
    assert is_fine(strict_gateway.post(path, fits))
    refused = strict_gateway.post(path, fits + b" ")
    assert is_refusal(client, refused, 413)
    for length in ("65537", "99999999999999999999"):
        with strict_gateway.raw() as connection:
            connection.sendall(head(path, f"content-length: {length}"))
            assert status_of(connection) in {400, 413}  # some servers refuse to count that far
    with strict_gateway.raw() as connection:
        connection.sendall(head(path, "transfer-encoding: chunked"))
        for _ in range(17):
            connection.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert status_of(connection) == 413
    assert len(upstream.requests) == 1


LIES: dict[str, tuple[list[str], bytes]] = {
    "more than comes": (["content-length: 4000"], b"%b"),
    "less than comes": (["content-length: 20"], b"%b"),
    "none of it": (["content-length: 0"], b"%b"),
    "no number": (["content-length: many"], b"%b"),
    "negative": (["content-length: -1"], b"%b"),
    "two": (["content-length: 10", "content-length: 4000"], b"%b"),
    "a length and chunks": (["content-length: 4", "transfer-encoding: chunked"], b"1\r\n{\r\n0\r\n\r\n%b"),
    "chunks that are none": (["transfer-encoding: chunked"], b"zz\r\n%b"),
}


@pytest.mark.fault(31)
@pytest.mark.parametrize(("lines", "form"), LIES.values(), ids=LIES)
def test_a_false_length_reaches_no_upstream(
    strict_gateway: GatewayHarness, upstream: ThreadedUpstream, lines: list[str], form: bytes
) -> None:
    """Whatever it says, no part of a body is taken for all of it: the caller is refused, or the server hangs up."""
    for client in EVERY:
        path, body = request(client)
        with strict_gateway.raw() as connection:
            connection.sendall(head(path, *lines) + form % json.dumps(body).encode())
            assert status_of(connection) in {0, 400, 408}
    assert upstream.requests == []


@pytest.fixture(scope="module")
def measured(upstream: ThreadedUpstream) -> Iterator[ProcessHarness]:
    """A process of its own, with every bound at its default; two upstreams, so that each caller is translated once."""
    with process(block(upstream, models=["m", CHAT]), block(upstream, MESSAGES, models=[MESSAGES])) as harness:
        for client in EVERY:
            for model in (CHAT, MESSAGES):
                assert is_fine(harness.ask(client, model=model))
        yield harness


@pytest.mark.fault(31)
@MEASURED
@CLIENTS
def test_an_endless_body_is_never_held(measured: ProcessHarness, client: str) -> None:
    """Of 100 MiB in chunks no more than the limit of 32 MiB is kept, and twice that for a moment."""
    path, _ = request(client)
    size = measured.forget_peak()
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
    with measured.raw() as connection:
        connection.sendall(head(path, "transfer-encoding: chunked"))
        try:
            for _ in range(100):
                connection.sendall(chunk)
        except OSError:
            pass  # it has hung up, which is what it may do
        else:
            assert status_of(connection) == 413
    assert measured.peak() - size < 80 * MIB
    assert is_fine(measured.ask(client))


# ── 32 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def extended(client: str, more: bytes) -> bytes:
    """A good request with more bytes before its last brace."""
    _, body = request(client)
    return json.dumps(body).encode()[:-1] + more + b"}"


MANY_KEYS = b",".join(b'"k%d":1' % number for number in range(1_000_000))

HURTING: dict[str, bytes] = {
    "deep arrays": b',"x":' + b"[" * 200_000 + b"]" * 200_000,
    "deep objects": b',"x":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep and open": b',"x":' + b"[" * 200_000,
    "a million keys": b"," + MANY_KEYS,
    "a million keys within": b',"x":{"":0,' + MANY_KEYS + b"}",
    "not a number": b',"x":NaN',
    "endless": b',"x":-Infinity',
    "a lone surrogate": b',"x":"\\ud800"',
    "a reversed pair": b',"x":"\\udc00\\ud800"',
    "not UTF-8": b',"x":"\xff"',
    "an overlong slash": b',"x":"\xc0\xaf"',
    "a NUL": b',"x":\x00',
    "a hex number": b',"x":0x10',
    "a leading nought": b',"x":01',
    "a comma too many": b",",
    "a comment": b"/**/",
}


@pytest.mark.fault(32)
@MEASURED
@pytest.mark.parametrize("more", HURTING.values(), ids=HURTING)
def test_json_that_hurts_is_refused_cheaply(measured: ProcessHarness, upstream: ThreadedUpstream, more: bytes) -> None:
    """A 400 in each protocol, for a fraction of a second of four requests together; no upstream hears of it."""
    bodies = [(client, request(client)[0], extended(client, more)) for client in EVERY]
    cpu = measured.cpu()
    for client, path, body in bodies:
        assert is_refusal(client, measured.post(path, body), 400), client
    # Receiving a dozen megabytes is the server's work, and part of it; reading them into a dictionary would be seconds.
    assert measured.cpu() - cpu < 1.2
    assert upstream.requests == []


NUMBERS: dict[str, bytes] = {
    "5000 digits": b"1" * 5000,
    "5000 digits, negative": b"-" + b"9" * 5000,
    "4000 digits": b"1" * 4000,
    "400 digits": b"1" + b"0" * 400,
    "30 digits": b"123456789012345678901234567890",
    "a fraction of 5000 digits": b"0." + b"1" * 5000,
    "too large": b"1e400",
    "too small": b"1e-99999",
    "a long exponent": b"1e" + b"9" * 5000,
}
WHERE: dict[str, Callable[[str, bytes], bytes]] = {
    "an unknown field": lambda client, number: extended(client, b',"x":' + number),
    "a schema": lambda client, number: extended(client, b',"tools":' + _schema(client, number)),
    "a temperature": lambda client, number: extended(
        client, (b',"generationConfig":{"temperature":%b}' if client == GEMINI else b',"temperature":%b') % number
    ),
    "a limit": lambda client, number: extended(
        client,
        {
            GEMINI: b',"generationConfig":{"maxOutputTokens":%b}',
            RESPONSES: b',"max_output_tokens":%b',
        }.get(client, b',"max_tokens":%b')
        % number,
    ),
}


def _schema(client: str, number: bytes) -> bytes:
    return (
        json.dumps(tools(client, "f"))
        .encode()
        .replace(b'"city": {"type": "string"}', b'"city": {"const": %b}' % number)
    )


@pytest.mark.fault(32)
@MEASURED
@CLIENTS
@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
def test_numbers_without_bounds(measured: ProcessHarness, client: str, where: Callable[[str, bytes], bytes]) -> None:
    """In a field that is passed on, read or translated: served or a 400, never a 500, and quickly."""
    cpu = measured.cpu()
    for name, number in NUMBERS.items():
        for model in (CHAT, MESSAGES):
            path, _ = request(client, model=model)
            body = where(client, number).replace(b'"model": "m"', b'"model": "%b"' % model.encode())
            got = measured.post(path, body)
            assert is_fine(got) or is_refusal(client, got, 400), (name, model, got.text)
    assert measured.cpu() - cpu < 2


@pytest.mark.fault(32)
@CLIENTS
def test_repeated_keys_have_one_meaning(
    strict_gateway: GatewayHarness, upstream: ThreadedUpstream, client: str
) -> None:
    """The last one counts, so only that one is sent: no parser may read the request in another way."""
    path, body = request(client)
    turns = json.dumps(body[TURNS[client]])
    other = turns.replace("weather", "forbidden")
    for key, first in ((TURNS[client], other), ("model", '"nobody"')):
        if key in body:
            twice = "{" + f'"{key}": {first}, ' + json.dumps(body)[1:]
            assert is_fine(strict_gateway.post(path, twice.encode()))
            sent = upstream.requests[-1].body
            assert b"forbidden" not in sent
            assert b"nobody" not in sent


@pytest.mark.fault(32)
@CLIENTS
def test_repeated_keys_further_in_have_one_meaning_where_they_are_read(measured: ProcessHarness, client: str) -> None:
    """Within a message the same; what is only passed on is judged by its upstream."""
    path, body = request(client, model=MESSAGES)
    data = json.dumps(body).replace('"role": "user"', '"role": "user", "role": "user"')
    got = measured.post(path, data.encode())
    assert is_fine(got) or is_refusal(client, got, 400)
