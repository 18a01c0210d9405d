"""Liveness and readiness: `GET /health` and `GET /ready`, which need no credential.

Neither fails because of an upstream: that would remove all replicas from their load balancer at once. Models without a
usable upstream are listed for administrators only.
"""

import msgspec

from llmproxy_asgi.engine import Engine
from llmproxy_asgi.http_connection import HTTPConnection

_JSON = (b"content-type", b"application/json")
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key", b"cookie"})


async def health(_engine: Engine, connection: HTTPConnection) -> None:
    """Respond that the process runs."""
    await connection.answer(200, [_JSON], b'{"status":"ok"}')


async def ready(engine: Engine, connection: HTTPConnection) -> None:
    """Respond whether the process accepts calls, and whether some models cannot be served now."""
    problem = engine.unready_reason()
    if problem is not None:
        await connection.answer(503, [_JSON], msgspec.json.encode({"status": problem}))
        return
    degraded = engine.degraded()
    body: dict[str, object] = {"status": "degraded" if degraded else "ready"}
    if degraded and await _is_admin(engine, connection):
        body["degraded"] = degraded
    await connection.answer(200, [_JSON], msgspec.json.encode(body))


async def _is_admin(engine: Engine, connection: HTTPConnection) -> bool:
    """Whether an administrator asks. A probe has no credential and never reaches the host's hook."""
    if _CREDENTIALS.isdisjoint(name for name, _ in connection.scope["headers"]):
        return False
    try:
        grant = await engine.runtime.authenticator.authenticate(connection.scope)
        engine.runtime.admins.check(grant)
    except Exception:  # noqa: BLE001  readiness does not depend on the host's hook
        return False
    return True
