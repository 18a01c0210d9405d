"""How long to wait before the next try on one target, and whether there is one."""

import random

from llmproxy_asgi.errors import UpstreamAuthFailed, UpstreamError, UpstreamQuotaExceeded, UpstreamRateLimited
from llmproxy_asgi.settings import Retry

CREDENTIAL_BOUND = (UpstreamRateLimited, UpstreamQuotaExceeded, UpstreamAuthFailed)
"""Failures that another credential of the same provider need not share."""
LONGEST_BACKOFF = 8.0
"""Seconds."""
LONGEST_ASKED_WAIT = 5.0
"""Seconds that we wait ourselves where the upstream asks; beyond, the caller is told instead."""
_SETTLED = frozenset({*range(300, 400), 501, 505})
"""What an upstream answers alike however often it is asked: go elsewhere, and cannot."""


def wait_before_retry(error: UpstreamError, retry: Retry, *, tried: int, draw: random.Random) -> float | None:
    """Seconds to wait before another try on the same target; None: there is none.

    Capped exponential backoff with full jitter; what the upstream asks for is obeyed where it is short.

    Args:
        error: How the last try ended.
        retry: As configured.
        tried: How many tries there were on this target.
        draw: Where the jitter comes from.
    """
    if not error.retryable or tried >= retry.attempts or error.upstream_status in _SETTLED:
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= LONGEST_ASKED_WAIT else None
    return draw.uniform(0.0, min(LONGEST_BACKOFF, retry.backoff * 2 ** (tried - 1)))
