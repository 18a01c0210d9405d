"""The wait before a retry on the same target, and whether there is a retry."""

import random

from llmproxy_asgi.errors import UpstreamAuthFailed, UpstreamError, UpstreamQuotaExceeded, UpstreamRateLimited
from llmproxy_asgi.settings import Retry

CREDENTIAL_BOUND = (UpstreamRateLimited, UpstreamQuotaExceeded, UpstreamAuthFailed)
"""Failures that another credential of the same provider may not have."""
MAX_BACKOFF = 8.0
"""Seconds."""
MAX_RETRY_AFTER = 5.0
"""Seconds of a wait that the upstream asks for and the gateway waits itself; longer ones are passed to the caller."""
_PERMANENT = frozenset({*range(300, 400), 501, 505})
"""Statuses that a retry does not change: redirects, and methods or versions that the upstream lacks."""


def wait_before_retry(error: UpstreamError, retry: Retry, *, tried: int, draw: random.Random) -> float | None:
    """Return the seconds to wait before a retry on the same target; None: there is no retry.

    Capped exponential backoff with full jitter; a wait that the upstream asks for is obeyed where it is short.

    Args:
        error: The failure of the last attempt.
        retry: As configured.
        tried: The number of attempts on this target.
        draw: The source of jitter.
    """
    if not error.retryable or tried >= retry.attempts or error.upstream_status in _PERMANENT:
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= MAX_RETRY_AFTER else None
    return draw.uniform(0.0, min(MAX_BACKOFF, retry.backoff * 2 ** (tried - 1)))
