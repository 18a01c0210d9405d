"""Route paths to endpoints. Only the path below the mount decides: no host name, no rebuilt URL, no header."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from llmproxy_asgi.endpoints.calls import CallHandler
from llmproxy_asgi.endpoints.errors import handle_error
from llmproxy_asgi.endpoints.metrics import PATH as METRICS
from llmproxy_asgi.endpoints.metrics import serve_metrics
from llmproxy_asgi.endpoints.models import list_models, show_model
from llmproxy_asgi.endpoints.paths import base_url_hint, canonical_path, routed_path
from llmproxy_asgi.endpoints.status import health, ready
from llmproxy_asgi.endpoints.ui import serve_page
from llmproxy_asgi.engine import Engine
from llmproxy_asgi.errors import MethodNotAllowed, NotFound
from llmproxy_asgi.http_connection import HTTPConnection
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.stores.base import RecordStore
from llmproxy_asgi.translators.base import AnyInbound
from llmproxy_asgi.translators.registry import translator

if TYPE_CHECKING:
    from llmproxy_asgi.responses_api.endpoints import StoredResponses

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
"""Paths of model calls, and their protocols."""

COUNTS = {
    "/v1/messages/count_tokens": (MESSAGES, {"operation": "count_tokens"}),
    "/v1/responses/input_tokens": (RESPONSES, {"operation": "input_tokens"}),
}
"""Paths that count tokens: their protocols and path parameters."""
STORED = "/v1/responses/"
"""The prefix of the paths of stored responses."""
COUNT = "countTokens"
"""The method of Gemini's paths that counts tokens."""

GEMINI_METHODS = {
    "generateContent": GEMINI,
    "streamGenerateContent": GEMINI,
    "embedContent": "gemini-embeddings",
    "batchEmbedContents": "gemini-embeddings",
    COUNT: GEMINI,
}
"""The methods of `/v1beta/models/{model}:{method}`, and their protocols."""

Handler: TypeAlias = Callable[[Engine, HTTPConnection], Awaitable[None]]

_GOOGLE = ("x-goog-api-key", "x-goog-api-client")

STATUS: dict[str, Handler] = {"/health": health, "/ready": ready}
_MODELS = ("/v1/models", "/v1beta/models")
_GEMINI_ONLY = _MODELS[1:]


class Endpoints:
    """All paths of one gateway, as an ASGI `http` application.

    Args:
        engine: Creates calls.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._stored: StoredResponses | None = None

    @property
    def stored(self) -> "StoredResponses":
        """The endpoints of stored and background responses; created with the first call of the Responses API."""
        if self._stored is None:
            from llmproxy_asgi.responses_api.endpoints import StoredResponses

            self._stored = StoredResponses(self.engine)
        return self._stored

    async def forget(self, owner: Owner, records: Sequence[RecordStore]) -> tuple[int, int]:
        """Delete the responses of an owner; see `StoredResponses.forget`."""
        return await self.stored.forget(owner, records)

    async def aclose(self) -> None:
        """End all background responses."""
        if self._stored is not None:
            await self._stored.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        write_timeout = self.engine.runtime.config.limits.write_timeout
        connection = HTTPConnection(scope, receive, send, write_timeout=write_timeout)
        path = routed_path(scope)
        if path not in CALLS:
            path = canonical_path(path)
        protocol = CALLS.get(path)
        if protocol is not None and scope["method"] == "POST":
            inbound, stored = translator(protocol).inbound, self.stored if protocol == RESPONSES else None
            await CallHandler(self.engine, connection, inbound, stored=stored).serve()
        elif scope["method"] == "POST" and path in COUNTS:
            protocol, parameters = COUNTS[path]
            inbound, stored = translator(protocol).inbound, self.stored if protocol == RESPONSES else None
            handler = CallHandler(
                self.engine, connection, inbound, path_parameters=parameters, counts=True, stored=stored
            )
            await handler.serve()
        elif scope["method"] == "POST" and (operation := model_in(path)) is not None:
            method = operation["method"]
            inbound = translator(GEMINI_METHODS[method]).inbound
            parameters = {**operation, "alt": _query_value(scope, "alt") or "json"}
            handler = CallHandler(
                self.engine,
                connection,
                inbound,
                path_parameters=parameters,
                key_in_query=True,
                counts=method == COUNT,
            )
            await handler.serve()
        else:
            await self._other(connection, path, protocol)
        if connection.disconnected:
            await connection.finish_disconnected()

    async def _other(self, connection: HTTPConnection, path: str, protocol: str | None) -> None:
        inbound = translator(protocol or _shape(connection, path)).inbound
        try:
            await self._route(connection, path, inbound)
        except Exception as error:  # noqa: BLE001  every error becomes a response
            await handle_error(connection, inbound, error, self.engine.runtime.observers)

    async def _route(self, connection: HTTPConnection, path: str, inbound: AnyInbound) -> None:
        if path in CALLS or path in COUNTS or model_in(path) is not None:
            raise MethodNotAllowed("This path takes POST.", allow="POST")
        if path.startswith(STORED):
            await self.stored.serve(connection, path.removeprefix(STORED))
            return
        models = next((root for root in _MODELS if path == root or path.startswith(root + "/")), None)
        if path not in STATUS and models is None and not self._is_page(path) and not self._is_metrics(path):
            raise NotFound(f"The path does not exist: {base_url_hint(inbound.protocol, connection.scope)}.")
        if connection.scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed("This path takes GET.", allow="GET, HEAD")
        if path in STATUS:
            await STATUS[path](self.engine, connection)
        elif self._is_metrics(path):
            await serve_metrics(self.engine, connection)
        elif models is None:
            await serve_page(self.engine, connection, path)
        elif path == models:
            await list_models(self.engine, connection, inbound, key_in_query=models in _GEMINI_ONLY)
        else:
            name = path.removeprefix(models + "/")
            await show_model(self.engine, connection, inbound, name, key_in_query=models in _GEMINI_ONLY)

    def _is_metrics(self, path: str) -> bool:
        return path == METRICS and self.engine.runtime.metrics is not None

    def _is_page(self, path: str) -> bool:
        return self.engine.runtime.config.endpoints.ui and (path == "/ui" or path.startswith("/ui/"))


def model_in(path: str) -> dict[str, str] | None:
    """Return the model and method in a path of Gemini's; None for other paths."""
    for root in _MODELS:
        if path.startswith(root + "/"):
            model, _, method = path.removeprefix(root + "/").rpartition(":")
            if model and method in GEMINI_METHODS:
                return {"model": model, "method": method}
    return None


def _query_value(scope: Scope, name: str) -> str | None:
    query: bytes = scope.get("query_string", b"")
    if name.encode() not in query:
        return None
    try:
        return parse_qs(query.decode("latin-1"), max_num_fields=64).get(name, [None])[0]
    except ValueError:  # too many fields
        return None


def _shape(connection: HTTPConnection, path: str) -> str:
    """Return the protocol of an error response outside the paths of calls."""
    if path.startswith("/v1beta/") or model_in(path) is not None:
        return GEMINI
    if path.startswith(STORED):
        return RESPONSES
    if path.startswith("/v1/messages") or connection.header("anthropic-version") is not None:
        return MESSAGES
    if path.startswith(_MODELS[0]) and any(connection.header(name) for name in _GOOGLE):
        return GEMINI
    return CHAT
