"""The subject: the gateway mounted in a Starlette app, one OpenAI-compatible upstream, everything else by default.

`BENCH_ACCESS=keys` asks each caller for a key; otherwise anybody may call.
"""

import os
from typing import Any

from starlette.applications import Starlette

from bench import traffic
from llmproxy_asgi import LLMProxy


def configuration(upstream: str, *, keys: bool) -> dict[str, Any]:
    """What a host would write to reach the benchmark's upstream at `upstream` (scheme, host and port)."""
    provider = {"type": "openai-compatible", "base_url": f"{upstream}/v1", "api_key": "sk-bench"}
    access = {"mode": "keys", "keys": [{"name": "bench", "key": traffic.KEY}]} if keys else {"mode": "open"}
    return {"providers": {"bench": provider}, "access": access}


proxy = LLMProxy(configuration(os.environ["BENCH_UPSTREAM"], keys=os.environ.get("BENCH_ACCESS") == "keys"))
app = Starlette(lifespan=proxy.lifespan)
app.mount("/llm", proxy)
