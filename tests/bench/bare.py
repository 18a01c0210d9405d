"""The yardstick: what a person writes in an afternoon to relay one upstream, with aiohttp and Starlette.

It sends the body on and the answer back. No keys, models, retries, limits, usage or errors of its own.
"""

import contextlib
import os
from collections.abc import AsyncIterator

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_HEADERS = {"authorization": "Bearer sk-bench", "content-type": "application/json"}


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(os.environ["BENCH_UPSTREAM"], connector=connector, timeout=timeout) as session:
        app.state.session = session
        yield


async def _relay(request: Request) -> Response:
    session: aiohttp.ClientSession = request.app.state.session
    upstream = await session.post(request.url.path, data=await request.body(), headers=_HEADERS)
    if upstream.content_type == "text/event-stream":
        return StreamingResponse(_chunks(upstream), upstream.status, media_type="text/event-stream")
    async with upstream:
        return Response(await upstream.read(), upstream.status, media_type=upstream.content_type)


async def _chunks(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with upstream:
        async for chunk in upstream.content.iter_any():
            yield chunk


app = Starlette(routes=[Route("/v1/chat/completions", _relay, methods=["POST"])], lifespan=_lifespan)
