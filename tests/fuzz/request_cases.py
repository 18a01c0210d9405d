"""Cases that are requests: a right one of some protocol, mutated, to any of the upstreams' protocols."""

import random
from typing import Any, NamedTuple

from fuzz import mutate, seeds
from fuzz.harness import KEY, MODELS, PATHS, Answered, Asked, FuzzHarness
from fuzz.legal import Illegal, check_error, check_head, check_stream, check_whole
from fuzz.mutate import dump, mutated
from fuzz.seeds import GEMINI, MESSAGES, RESPONSES

CLIENT_CLOSED_REQUEST = 499
PROVIDERS = ("chat", "responses", "anthropic", "gemini")
_COUNTS = {MESSAGES: "/v1/messages/count_tokens", RESPONSES: "/v1/responses/input_tokens"}
_BETAS = (b"", b"tools-2025", b"a,b , c", b"\xe9", b"context-1m-2025-08-07,interleaved-thinking-2025-05-14")


class RequestCase(NamedTuple):
    """A request, and what its answer must be besides legal."""

    protocol: str
    asked: Asked
    method: str
    """`count`, `embed`, or empty."""
    array: bool
    """Whether a streamed answer is a JSON array."""

    def show(self) -> str:
        """The input, for debugging."""
        return self.asked.show()


def request_case(protocol: str, rng: random.Random) -> RequestCase:
    """One case, all of it from `rng`."""
    seed = rng.choice(seeds.requests(protocol))
    provider = _provider(protocol, rng)
    model = "smart" if provider == "smart" else f"{provider}/{rng.choice(MODELS)}"
    tree: Any = dict(seed.tree)
    path, query, method, array = PATHS.get(protocol, ""), b"", "", False
    if protocol == GEMINI:
        path, query, method = _gemini(seed.name, model, rng)
        array = query != b"alt=sse"
    else:
        tree["model"] = model
        if rng.random() < 0.5:
            tree["stream"] = rng.random() < 0.7
        if protocol in _COUNTS and rng.random() < 0.05:
            path, method = _COUNTS[protocol], "count"
    body = dump(mutated(tree, rng, seeds.material()) if rng.random() < 0.9 else tree, rng)
    if rng.random() < 0.2:
        body = mutate.bytes_mutated(body, rng, seeds.blobs())
    pieces = mutate.cut_up(body, rng) if rng.random() < 0.1 else [body]
    asked = Asked(
        path=path,
        query=query,
        headers=_headers(protocol, rng),
        pieces=pieces,
        leaves=rng.random() < 0.005,
    )
    return RequestCase(protocol, asked, method, array)


def _provider(protocol: str, rng: random.Random) -> str:
    if protocol in seeds.UPSTREAMS:
        return rng.choice((*PROVIDERS, "smart"))
    return rng.choice((*PROVIDERS, "smart", "old", "old"))


def _gemini(name: str, model: str, rng: random.Random) -> tuple[str, bytes, str]:
    root = rng.choice(("/v1beta/models", "/v1/models"))
    if name.startswith("embed"):
        method = "batchEmbedContents" if name == "embed_batch" else "embedContent"
        model = model if rng.random() < 0.3 else rng.choice(("gemini/e-1", "old/e-1"))
        return f"{root}/{model}:{method}", b"", "embed"
    if rng.random() < 0.06:
        return f"{root}/{model}:countTokens", b"", "count"
    if rng.random() < 0.5:
        return f"{root}/{model}:streamGenerateContent", rng.choice((b"alt=sse", b"")), ""
    return f"{root}/{model}:generateContent", b"", ""


def _headers(protocol: str, rng: random.Random) -> list[tuple[bytes, bytes]]:
    headers = [(b"authorization", b"Bearer " + KEY.encode()), (b"content-type", b"application/json")]
    if protocol == MESSAGES:
        headers.append((b"anthropic-version", b"2023-06-01"))
        if rng.random() < 0.2:
            headers.append((b"anthropic-beta", rng.choice(_BETAS)))
    if rng.random() < 0.05:
        headers.append((b"x-llmproxy-strict", b"1"))
    if rng.random() < 0.1:
        headers.append((b"x-llmproxy-explain", b"1"))
    return headers


async def play_request(case: RequestCase, harness: FuzzHarness, rng: random.Random) -> None:
    """Play it, and judge what comes.

    Raises:
        Illegal: That breaks a promise.
    """
    harness.upstream.rng = rng
    answered = await harness.call(case.asked)
    if answered is None:
        if not case.asked.leaves:
            raise Illegal("no answer at all")
        return
    if case.asked.leaves and answered.status == CLIENT_CLOSED_REQUEST:
        if answered.body:
            raise Illegal(f"a body for a client that has left: {answered.body[:100]!r}")
        return
    judge(case, answered)


def judge(case: RequestCase, answered: Answered) -> None:
    """Whether an answer is one that callers of this protocol can read.

    Raises:
        Illegal: It is not.
    """
    check_head(answered.status, answered.headers, answered.body)
    relayed = answered.spoke[-1:] == (case.protocol,)
    kind = answered.headers.get(b"content-type", b"").partition(b";")[0]
    if answered.status != 200:
        check_error(case.protocol, answered.status, answered.body)
    elif kind == b"text/event-stream":
        check_stream(case.protocol, answered.body, relayed=relayed)
    elif case.array and case.asked.path.endswith(":streamGenerateContent"):
        check_stream(case.protocol, answered.body, relayed=relayed, array=True)
    else:
        check_whole(case.protocol, answered.body, relayed=relayed, method=case.method)
