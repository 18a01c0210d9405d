"""The same cases over sockets: a share of the requests to a real server, a share of the wires from a scripted upstream.

What is here to be found is what the calls within the process cannot show: what a server makes of odd heads and bodies,
and what the real transport makes of odd answers. Bytes are sent as they are, by hand, on a connection of their own.
"""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from fuzz.harness import Answered, Asked, Reply, ScriptedUpstream, configuration
from fuzz.legal import Illegal
from fuzz.request_cases import RequestCase, judge, request_case
from fuzz.seeds import PROTOCOLS, UPSTREAMS
from fuzz.wire_cases import WireCase, wire_case
from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import Close, Received, Scenario, Send, Upstream
from support.gateway import served

_PATIENCE = 60.0
"""Seconds; a guard against hanging, far above what a call takes."""


def _head(status: int, headers: Iterator[tuple[str, str]] | list[tuple[str, str]], framing: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers), framing, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def scenario(reply: Reply, rng: random.Random, *, right: bool) -> Scenario:
    """What an upstream does: in chunks, with a length that is right or wrong (unless `right`), or until it closes."""
    status, headers, pieces = reply
    size = sum(map(len, pieces))
    match rng.randrange(4):
        case 0:
            length = max(0, size + (0 if right else rng.choice((0, 0, 0, 5, -5))))
            return Scenario(
                Send(_head(status, list(headers), f"content-length: {length}")), *map(Send, pieces), Close()
            )
        case 1:
            return Scenario(Send(_head(status, list(headers), "connection: close")), *map(Send, pieces), Close())
        case _:
            chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
            end = [b"0\r\n\r\n"] if right or rng.random() < 0.9 else []
            head = _head(status, list(headers), "transfer-encoding: chunked")
            return Scenario(Send(head), *map(Send, [*chunks, *end]), Close())


class Wired:
    """A gateway on a socket, in front of an upstream on another."""

    def __init__(self, base: str, upstream: "Play") -> None:
        host, _, port = base.removeprefix("http://").partition(":")
        self._address = (host, int(port))
        self._upstream = upstream

    def play(self, case: WireCase | RequestCase, rng: random.Random) -> None:
        """Play a case, and judge what comes.

        Raises:
            Illegal: That breaks a promise.
        """
        request = case if isinstance(case, RequestCase) else case.request
        upstream = self._upstream.script = ScriptedUpstream()
        upstream.rng = rng
        if isinstance(case, WireCase):
            upstream.reply = lambda *_: case.reply
        answered = self.ask(request.asked)
        if upstream.wrong:
            raise Illegal("; ".join(upstream.wrong))
        if answered is not None:
            judge(request, answered)

    def ask(self, asked: Asked) -> Answered | None:
        """Send it, and read until the server closes; None: it is not to be answered, or was no HTTP to the server."""
        body = b"".join(asked.pieces)
        target = asked.path.replace("%", "%25").replace(" ", "%20").replace("?", "%3F").replace("#", "%23")
        query = b"?" + asked.query if asked.query else b""
        head = [b"POST " + target.encode() + query + b" HTTP/1.1", b"host: gateway", b"connection: close"]
        head += [name + b": " + value for name, value in asked.headers]
        head.append(b"content-length: %d" % (len(body) + asked.leaves))
        with socket.create_connection(self._address, timeout=_PATIENCE) as connection:
            connection.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)
            if asked.leaves:
                return None
            got = bytearray()
            try:
                while piece := connection.recv(65536):
                    got += piece
            except TimeoutError:
                raise Illegal("it hangs") from None
        return _parsed(bytes(got), tuple(self._upstream.script.spoke))


def _parsed(data: bytes, spoke: tuple[str, ...]) -> Answered:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if headers.pop(b"transfer-encoding", b"") == b"chunked":
        body = _joined(body)
    return Answered(status=int(first.split(b" ")[1]), headers=headers, body=body, spoke=spoke)


def _joined(chunked: bytes) -> bytes:
    pieces: list[bytes] = []
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return b"".join(pieces)
        pieces.append(rest[:length])
        chunked = rest[length + 2 :]
    raise Illegal("the body has no end")


class Play:
    """The upstream's behaviour for every request until the next change."""

    def __init__(self) -> None:
        self.script = ScriptedUpstream()

    def __call__(self, received: Received) -> Scenario:
        """The answer to a request."""
        script = self.script
        reply = script.answer(unquote(received.path), received.body)
        return scenario(reply, script.rng, right=script.reply is None)


@contextmanager
def wired() -> Iterator[Wired]:
    """A gateway and its upstream, each on a socket of its own."""
    play = Play()
    with Upstream.in_thread(default=play) as upstream, served(LLMProxy(configuration(upstream.base_url))) as base:
        yield Wired(base, play)


def socket_case(number: int, *, seed: int) -> tuple[WireCase | RequestCase, random.Random]:
    """One case: in turn a request and a wire, of each protocol."""
    rng = random.Random(f"sockets/{seed}/{number}")
    if number % 2:
        return wire_case(UPSTREAMS[number // 2 % len(UPSTREAMS)], rng), rng
    return request_case(PROTOCOLS[number // 2 % len(PROTOCOLS)], rng), rng
