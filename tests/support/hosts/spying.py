"""Gateways without an upstream, for tests of adapters: one that notes what it is handed, and one that only streams."""

from typing import Any

from starlette.types import Receive, Scope, Send
from typing_extensions import override

from llmproxy_asgi import LLMProxy, Principal
from llmproxy_asgi.principal import SCOPE_KEY

NOWHERE: dict[str, Any] = {
    "providers": {"nowhere": {"type": "openai-compatible", "base_url": "http://127.0.0.1:9/v1", "models": ["m"]}}
}
"""A configuration whose provider is never called."""
KEY = "llmp_5b1e0f7a9c3d2e46"
WITH_KEY = {**NOWHERE, "access": {"keys": [{"name": "ci", "key": KEY}]}}

CHAT = "/v1/chat/completions"


class Spy(LLMProxy):
    """A real gateway; the scopes it was called with are kept, and how often it was closed."""

    def __init__(self, config: Any = NOWHERE, **options: Any) -> None:
        super().__init__(config, **options)
        self.scopes: list[Scope] = []
        self.closed = 0
        close = self.gateway.aclose

        async def aclose() -> None:
            self.closed += 1
            await close()

        self.gateway.aclose = aclose  # type: ignore[method-assign]

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await super().__call__(scope, receive, send)

    @property
    def caller(self) -> Principal | None:
        """Whom the last call was vouched for."""
        found: Principal | None = self.scopes[-1].get(SCOPE_KEY)
        return found


class Script(LLMProxy):
    """Answers with its own ASGI application instead of a gateway's."""

    def __init__(self, app: Any) -> None:
        super().__init__(NOWHERE)
        self._app = app

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def echo(_: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's body, to its last piece."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})
