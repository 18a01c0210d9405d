"""The stored responses of the current runtime, and the turns that use them."""

from llmproxy_asgi.engine import Engine
from llmproxy_asgi.principal import Owner
from llmproxy_asgi.responses_api.requests import without_storage
from llmproxy_asgi.responses_api.store import ResponseStore
from llmproxy_asgi.responses_api.turn import ConversationTurn
from llmproxy_asgi.runtime import Runtime
from llmproxy_asgi.translators.base import InboundRequest


class StatefulResponses:
    """Creates turns on the stored responses of an engine's runtime.

    Args:
        engine: Its runtime may be replaced at any time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runtime: Runtime | None = None
        self._responses: ResponseStore

    @property
    def responses(self) -> ResponseStore:
        """The stored responses of the current runtime."""
        runtime = self._engine.runtime
        if runtime is not self._runtime:
            self._runtime, self._responses = runtime, response_store(runtime)
        return self._responses

    def turn(self, inbound_request: InboundRequest, owner: Owner, *, strict: bool) -> ConversationTurn:
        """Create the turn of a request that has a `state`.

        Args:
            inbound_request: The request.
            owner: The owner of its response.
            strict: Whether to refuse an explicit `store: true` if nothing may be stored.

        Raises:
            BadRequest: The request needs storage, and nothing may be stored.
        """
        if self._engine.runtime.config.store == "never":
            inbound_request = without_storage(inbound_request, strict=strict)
        return ConversationTurn(self.responses, owner, inbound_request)


def response_store(runtime: Runtime) -> ResponseStore:
    """Return the stored responses of a runtime, with its bounds."""
    limits = runtime.config.limits
    return ResponseStore(
        runtime.response_records,
        clock=runtime.clock,
        largest=limits.body,
        bounds=runtime.bounds,
        worker=runtime.worker,
    )
