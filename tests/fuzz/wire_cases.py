"""Cases that are answers of upstreams, through the whole of the application and a real transport.

The same wires as in `stream_cases`, with what belongs to HTTP spoiled, too: status, headers, compression.
"""

import gzip
import json
import random
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from fuzz import mutate, seeds
from fuzz.harness import KEY, PATHS, Asked, FuzzHarness, Reply
from fuzz.request_cases import RequestCase, judge
from fuzz.seeds import CHAT, COMPLETIONS, GEMINI, UPSTREAMS
from fuzz.spoiled import spoiled_answer, spoiled_error, spoiled_stream

_PROVIDERS = dict(zip(UPSTREAMS, ("chat/harness-1", "responses/gpt-5.9", "anthropic/claude-sonnet-5",
                                  "gemini/gemini-3.5-flash"), strict=True))  # fmt: skip
_TYPES = ("text/event-stream", "text/event-stream; charset=utf-8", "application/json", "text/html", "", "a\xff", ",")
_STATUSES = (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 501, 502, 503, 504, 529, 204, 206, 301, 308, 418, 999)
_ODD = (
    ("retry-after", "1"),
    ("retry-after", "99999999999999999999"),
    ("retry-after", "x"),
    ("retry-after-ms", "-5"),
    ("x-request-id", "a b\xff"),
    ("request-id", "r" * 5000),
    ("set-cookie", "a=b"),
    ("x-should-retry", "true"),
    ("x-ratelimit-reset-tokens", "6m0s"),
)


class WireCase(NamedTuple):
    """What an upstream answers, and to which request."""

    request: RequestCase
    reply: Reply

    def show(self) -> str:
        """The input, for debugging."""
        status, headers, pieces = self.reply
        said = b"".join(pieces).decode("utf-8", "backslashreplace")
        return f"{self.request.show()}\n\n--- answered by\n{status} {headers}\n\n{said}\n(in {len(pieces)} pieces)"


def wire_case(upstream: str, rng: random.Random) -> WireCase:
    """One case, all of it from `rng`."""
    caller = rng.choice((*UPSTREAMS, COMPLETIONS)) if upstream == CHAT else rng.choice(UPSTREAMS)
    stream = rng.random() < 0.7
    request = _request(caller, _PROVIDERS[upstream], rng, stream=stream)
    status = rng.choice(_STATUSES) if rng.random() < 0.15 else 200
    if status >= 300:
        data = spoiled_error(upstream, rng)
    else:
        data = spoiled_stream(upstream, rng) if stream else spoiled_answer(upstream, rng)
    kind = rng.choice(_TYPES) if rng.random() < 0.1 else _TYPES[0 if stream and status < 300 else 2]
    headers = [("content-type", kind), *rng.sample(_ODD, rng.choice((0, 0, 1, 3)))]
    if rng.random() < 0.15:
        data = _compressed(data, headers, rng)
    pieces: Sequence[bytes] = mutate.cut_up(data, rng)
    return WireCase(request, (status, headers, pieces))


def _compressed(data: bytes, headers: list[tuple[str, str]], rng: random.Random) -> bytes:
    coding = rng.choice(("gzip", "deflate", "GZIP", "br", "gzip, gzip", "identity", "zstd", "\xff"))
    headers.append(("content-encoding", coding))
    match rng.randrange(5):
        case 0:
            return data
        case 1:
            return zlib.compress(data)
        case 2:
            return gzip.compress(b"\0" * 20_000_000, compresslevel=1, mtime=0) if rng.random() < 0.02 else b""
        case 3:
            return mutate.bytes_mutated(gzip.compress(data, mtime=0), rng, [data])
        case _:
            return gzip.compress(data, mtime=0)


def _request(caller: str, model: str, rng: random.Random, *, stream: bool) -> RequestCase:
    fit = [seed for seed in seeds.requests(caller) if seed.name in {"plain", "exchange", "schemas", "stored"}]
    tree = dict(rng.choice(fit).tree)
    path, query, array = PATHS.get(caller, ""), b"", False
    if caller == GEMINI:
        array = stream and rng.random() < 0.3
        query = b"alt=sse" if stream and not array else b""
        path = f"/v1beta/models/{model}:{'streamGenerateContent' if stream else 'generateContent'}"
    else:
        tree |= {"model": model, "stream": stream}
    headers = [(b"authorization", b"Bearer " + KEY.encode()), (b"content-type", b"application/json")]
    asked = Asked(path=path, query=query, headers=headers, pieces=[json.dumps(tree).encode()])
    return RequestCase(caller, asked, "", array)


async def play_wire(case: WireCase, harness: FuzzHarness) -> None:
    """Play it, and judge what comes.

    Raises:
        Illegal: That breaks a promise.
    """
    harness.upstream.reply = lambda *_: case.reply
    try:
        answered = await harness.call(case.request.asked)
    finally:
        harness.upstream.reply = None
    assert answered is not None, "no caller is left"
    judge(case.request, answered)
