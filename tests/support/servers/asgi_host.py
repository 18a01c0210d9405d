"""A Starlette application with the gateway at `/llm`, its lifespan handed over; what ASGI servers serve here."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from llmproxy_asgi import LLMProxy
from support.servers.host import CONFIG, NOTES, state

proxy = LLMProxy(CONFIG, observers=[NOTES])


async def show(_request: Request) -> Response:
    return JSONResponse(state(proxy, asyncio.get_running_loop()))


async def reload(request: Request) -> Response:
    await proxy.reload(await request.json())
    return JSONResponse({})


async def crash(_request: Request) -> Response:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


async def pass_on(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers["x-host"] = "was here"
    return response


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """The gateway's, and a drain that begins with the signal: as docs/operation.md shows it."""
    async with proxy.lifespan():
        if os.environ.get("SERVED_DRAINS"):
            loop = asyncio.get_running_loop()
            before = signal.getsignal(signal.SIGTERM)

            def ending(number: int, frame: Any) -> None:
                asyncio.run_coroutine_threadsafe(proxy.drain(), loop)
                if callable(before):
                    before(number, frame)

            signal.signal(signal.SIGTERM, ending)
        yield


WRAPPED = {"base": Middleware(BaseHTTPMiddleware, dispatch=pass_on), "gzip": Middleware(GZipMiddleware, minimum_size=1)}

app = Starlette(
    routes=[
        Route("/state", show),
        Route("/reload", reload, methods=["POST"]),
        Route("/crash", crash),
        Mount("/llm", proxy),
    ],
    middleware=[WRAPPED[name] for name in os.environ.get("SERVED_WRAPPED", "").split()],
    lifespan=lifespan,
)
