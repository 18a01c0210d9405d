"""`GET /metrics`: what happens, in numbers, for Prometheus. Off unless switched on, and for administrators."""

from llmproxy_asgi.endpoints.exchange import Exchange
from llmproxy_asgi.engine import Engine

PATH = "/metrics"


async def serve_metrics(engine: Engine, exchange: Exchange) -> None:
    """The page.

    Raises:
        Unauthenticated: Nobody is known to be asking.
        Forbidden: Whoever asks is no administrator.
    """
    runtime = engine.runtime
    assert runtime.metrics is not None, "nothing leads here where it is off"
    grant = await runtime.authenticator.authenticate(exchange.scope)
    runtime.admins.check(grant)
    media_type, text = runtime.metrics.page()
    await exchange.answer(200, [(b"content-type", media_type)], text)
