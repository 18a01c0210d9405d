"""Is the process alive, and can it serve. The two paths that anybody may ask; they tell nothing else."""

import msgspec

from llmproxy_asgi.endpoints.exchange import Exchange
from llmproxy_asgi.engine import Engine

_JSON = (b"content-type", b"application/json")


async def health(_engine: Engine, exchange: Exchange) -> None:
    """The process answers."""
    await exchange.answer(200, [_JSON], b'{"status":"ok"}')


async def ready(engine: Engine, exchange: Exchange) -> None:
    """Calls are taken, and for every name there is somebody to ask."""
    problem = engine.not_ready()
    if problem is None:
        await exchange.answer(200, [_JSON], b'{"status":"ready"}')
    else:
        await exchange.answer(503, [_JSON], msgspec.json.encode({"status": problem}))
