"""A gateway behind a real server in this process, and recorded-looking Chat and Messages answers for its upstream."""

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

CHUNK_HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1795000000, "model": "gpt-x"}


@contextmanager
def served(app: ASGIApp, *, loop: str = "asyncio") -> Iterator[str]:
    """Serve an application on a free loopback port, in a thread of its own; yields `http://127.0.0.1:PORT`."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", loop=loop, lifespan="on")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # not the main thread
    started = threading.Event()
    startup = server.startup
    signal = _StopSignal(server)

    async def announce(sockets: Any = None) -> None:
        await startup(sockets=sockets)
        started.set()

    server.startup = announce  # type: ignore[method-assign]
    server.main_loop = signal.wait  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(20), "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        signal.to_stop()
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


class _StopSignal:
    """Wakes a server that shall stop, which would look only ten times a second."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self._wake: asyncio.Event
        self._loop: asyncio.AbstractEventLoop

    async def wait(self) -> None:
        """What the server does instead of its main loop."""
        self._wake, self._loop = asyncio.Event(), asyncio.get_running_loop()
        ticks = itertools.count()
        while not await self._server.on_tick(next(ticks)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), 0.1)

    def to_stop(self) -> None:
        """Stop now."""
        self._server.should_exit = True
        if hasattr(self, "_loop"):
            self._loop.call_soon_threadsafe(self._wake.set)


def chat_chunk(**fields: Any) -> bytes:
    """One frame of a Chat stream."""
    return b"data: " + json.dumps({**CHUNK_HEAD, **fields}).encode() + b"\n\n"


def chat_delta(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """One frame with one choice."""
    return chat_chunk(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def chat_frames(*texts: str) -> list[bytes]:
    """A whole Chat stream: role, texts, finish, usage, end sign."""
    return [
        chat_delta({"role": "assistant", "content": ""}),
        *(chat_delta({"content": text}) for text in texts),
        chat_delta({}, "stop"),
        chat_chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}),
        b"data: [DONE]\n\n",
    ]


def chat_answer(text: str) -> dict[str, Any]:
    """A whole Chat answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795000000,
        "model": "gpt-x",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, "refusal": None}}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }


def chat_body(*, stream: bool = False, model: str = "m", **fields: Any) -> dict[str, Any]:
    """A small Chat request."""
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}], **fields}


def messages_body(*, stream: bool = False, model: str = "m", **fields: Any) -> dict[str, Any]:
    """A small Messages request."""
    return {
        "model": model,
        "stream": stream,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
    }
