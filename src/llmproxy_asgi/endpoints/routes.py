"""Which path is answered by what. Decided on the routed path alone: never on a host name, a rebuilt URL or a header."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from llmproxy_asgi.endpoints.calls import fail, serve_call
from llmproxy_asgi.endpoints.exchange import Exchange
from llmproxy_asgi.endpoints.metrics import PATH as METRICS
from llmproxy_asgi.endpoints.metrics import serve_metrics
from llmproxy_asgi.endpoints.models import list_models, show_model
from llmproxy_asgi.endpoints.paths import base_url_hint, canonical_path, routed_path
from llmproxy_asgi.endpoints.status import health, ready
from llmproxy_asgi.endpoints.ui import serve_page
from llmproxy_asgi.engine import Engine
from llmproxy_asgi.errors import MethodNotAllowed, NotFound
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.translators.base import AnyInbound
from llmproxy_asgi.translators.registry import translator

if TYPE_CHECKING:
    from llmproxy_asgi.endpoints.stored import Stored

CHAT = "openai-chat"
COMPLETIONS = "openai-completions"
EMBEDDINGS = "openai-embeddings"
MESSAGES = "anthropic-messages"
RESPONSES = "openai-responses"
GEMINI = "gemini"

CALLS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
}
"""Paths that reach a model, and the protocol they speak."""

COUNTS = {
    "/v1/messages/count_tokens": (MESSAGES, {"operation": "count_tokens"}),
    "/v1/responses/input_tokens": (RESPONSES, {"operation": "input_tokens"}),
}
"""Paths that tell how many tokens a request is: the protocol they speak, and what they say to whoever reads it."""
STORED = "/v1/responses/"
"""What the paths of kept answers begin with."""
COUNT = "countTokens"
"""Likewise, behind the colon of Gemini's paths."""

GEMINI_METHODS = {
    "generateContent": GEMINI,
    "streamGenerateContent": GEMINI,
    "embedContent": "gemini-embeddings",
    "batchEmbedContents": "gemini-embeddings",
    COUNT: GEMINI,
}
"""What may stand behind the colon of `/v1beta/models/{model}:{method}`, and the protocol it speaks."""

Handler: TypeAlias = Callable[[Engine, Exchange], Awaitable[None]]

_GOOGLE = ("x-goog-api-key", "x-goog-api-client")

STATUS: dict[str, Handler] = {"/health": health, "/ready": ready}
_MODELS = ("/v1/models", "/v1beta/models")
_GEMINI_ONLY = _MODELS[1:]


class Endpoints:
    """Every path of one gateway, as one ASGI `http` application.

    Args:
        engine: What serves the calls.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._stored: Stored | None = None

    @property
    def stored(self) -> "Stored":
        """What serves kept answers, and those that are made in the background; made for the first call of Responses."""
        if self._stored is None:
            from llmproxy_asgi.endpoints.stored import Stored

            self._stored = Stored(self.engine)
        return self._stored

    async def forget(self, owner: Owner) -> int:
        """End what goes on for an owner without its caller; how many responses were at work."""
        return 0 if self._stored is None else await self._stored.forget(owner)

    async def aclose(self) -> None:
        """End what goes on without its caller."""
        if self._stored is not None:
            await self._stored.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        runtime = self.engine.runtime
        exchange = Exchange(
            scope, receive, send, observers=runtime.observers, write_timeout=runtime.config.limits.write_timeout
        )
        path = routed_path(scope)
        if path not in CALLS:
            path = canonical_path(path)
        protocol = CALLS.get(path)
        if protocol is not None and scope["method"] == "POST":
            background = self.stored.begin if protocol == RESPONSES else None
            await serve_call(self.engine, exchange, translator(protocol).inbound, background=background)
        elif scope["method"] == "POST" and path in COUNTS:
            protocol, said = COUNTS[path]
            await serve_call(self.engine, exchange, translator(protocol).inbound, said=said, counts=True)
        elif scope["method"] == "POST" and (named := model_in(path)) is not None:
            method = named["method"]
            inbound = translator(GEMINI_METHODS[method]).inbound
            said = {**named, "alt": _asked_for(scope, "alt") or "json"}
            await serve_call(self.engine, exchange, inbound, said=said, key_in_query=True, counts=method == COUNT)
        else:
            await self._other(exchange, path, protocol)
        if exchange.gone:
            await exchange.finish_disconnected()

    async def _other(self, exchange: Exchange, path: str, protocol: str | None) -> None:
        inbound = translator(protocol or _shape(exchange, path)).inbound
        try:
            await self._route(exchange, path, inbound)
        except Exception as error:  # noqa: BLE001  the last stop
            await fail(exchange, inbound, error)

    async def _route(self, exchange: Exchange, path: str, inbound: AnyInbound) -> None:
        if path in CALLS or path in COUNTS or model_in(path) is not None:
            raise MethodNotAllowed("This path takes POST.", allow="POST")
        if path.startswith(STORED):
            await self.stored.serve(exchange, path.removeprefix(STORED))
            return
        models = next((root for root in _MODELS if path == root or path.startswith(root + "/")), None)
        if path not in STATUS and models is None and not self._is_page(path) and not self._is_metrics(path):
            raise NotFound(f"The path does not exist: {base_url_hint(inbound.protocol, exchange.scope)}.")
        if exchange.scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed("This path takes GET.", allow="GET, HEAD")
        if path in STATUS:
            await STATUS[path](self.engine, exchange)
        elif self._is_metrics(path):
            await serve_metrics(self.engine, exchange)
        elif models is None:
            await serve_page(self.engine, exchange, path)
        elif path == models:
            await list_models(self.engine, exchange, inbound, key_in_query=models in _GEMINI_ONLY)
        else:
            name = path.removeprefix(models + "/")
            await show_model(self.engine, exchange, inbound, name, key_in_query=models in _GEMINI_ONLY)

    def _is_metrics(self, path: str) -> bool:
        return path == METRICS and self.engine.runtime.metrics is not None

    def _is_page(self, path: str) -> bool:
        return self.engine.runtime.config.endpoints.ui and (path == "/ui" or path.startswith("/ui/"))


def model_in(path: str) -> dict[str, str] | None:
    """The model and the method that one of Gemini's paths names; None: it is none of them."""
    for root in _MODELS:
        if path.startswith(root + "/"):
            model, _, method = path.removeprefix(root + "/").rpartition(":")
            if model and method in GEMINI_METHODS:
                return {"model": model, "method": method}
    return None


def _asked_for(scope: Scope, name: str) -> str | None:
    query: bytes = scope.get("query_string", b"")
    if name.encode() not in query:
        return None
    try:
        return parse_qs(query.decode("latin-1"), max_num_fields=64).get(name, [None])[0]
    except ValueError:  # so many fields are no question
        return None


def _shape(exchange: Exchange, path: str) -> str:
    """Whose words an answer that belongs to no protocol is written in."""
    if path.startswith("/v1beta/") or model_in(path) is not None:
        return GEMINI
    if path.startswith(STORED):
        return RESPONSES
    if path.startswith("/v1/messages") or exchange.header("anthropic-version") is not None:
        return MESSAGES
    if path.startswith(_MODELS[0]) and any(exchange.header(name) for name in _GOOGLE):
        return GEMINI
    return CHAT
