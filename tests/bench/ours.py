"""The subject: the gateway mounted in a Starlette app, one OpenAI-compatible upstream, everything else by default.

`BENCH_ACCESS=keys` asks each caller for a key, `guarded` has every protection on besides (limits that are never
reached, health checks, two targets that share the calls, affinity, metrics); otherwise anybody may call.
"""

import os
from typing import Any

from starlette.applications import Starlette

from bench import traffic
from llmproxy_asgi import LLMProxy

PROVIDER = {"type": "openai-compatible", "api_key": "sk-bench"}
KEY = {"name": "bench", "key": traffic.KEY}
MANY = 1_000_000


def configuration(upstream: str, *, access: str) -> dict[str, Any]:
    """What a host would write to reach the benchmark's upstream at `upstream` (scheme, host and port)."""
    provider = {**PROVIDER, "base_url": f"{upstream}/v1"}
    if access == "guarded":
        return guarded(provider)
    who = {"mode": "keys", "keys": [KEY]} if access == "keys" else {"mode": "open"}
    return {"providers": {"bench": provider}, "access": who}


def guarded(provider: dict[str, Any]) -> dict[str, Any]:
    """The same with everything on that keeps calls alive."""
    limits = {
        "rate_limit": {"requests_per_second": MANY, "burst": MANY, "tokens_per_minute": MANY * 1000},
        "max_concurrency": 5_000,
    }
    checked = {**provider, **limits, "weight": 1, "health": {"interval": "30s"}}
    key = {**KEY, "requests_per_minute": MANY, "tokens_per_minute": MANY * 1000, "max_concurrency": 5_000}
    return {
        "providers": {"one": checked, "two": checked},
        "access": {"mode": "keys", "keys": [key]},
        "endpoints": {"metrics": True},
    }


proxy = LLMProxy(configuration(os.environ["BENCH_UPSTREAM"], access=os.environ.get("BENCH_ACCESS", "open")))
app = Starlette(lifespan=proxy.lifespan)
app.mount("/llm", proxy)
