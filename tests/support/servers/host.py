"""What both hosts share: the gateway from the environment, and what they tell of themselves at `/state`."""

import asyncio
import gc
import json
import os
import threading
from typing import Any

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.facts import AnyFact, CallFinished, CallStarted
from support.servers import resident
from support.servers.sockets import traffic


class Notes:
    """An observer that counts calls, and keeps how each ended."""

    def __init__(self) -> None:
        self.started = 0
        self.finished: list[tuple[str, str]] = []

    def notice(self, fact: AnyFact) -> None:
        if isinstance(fact, CallStarted):
            self.started += 1
        elif isinstance(fact, CallFinished):
            self.finished.append((fact.outcome, fact.exactness))


NOTES = Notes()
CONFIG: Any = json.loads(os.environ["SERVED_CONFIG"])


def state(proxy: LLMProxy, loop: asyncio.AbstractEventLoop | None) -> dict[str, Any]:
    """What is alive in this process."""
    shared = proxy.gateway._shared
    gc.collect()
    return {
        "pid": os.getpid(),
        "open": len(shared.open_calls),
        "draining": shared.open_calls.draining,
        "slots": sum(slots.used for slots in shared.admission_queues._slots.values()),
        "waiting": sum(queue.waiting for queue in shared.admission_queues._targets.values()),
        "started": NOTES.started,
        "finished": NOTES.finished,
        "pools": sorted(name for name, _ in shared._pools),
        "tasks": len(asyncio.all_tasks(loop)) if loop is not None else 0,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "resident": resident(os.getpid()),
        "traffic": traffic(),
    }
