"""`GET /metrics`: metrics for Prometheus. Off by default, and for administrators only."""

from llmproxy_asgi.engine import Engine
from llmproxy_asgi.http_connection import HTTPConnection

PATH = "/metrics"


async def serve_metrics(engine: Engine, connection: HTTPConnection) -> None:
    """Respond with the metrics page.

    Raises:
        Unauthenticated: The request has no valid credential.
        Forbidden: The principal is no administrator.
    """
    runtime = engine.runtime
    assert runtime.metrics is not None, "the path does not exist if metrics are off"
    grant = await runtime.authenticator.authenticate(connection.scope)
    runtime.admins.check(grant)
    media_type, text = runtime.metrics.page()
    await connection.answer(200, [(b"content-type", media_type)], text)
