"""Bodies of every shape and size, and a gateway in a process of its own whose longest step of the loop is measured.

What is measured between two turns of the loop is the processor time of the whole process, in whichever thread: a thread
that holds the interpreter keeps the loop waiting all the same. Other programs do not count.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

MIB = 2**20
TICK = 0.001

_SERVE = """
import asyncio, json, resource, socket, sys, time
import uvicorn
from llmproxy_asgi import LLMProxy

app = LLMProxy(json.loads(sys.argv[1]))
longest = [0.0]

async def watch():
    since = time.process_time()
    while True:
        await asyncio.sleep(0.001)
        now = time.process_time()
        longest[0] = max(longest[0], now - since)
        since = now

async def measured(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/longest":
        said = json.dumps({"seconds": longest[0], "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
        await send({"type": "http.response.body", "body": said})
        longest[0] = 0.0
        return
    if scope["type"] == "http" and not hasattr(measured, "task"):
        measured.task = asyncio.get_running_loop().create_task(watch())
    await app(scope, receive, send)

config = uvicorn.Config(measured, log_level="error", lifespan="off")
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[2]))])
"""


class Measured:
    """A gateway on a real uvicorn."""

    def __init__(self, base: str) -> None:
        self._client = httpx2.Client(base_url=base, timeout=120, trust_env=False)

    def post(self, path: str, body: bytes) -> int:
        """The status of one request."""
        return self._client.post(path, content=body, headers={"content-type": "application/json"}).status_code

    def longest(self) -> float:
        """Processor seconds of the longest step since this was last asked."""
        seconds: float = self._asked()["seconds"]
        return seconds

    def peak(self) -> int:
        """The largest size of its memory so far, in bytes."""
        return int(self._asked()["rss"]) * 1024

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _asked(self) -> Any:
        return self._client.get("/longest").json()


@contextmanager
def measured(config: Mapping[str, Any]) -> Iterator[Measured]:
    """Serve a configuration in a process of its own."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        command = [sys.executable, "-c", _SERVE, json.dumps(config), str(listener.fileno())]
        started = subprocess.Popen(command, pass_fds=[listener.fileno()])
        harness = Measured(f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        harness.longest()
        yield harness
    finally:
        harness.close()
        started.terminate()
        started.wait(20)


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Made = Callable[[int], bytes]
"""The text of a message's content, of about so many bytes."""


def _text(unit: bytes) -> Made:
    return lambda size: b'"' + unit * (size // len(unit)) + b'"'


def _list(unit: bytes) -> Made:
    return lambda size: b"[" + b",".join([unit] * (size // (len(unit) + 1))) + b"]"


def _first(made: Made, most: int) -> Made:
    """The longest of a shape that is within the bound on values."""
    return lambda size: made(min(size, most))


PART = b'{"type":"text","text":"x"}'
CONTENTS: dict[str, Made] = {
    "one text of words": _text(b"A sentence of some words, and another. "),
    "one text of escapes": _text(rb"\\\n\""),
    "one text of escaped characters": _text(rb"\u4e2d"),
    "one text of emoji": _text("😀".encode()),
    "an inline image": lambda size: (
        b'[{"type":"image_url","image_url":{"url":"data:image/png;base64,' + b"iVBORw0K" * (size // 8) + b'"}}]'
    ),
    "parts of one letter": _list(PART),
    "parts of one letter, at the limit": _first(_list(PART), 66_000 * (len(PART) + 1)),
    "parts of a KiB": _list(b'{"type":"text","text":"' + b"some words " * 93 + b'"}'),
}
EXTRAS: dict[str, Made] = {
    "numbers": _list(b"1"),
    "numbers, at the limit": _first(_list(b"1"), 2 * 199_000),
    "empty strings, at the limit": _first(_list(b'""'), 3 * 199_000),
    "small objects, at the limit": _first(_list(b'{"a":1}'), 8 * 66_000),
    "members, at the limit": lambda size: (
        b"{" + b",".join(b'"k%d":1' % number for number in range(min(size // 10, 199_000))) + b"}"
    ),
    "arrays sixty deep": _list(b"[" * 60 + b"]" * 60),
    "arrays sixty deep, at the limit": _first(_list(b"[" * 60 + b"]" * 60), 3_200 * 121),
    "one array that never ends": lambda size: b"[" * size,
}


def chat(model: str, content: bytes, extra: bytes = b"") -> bytes:
    """A Chat request."""
    head = b'{"model":"%b","messages":[{"role":"user","content":' % model.encode()
    return head + content + b"}]" + (b',"x":' + extra if extra else b"") + b"}"


def conversation(model: str, size: int) -> bytes:
    """A Chat request of many messages of one letter."""
    unit = b'{"role":"user","content":"x"}'
    return b'{"model":"%b","messages":' % model.encode() + _list(unit)(size) + b"}"


def shapes() -> dict[str, Callable[[str, int], bytes]]:
    """A maker of each shape, for a model's name and a size."""
    made: dict[str, Callable[[str, int], bytes]] = {
        "messages of one letter": conversation,
        "messages of one letter, at the limit": lambda model, size: conversation(model, min(size, 2_000 * 30)),
    }
    for name, content in CONTENTS.items():
        made[name] = lambda model, size, content=content: chat(model, content(size - 200))  # type: ignore[misc]
    for name, extra in EXTRAS.items():
        made[name] = lambda model, size, extra=extra: chat(model, b'"x"', extra(size - 200))  # type: ignore[misc]
    return made
