"""The host of a soak: a Starlette app with the gateway at `/llm`, on uvicorn, as its users run it.

Run as `python -m soak.host UPSTREAM CLOSED FACTS STREAMS`: the upstream's address, one without a server, the file
for facts, and how many streams there will be. It prints its port and serves until its standard input is closed.
`/state` tells what is alive in the process.
"""

import asyncio
import gc
import logging
import os
import socket
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import IO, Any

import msgspec
import uvicorn
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from typing_extensions import override

from bench.processes import allow_many_files, resident_bytes
from llmproxy_asgi import LLMProxy, Principal, Tracing
from llmproxy_asgi.execution.admission_queue import AdmissionQueue
from llmproxy_asgi.facts import AnyFact, CallFinished, CallRefused, CallStarted
from soak.plan import AWAY, KEYS, WIRES
from soak.records import OPS, Fact, State

FIRST_BYTE = 6.0
IDLE = 5.0
"""Seconds; the clocks that faults run into."""
_TYPES = 400

_encode = msgspec.json.Encoder().encode


class Books:
    """An observer that writes down how calls began and ended."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def notice(self, fact: AnyFact) -> None:
        """Write it down, if it is about a call's beginning or end."""
        if isinstance(fact, CallFinished):
            usage = fact.usage
            line = Fact(
                kind="finished",
                request_id=fact.request_id,
                outcome=fact.outcome,
                status=fact.status,
                error=fact.error,
                stream=fact.stream,
                began=fact.first_seconds is not None,
                exactness=fact.exactness,
                input=0 if usage is None else usage.input,
                cached=0 if usage is None else usage.cache_read,
                output=0 if usage is None else usage.output,
                attempts=fact.attempts,
                queue_seconds=fact.queue_seconds,
            )
        elif isinstance(fact, CallStarted):
            line = Fact(kind="started", request_id=fact.request_id)
        elif isinstance(fact, CallRefused):
            line = Fact(kind="refused", request_id=fact.request_id, status=fact.status, error=fact.error)
        else:
            return
        self.file.write(_encode(line) + b"\n")


class Spans(SpanProcessor):
    """Counts spans, and keeps none."""

    def __init__(self) -> None:
        self.started = self.ended = 0

    @override
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.started += 1

    @override
    def on_end(self, span: ReadableSpan) -> None:
        self.ended += 1


class Complaints(logging.Handler):
    """Keeps the first of what is logged as an error, and counts the rest."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        self.first: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        if len(self.first) < 5:
            trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
            self.first.append(f"{record.name}: {record.getMessage()}\n{trace}"[:4000])


def configuration(upstream: str, closed: str, streams: int) -> dict[str, Any]:
    """Four providers with six keys each, one that is not there, names for each pair of them, limits on all sides.

    Limits are there to be counted and sometimes to be waited for, and never to refuse anything.
    """
    queue = {"queue_timeout": "60s", "max_queue": 10_000}
    common: dict[str, Any] = {
        "api_key": [f"sk-soak-{letter}" for letter in "abcdef"],
        "cooldown": "1s",
        "timeout": {"connect": "5s", "first_byte": FIRST_BYTE, "idle": IDLE, "total": "5m"},
        "retry": {"attempts": 2, "backoff": "50ms"},
        "rate_limit": {"requests_per_second": 2000, "tokens_per_minute": 10**9, **queue},
        "max_concurrency": max(4, streams * 2 // 5),
    }
    providers = {
        "chat": {**common, "type": "openai-compatible", "base_url": f"{upstream}/v1"},
        "responses": {**common, "type": "openai", "base_url": f"{upstream}/v1", "protocol": "openai-responses"},
        "messages": {**common, "type": "anthropic", "base_url": upstream},
        "gemini": {**common, "type": "gemini", "base_url": upstream},
        AWAY: {**common, "type": "openai-compatible", "base_url": closed, "cooldown": 0, "retry": {"attempts": 1}},
    }
    names = {
        f"{first}-{second}": {"targets": [f"{first}/m", f"{second}/m"]}
        for first in (*WIRES, AWAY)
        for second in WIRES
        if first != second
    }
    limited = {"rate_limit": {"requests_per_second": 2000, **queue}, "max_concurrency": max(4, streams // 6)}
    keys = [{"name": f"k{number}", "key": key, **limited} for number, key in enumerate(KEYS)]
    return {
        "providers": providers,
        "models": names,
        "access": {"keys": [*keys, {"name": "ops", "key": OPS}], "default": limited, "admins": ["key:ops"]},
        "endpoints": {"metrics": True, "explain": True},
        "keepalive": "2s",
    }


def who(connection: HTTPConnection) -> Principal | None:
    """The host's own user, by a header."""
    user = connection.headers.get("x-user")
    return Principal(user) if user else None


class Host:
    """The app, and what can be told of the process."""

    def __init__(self, config: dict[str, Any], facts: IO[bytes]) -> None:
        self._facts = facts
        self._spans = Spans()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(self._spans)
        self._proxy = LLMProxy(config, identify=who, observers=[Books(facts), Tracing(provider)])
        self._complaints = Complaints()
        logging.getLogger().addHandler(self._complaints)
        logging.getLogger("llmproxy_asgi").setLevel(logging.INFO)
        routes = [Route("/state", self._show), Route("/settle", self._settle), Mount("/llm", self._proxy)]
        self.app = Starlette(routes=routes, lifespan=self._proxy.lifespan)

    async def _show(self, _request: Request) -> Response:
        self._facts.flush()
        return JSONResponse(msgspec.to_builtins(self._state()))

    async def _settle(self, _request: Request) -> Response:
        """Close idle connections to upstreams, so that the remaining ones are in use."""
        await self._proxy.gateway.aclose()
        return JSONResponse({})

    def _state(self) -> State:
        tasks = [task.get_coro() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for _ in range(3):
            gc.collect()
        objects = gc.get_objects()
        types = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in objects)
        descriptors = [_what(each) for each in Path("/proc/self/fd").iterdir()]
        shared = self._proxy.gateway._shared
        queues = [*shared.admission_queues._targets.values(), *shared.admission_queues.callers._queues.values()]
        return State(
            tasks=len(tasks),
            waiting=sorted(repr(each)[:120] for each in tasks)[:20],
            threads=threading.active_count(),
            files=len(descriptors),
            sockets=sum(each.startswith("socket:") for each in descriptors),
            objects=len(objects),
            types=dict(types.most_common(_TYPES)),
            memory=resident_bytes(os.getpid()),
            places=_slots_used(queues),
            queued=sum(queue.waiting for queue in queues),
            unsettled=sum(queue._unsettled for queue in queues),
            open_calls=len(shared.open_calls),
            spans=self._spans.ended,
            spans_open=self._spans.started - self._spans.ended,
            remembered=len(shared.affinities._affinities),
            complaints=self._complaints.count,
            complained=self._complaints.first,
        )


def _slots_used(queues: list[AdmissionQueue]) -> int:
    return sum(
        slots.used for slots in {id(queue._slots): queue._slots for queue in queues}.values() if slots is not None
    )


def _what(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""  # the one that listed them


def main() -> None:
    """Serve until the parent process is done."""
    upstream, closed, facts, streams = sys.argv[1:]
    allow_many_files()
    with Path(facts).open("wb") as file, socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        host = Host(configuration(upstream, closed, int(streams)), file)
        config = uvicorn.Config(
            host.app,
            loop="uvloop",
            http="httptools",
            ws="none",
            access_log=False,
            log_level="warning",
            backlog=2048,
            # With the usual 5 s a machine that stalls the callers for so long makes them write to closed connections.
            timeout_keep_alive=75,
        )
        server = uvicorn.Server(config)

        def end_with_parent() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=end_with_parent, daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
