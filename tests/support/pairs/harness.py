"""A gateway on a real socket between the official SDKs and a scripted upstream that is as strict as the vendor."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from anyio.from_thread import start_blocking_portal

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.testing import Received, Scenario, ThreadedUpstream, Upstream
from support.gateway import served
from support.pairs.callers import Answer, ChatCaller, MessagesCaller, ProtocolPair
from support.pairs.gemini_caller import GeminiCaller
from support.pairs.responses_caller import ResponsesCaller
from support.pairs.wires import CHAT, GEMINI, MESSAGES, RESPONSES
from support.strict import check_chat, check_gemini, check_messages, check_responses

KEY = "llmp_pairs-of-protocols-0123456789"
MODELS = {CHAT: "house-1", RESPONSES: "house-1", MESSAGES: "claude-sonnet-5", GEMINI: "gemini-3.5-flash"}
"""The upstream's model, unless a test names another. Of OpenAI's protocols one that takes whatever they can say; what
its own models refuse is a matter of their families."""
PROVIDERS = {CHAT: "openai", RESPONSES: "responses", MESSAGES: "anthropic", GEMINI: "gemini"}
"""Their names, one for each protocol; spares have a number behind it."""
PATHS = {CHAT: "/v1/chat/completions", RESPONSES: "/v1/responses", MESSAGES: "/v1/messages"}
STRICT = {PATHS[CHAT]: check_chat, PATHS[RESPONSES]: check_responses, PATHS[MESSAGES]: check_messages}
_KINDS: dict[str, dict[str, Any]] = {
    CHAT: {"protocol": "openai-chat"},
    RESPONSES: {"type": "openai", "protocol": "openai-responses"},
    MESSAGES: {"type": "anthropic"},
    GEMINI: {"type": "gemini"},
}
_HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}

Play = Scenario | Callable[[Received], Scenario]
Caller = ChatCaller | ResponsesCaller | MessagesCaller | GeminiCaller


def gateway_config(
    upstream: ThreadedUpstream, *, spares: int = 0, chat: str = "openai", **provider: Any
) -> dict[str, Any]:
    """A configuration with one provider per protocol.

    Args:
        upstream: Where all go.
        spares: How many more of each, for calls that leave traces.
        chat: The type of the provider that speaks Chat.
        provider: More for every provider's block.
    """
    blocks = {
        f"{name}{suffix}": {
            **_KINDS[protocol],
            **({"type": chat} if protocol == CHAT else {}),
            "base_url": upstream.base_url + ("/v1" if protocol in {CHAT, RESPONSES} else ""),
            "api_key": f"sk-upstream-{name}-{suffix or 'only'}",
            "retry": {"attempts": 1},
            **provider,
        }
        for protocol, name in PROVIDERS.items()
        for suffix in ["", *map(str, range(spares))]
    }
    return {"providers": blocks, "access": {"mode": "keys", "keys": [{"name": "pairs", "key": KEY}]}}


class PairHarness:
    """Everything between the official SDKs and what the upstream will say."""

    def __init__(
        self,
        base: str,
        upstream: ThreadedUpstream,
        callers: dict[str, Caller],
        *,
        spares: int,
    ) -> None:
        self.base = base
        self.upstream = upstream
        self.callers = callers
        self._http = httpx2.Client(timeout=30, trust_env=False)
        self._spares = {protocol: iter(range(spares)) for protocol in PROVIDERS}

    def close(self) -> None:
        """Close all clients."""
        self._http.close()
        for caller in self.callers.values():
            caller.close()

    def reset(self) -> None:
        """Forget what earlier tests did."""
        self.upstream.requests.clear()
        self.upstream.errors.clear()
        self.upstream.default = None

    def play(self, *answers: Play, allow: Collection[str] = ()) -> None:
        """Answer the next requests with these, the last one for ever; each request must be one the vendor takes.

        Args:
            answers: In order.
            allow: Names of the strict rules that shall not count.
        """
        left = list(answers)

        def answer(received: Received) -> Scenario:
            STRICT.get(received.path, check_gemini)(received, allow=allow)
            following = left.pop(0) if len(left) > 1 else left[0]
            return following if isinstance(following, Scenario) else following(received)

        self.upstream.default = answer

    def model(self, pair: ProtocolPair, model: str | None = None, *, spare: bool = False) -> str:
        """A model's name at the gateway; `spare`: of a provider that no other test uses."""
        suffix = str(next(self._spares[pair.upstream])) if spare else ""
        return f"{PROVIDERS[pair.upstream]}{suffix}/{model or MODELS[pair.upstream]}"

    def ask(self, pair: ProtocolPair, *, model: str | None = None, on_event: Any = None, **request: Any) -> Answer:
        """One call by the pair's SDK. A refusal by a strict rule is raised as such, whatever the SDK made of it."""
        name = model if model and "/" in model else self.model(pair, model)
        try:
            return self.callers[pair.client].ask(pair, on_event=on_event, model=name, **request)
        finally:
            if self.upstream.errors:
                raise self.upstream.errors.pop()

    @property
    def received(self) -> Received:
        """The last request that the upstream got."""
        return self.upstream.requests[-1]

    @property
    def asked(self) -> Any:
        """Its body."""
        return self.received.json()

    def post(self, pair: ProtocolPair, body: dict[str, Any] | bytes, **headers: str) -> httpx2.Response:
        """A call by hand, where what matters are bytes."""
        content: Any = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self._http.post(self._url(pair), headers={**_HEADERS, **headers}, **content)

    def read(self, pair: ProtocolPair, body: dict[str, Any], *, on_first: Callable[[], object]) -> str:
        """A stream by hand; `on_first` is called when something of it has come."""
        with self._http.stream("POST", self._url(pair), headers=_HEADERS, json=body) as answer:
            assert answer.status_code == 200
            pieces = answer.iter_raw()
            first = next(pieces)
            on_first()
            return b"".join([first, *pieces]).decode()

    def _url(self, pair: ProtocolPair) -> str:
        if pair.client == GEMINI:  # its path names the model
            method = "streamGenerateContent?alt=sse" if pair.stream else "generateContent"
            return f"{self.base}/v1beta/models/{self.model(pair)}:{method}"
        return self.base + PATHS[pair.client]


@contextmanager
def pair_harness(*, spares: int = 0, keepalive: str = "15s", **options: Any) -> Iterator[PairHarness]:
    """Serve a gateway for pairs of protocols, with scripted upstreams.

    Args:
        spares: How many further providers of each type it has.
        keepalive: The gateway's setting.
        options: More for `gateway_config`.
    """
    with Upstream.in_thread() as upstream, start_blocking_portal() as portal:
        config = gateway_config(upstream, spares=spares, **options)
        with served(LLMProxy({**config, "keepalive": keepalive})) as base:
            callers: dict[str, Caller] = {
                CHAT: ChatCaller(base, KEY, portal),
                RESPONSES: ResponsesCaller(base, KEY, portal),
                MESSAGES: MessagesCaller(base, KEY, portal),
                GEMINI: GeminiCaller(base, KEY, portal),
            }
            harness = PairHarness(base, upstream, callers, spares=spares)
            try:
                yield harness
            finally:
                harness.close()
