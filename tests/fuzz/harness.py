"""The application under test, in this process: its endpoints called as ASGI, its upstreams scripted at the transport.

For requests this is honest: nothing of what is claimed of them depends on when bytes come or who leaves, which is what
in-process calls cannot show. One case in a hundred goes over sockets all the same (`sockets`). What upstreams say goes
through the translators alone for the mass, and through a real transport for a share (`stream_cases`).
"""

import asyncio
import gc
import json
import logging
import random
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx2
from starlette.types import Message, Scope
from typing_extensions import override

from fuzz import seeds
from fuzz.legal import Illegal, read
from fuzz.seeds import CHAT, COMPLETIONS, EMBEDDINGS, GEMINI, MESSAGES, RESPONSES
from llmproxy_asgi import Gateway
from llmproxy_asgi.facts import AnyFact, CallFinished, CallStarted

KEY = "llmp_fuzzing-0123456789-0123456789"
MOST_SECONDS = 1.0
"""Of processor time, for one call."""
_HANG = 120.0
"""Seconds after which a call counts as hanging; far above what a busy machine needs."""

PATHS = {
    CHAT: "/v1/chat/completions",
    RESPONSES: "/v1/responses",
    MESSAGES: "/v1/messages",
    COMPLETIONS: "/v1/completions",
    EMBEDDINGS: "/v1/embeddings",
}
MODELS = ("harness-1", "gpt-5.9", "o3", "gpt-4o", "claude-sonnet-5", "claude-3-5-haiku-20241022", "gemini-3.5-flash",
          "gemini-2.5-pro", "a/b c?d#e%2f")  # fmt: skip
"""Of several families, whose abilities differ; the last one needs care on its way into an address."""


def configuration(base_url: str = "http://127.0.0.1:9") -> dict[str, Any]:
    """One provider for each protocol, one for the old ones, and a name for several of them; all with limits."""
    common: dict[str, Any] = {
        "api_key": "sk-upstream-0123456789",
        "retry": {"attempts": 1},
        "cooldown": 0,
        "max_concurrency": 100,
        "rate_limit": {"tokens_per_minute": 10**12, "queue_timeout": 0},
    }
    openai = {**common, "type": "openai", "base_url": f"{base_url}/v1"}
    names = {"chat": "harness-1", "responses": "gpt-5.9", "anthropic": "claude-sonnet-5", "gemini": "gemini-3.5-flash"}
    return {
        "providers": {
            "chat": {**openai, "protocol": "openai-chat"},
            "responses": {**openai, "protocol": "openai-responses"},
            "old": {**openai, "protocol": ["openai-completions", "openai-embeddings"]},
            "anthropic": {**common, "base_url": base_url},
            "gemini": {**common, "base_url": base_url},
        },
        "models": {"smart": {"targets": [f"{provider}/{model}" for provider, model in names.items()]}},
        "access": {"mode": "keys", "keys": [{"name": "fuzz", "key": KEY, "tokens_per_minute": 10**12}]},
        "endpoints": {"explain": True},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, whole."""

    method: str = "POST"
    path: str
    query: bytes = b""
    headers: Sequence[tuple[bytes, bytes]] = ()
    pieces: Sequence[bytes] = ()
    leaves: bool = False
    """Whether the caller is gone before the body's end."""

    def show(self) -> str:
        """All of it, for debugging."""
        target = urllib.parse.quote(self.path, safe="/:?&=%") + (
            "?" + self.query.decode("latin-1") if self.query else ""
        )
        head = "\n".join(f"{name.decode('latin-1')}: {value.decode('latin-1')!r}" for name, value in self.headers)
        body = b"".join(self.pieces)
        cut = f"\n\n(in {len(self.pieces)} pieces{', then gone' if self.leaves else ''})"
        return f"{self.method} {target}\n{head}\n\n{body.decode('utf-8', 'backslashreplace')}{cut}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came back."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes
    spoke: tuple[str, ...]
    """The protocols in which upstreams were asked."""


def protocol_of(path: str) -> str:
    """The protocol that an upstream is asked in, by the path."""
    ends = {"/chat/completions": CHAT, "/completions": COMPLETIONS, "/embeddings": EMBEDDINGS, "/messages": MESSAGES}
    if path.endswith("/count_tokens"):
        return MESSAGES
    if "/responses" in path:
        return RESPONSES
    return next((protocol for end, protocol in ends.items() if path.endswith(end)), GEMINI)


Reply = tuple[int, Sequence[tuple[str, str]], Sequence[bytes]]


class _Body(httpx2.AsyncByteStream):
    """A scripted body, that knows whether it was closed."""

    def __init__(self, upstream: "ScriptedUpstream", pieces: Sequence[bytes]) -> None:
        self._upstream = upstream
        self._pieces = pieces
        self._open = True
        upstream.open += 1

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    @override
    async def aclose(self) -> None:
        if self._open:
            self._open = False
            self._upstream.open -= 1


class ScriptedUpstream(httpx2.AsyncBaseTransport):
    """Answers every request in the protocol that it came in, as the case says or with a recorded wire.

    Attributes:
        reply: What to answer, if not a wire.
        rng: Chooses the wire.
        open: How many answers have not been closed.
        spoke: The protocols of the requests since it was last cleared.
    """

    def __init__(self) -> None:
        self.rng = random.Random(0)
        self.reply: Callable[[str, bool], Reply] | None = None
        self.open = 0
        self.spoke: list[str] = []
        self.wrong: list[str] = []

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        if request.method == "GET":
            return httpx2.Response(404)  # it lists no models
        status, headers, pieces = self.answer(urllib.parse.unquote(request.url.path), body)
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return httpx2.Response(status, headers=encoded, stream=_Body(self, pieces))

    def answer(self, path: str, body: bytes) -> Reply:
        """What is answered to a request."""
        protocol = protocol_of(path)
        self.spoke.append(protocol)
        tree: Any = {}
        try:
            tree = read(body)
        except Illegal as error:
            self.wrong.append(f"what went to the upstream: {error}")
        streamed = ":streamGenerateContent" in path or (isinstance(tree, dict) and tree.get("stream") is True)
        return (self.reply or self._recorded(path, tree))(protocol, streamed)

    def _recorded(self, path: str, tree: Any) -> Callable[[str, bool], Reply]:
        def reply(protocol: str, streamed: bool) -> Reply:
            if streamed and protocol in seeds.UPSTREAMS:
                wire = self.rng.choice([each for each in seeds.streams(protocol) if each.name != "array.json"])
                return 200, [("content-type", "text/event-stream")], [wire.data]
            made = _made(protocol, path, tree)
            kind = "text/event-stream" if streamed else "application/json"
            data = self.rng.choice(seeds.answers(protocol)).data if made is None else made
            return 200, [("content-type", kind)], [data]

        return reply


def _made(protocol: str, path: str, tree: Any) -> bytes | None:
    """An answer that must fit its question; None: a recorded one will do."""
    asked = tree if isinstance(tree, dict) else {}
    made: Any = None
    if path.endswith(("/count_tokens", "/input_tokens")):
        made = {"object": "response.input_tokens", "input_tokens": 7}
    elif path.endswith(":countTokens"):
        made = {"totalTokens": 7}
    elif path.endswith("mbedContents"):
        many = asked.get("requests")
        made = {"embeddings": [{"values": [0.5, -0.25]} for _ in (many if isinstance(many, list) else [0])]}
    elif protocol == EMBEDDINGS:
        given = asked.get("input")
        many = len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1
        data = [{"object": "embedding", "index": index, "embedding": [0.5, -0.25]} for index in range(many)]
        made = {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    elif protocol == COMPLETIONS:
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1795000000, "model": "old-1"}
        choice = {"index": 0, "text": " time", "logprobs": None, "finish_reason": "stop"}
        made = {**head, "choices": [choice]}
        if asked.get("stream") is True:
            return b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(made).encode()
    return None if made is None else json.dumps(made).encode()


class _Books:
    """An observer: what began must end, once."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.wrong: list[str] = []

    def notice(self, fact: AnyFact) -> None:
        """Keep books."""
        if isinstance(fact, CallStarted):
            self.open.add(fact.call)
        elif isinstance(fact, CallFinished):
            if fact.call not in self.open:
                self.wrong.append("a call was told to have ended twice, or without a beginning")
            self.open.discard(fact.call)


class _Complaints(logging.Handler):
    """The log records that mean a bug of the gateway."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@dataclass(slots=True)
class FuzzHarness:
    """A gateway and its scripted upstream; enter it, call it, leave it: leaving checks that nothing is left over."""

    upstream: ScriptedUpstream = field(default_factory=ScriptedUpstream)
    _books: _Books = field(default_factory=_Books)
    _complaints: _Complaints = field(default_factory=_Complaints)
    _gateway: Gateway = field(init=False)
    _tasks: set[asyncio.Task[Any]] = field(init=False)

    async def __aenter__(self) -> Self:
        self._tasks = set(asyncio.all_tasks())
        # The transport's errors are its own to tell; the books are open on both sides.
        self._gateway = Gateway(configuration(), transport=self.upstream, observers=[self._books])
        log = logging.getLogger("llmproxy_asgi")
        log.addHandler(self._complaints)
        log.propagate = False  # other handlers would keep a line for each of many thousand calls
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._gateway.aclose()
        log = logging.getLogger("llmproxy_asgi")
        log.removeHandler(self._complaints)
        log.propagate = True
        if error is None:
            gc.collect()
            await asyncio.sleep(0)
            self.check_nothing_left()
        asyncio.get_running_loop().set_exception_handler(None)

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._complaints.texts.append(f"the event loop: {context.get('exception') or context['message']!r}")

    def check_nothing_left(self) -> None:
        """Raise what is left over: tasks, open answers, calls, places in limits.

        Raises:
            Illegal: Something is.
        """
        shared = self._gateway._shared
        left = {
            "tasks": [task for task in asyncio.all_tasks() if task not in self._tasks],
            "open answers": self.upstream.open,
            "open calls": len(shared.open_calls),
            "calls without a reported end": len(self._books.open),
            "places": sum(slots.used for slots in shared.admission_queues._slots.values()),
            "in line": sum(queue.waiting for queue in shared.admission_queues._targets.values()),
            "logged": self._complaints.texts,
            "books": self._books.wrong,
        }
        found = {name: value for name, value in left.items() if value}
        if found:
            raise Illegal(f"left over: {found}")

    async def call(self, asked: Asked) -> Answered | None:
        """One call; None: its caller had left.

        Raises:
            Illegal: It took too long, something was logged, or what went upstream was no JSON.
        """
        self.upstream.spoke.clear()
        self._gateway._shared.cooldowns.clear()  # no case depends on the one before
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        began = time.thread_time()
        try:
            async with asyncio.timeout(_HANG):
                await self._gateway.endpoints(scope_of(asked), _receiver(asked), send)
        except TimeoutError:
            raise Illegal("it hangs") from None
        seconds = time.thread_time() - began
        while self._gateway.endpoints.stored._background._runs:  # noqa: ASYNC110  it continues without its caller for a few loop iterations
            await asyncio.sleep(0)
        self._check(seconds)
        return _answered(sent, tuple(self.upstream.spoke))

    def _check(self, seconds: float) -> None:
        wrong = [*self._complaints.texts, *self.upstream.wrong, *self._books.wrong]
        if self.upstream.open:
            wrong.append(f"{self.upstream.open} answers of upstreams are left open")
            self.upstream.open = 0
        for told in (self._complaints.texts, self.upstream.wrong, self._books.wrong):
            told.clear()
        if wrong:
            raise Illegal("; ".join(wrong))
        if seconds > MOST_SECONDS:
            raise Illegal(f"it took {seconds:.1f} s")


def scope_of(asked: Asked) -> Scope:
    """What a server would make of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode("utf-8", "replace"),
        "root_path": "",
        "query_string": asked.query,
        "headers": [(name.lower(), value) for name, value in asked.headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }


def _receiver(asked: Asked) -> Callable[[], Any]:
    pieces = list(asked.pieces) or [b""]
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": asked.leaves or number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]
    if asked.leaves:
        messages.append({"type": "http.disconnect"})
    messages.reverse()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.get_running_loop().create_future()  # the caller waits for its answer
        raise AssertionError

    return receive


def _answered(sent: Sequence[Message], spoke: tuple[str, ...]) -> Answered | None:
    if not sent:
        return None
    first, *rest = sent
    if first["type"] != "http.response.start" or any(each["type"] != "http.response.body" for each in rest):
        raise Illegal(f"messages out of order: {[each['type'] for each in sent]}")
    if not rest or rest[-1].get("more_body") or not all(each.get("more_body") for each in rest[:-1]):
        raise Illegal("the answer does not end, or ends twice")
    headers = {bytes(name): bytes(value) for name, value in first["headers"]}
    body = b"".join(each.get("body", b"") for each in rest)
    return Answered(status=first["status"], headers=headers, body=body, spoke=spoke)
