"""Is the process alive, and can it serve. The two paths that anybody may ask; they tell nothing else."""

from llmproxy_asgi.endpoints.exchange import Exchange
from llmproxy_asgi.engine import Engine

_JSON = (b"content-type", b"application/json")


async def health(_engine: Engine, exchange: Exchange) -> None:
    """The process answers."""
    await exchange.answer(200, [_JSON], b'{"status":"ok"}')


async def ready(engine: Engine, exchange: Exchange) -> None:
    """There is somebody to ask."""
    if engine.runtime.providers:
        await exchange.answer(200, [_JSON], b'{"status":"ready"}')
    else:
        await exchange.answer(503, [_JSON], b'{"status":"no provider is enabled"}')
