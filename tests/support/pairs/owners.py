"""Two callers of one gateway, and an upstream that gives scripted answers in every protocol."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import msgspec
import openai

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream, json_answer
from support.gateway import served
from support.pairs.harness import MODELS, PROVIDERS, STRICT, Play, gateway_config
from support.pairs.replies import Reply
from support.pairs.wires import CHAT, MESSAGES, RESPONSES, sse
from support.strict import check_gemini

ALICE = "llmp_alice-0123456789-0123456789"
BOB = "llmp_bob-0123456789-0123456789"
KEYS = ({"name": "alice", "key": ALICE}, {"name": "bob", "key": BOB})


def streams(received: Received) -> bool:
    """Whether the upstream is asked for a stream."""
    return ":stream" in received.path or bool(received.json().get("stream"))


def protocol_of(received: Received) -> str:
    """The protocol that the upstream is spoken to in."""
    return next((each for each in (CHAT, RESPONSES, MESSAGES) if received.path.endswith(_ENDS[each])), "gemini")


_ENDS = {CHAT: "/chat/completions", RESPONSES: "/responses", MESSAGES: "/messages"}


class OwnersHarness:
    """One gateway.

    Attributes:
        proxy: The gateway itself.
        base: Its address.
        alice: OpenAI's client of one principal.
        bob: That of another one.
    """

    def __init__(self, proxy: LLMProxy, base: str, upstream: ThreadedUpstream) -> None:
        self.proxy = proxy
        self.base = base
        self.upstream = upstream
        self._numbers = count(2)
        self.alice, self.bob = (_client(base, key) for key in (ALICE, BOB))

    def close(self) -> None:
        """Close the clients."""
        self.alice.close()
        self.bob.close()

    def model(self, protocol: str) -> str:
        """A model behind an upstream of this protocol."""
        return f"{PROVIDERS[protocol]}/{MODELS[protocol]}"

    def play(self, *answers: Reply | Play) -> None:
        """Answer the next requests with these, the last one for ever; each must be one that its vendor takes."""
        left, numbers = list(answers), self._numbers

        def answer(received: Received) -> Scenario:
            STRICT.get(received.path, check_gemini)(received, allow=())
            following = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(following, Reply):
                return _said(following, protocol_of(received), stream=streams(received), number=next(numbers))
            return following if isinstance(following, Scenario) else following(received)

        self.upstream.default = answer

    def reset(self) -> None:
        """Forget what earlier tests did."""
        self.upstream.requests.clear()
        self.upstream.default = None

    @property
    def sent(self) -> Any:
        """The last body that the upstream got."""
        return self.upstream.requests[-1].json()


def _said(reply: Reply, protocol: str, *, stream: bool, number: int) -> Scenario:
    """The reply; where the protocol's items have ids, with ids of its own."""
    if protocol != RESPONSES:
        return reply.scenario(protocol, stream=stream)
    known, fresh = b"msg_up1", b"msg_up%d" % number
    if stream:
        return sse(frame.replace(known, fresh) for frame in reply.frames(protocol))
    return json_answer(200, msgspec.json.encode(reply.whole(protocol)).replace(known, fresh))


@contextmanager
def owners_harness(*, keys: Sequence[dict[str, Any]] = KEYS, **provider: Any) -> Iterator[OwnersHarness]:
    """A gateway in front of one scripted upstream that speaks all four protocols.

    Args:
        keys: Who may call.
        provider: More for every provider's block.
    """
    with Upstream.in_thread() as upstream:
        config = gateway_config(upstream, **provider)
        config["access"]["keys"] = list(keys)
        proxy = LLMProxy(config)
        with served(proxy) as base:
            made = OwnersHarness(proxy, base, upstream)
            try:
                yield made
            finally:
                made.close()


def _client(base: str, key: str) -> openai.OpenAI:
    http = openai.DefaultHttpx2Client(trust_env=False)
    return openai.OpenAI(base_url=base + "/v1", api_key=key, max_retries=0, timeout=30.0, http_client=http)
