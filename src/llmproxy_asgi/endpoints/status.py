"""Is the process alive, and does it take calls. The two paths that anybody may ask.

Neither fails because of an upstream: that would take every replica out of its balancer at once. Which models no
upstream can serve is told to administrators only.
"""

import msgspec

from llmproxy_asgi.endpoints.exchange import Exchange
from llmproxy_asgi.engine import Engine

_JSON = (b"content-type", b"application/json")
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"x-goog-api-key", b"cookie"})


async def health(_engine: Engine, exchange: Exchange) -> None:
    """The process answers."""
    await exchange.answer(200, [_JSON], b'{"status":"ok"}')


async def ready(engine: Engine, exchange: Exchange) -> None:
    """Tell whether the process takes calls, and whether some models can't be served now."""
    problem = engine.not_ready()
    if problem is not None:
        await exchange.answer(503, [_JSON], msgspec.json.encode({"status": problem}))
        return
    degraded = engine.degraded()
    told: dict[str, object] = {"status": "degraded" if degraded else "ready"}
    if degraded and await _is_admin(engine, exchange):
        told["degraded"] = degraded
    await exchange.answer(200, [_JSON], msgspec.json.encode(told))


async def _is_admin(engine: Engine, exchange: Exchange) -> bool:
    """Whether an administrator asks. A probe, which shows no credential, never reaches the host's hook."""
    if _CREDENTIALS.isdisjoint(name for name, _ in exchange.scope["headers"]):
        return False
    try:
        grant = await engine.runtime.authenticator.authenticate(exchange.scope)
        engine.runtime.admins.check(grant)
    except Exception:  # noqa: BLE001  readiness does not depend on the host's hook
        return False
    return True
