"""The error for a disconnected client, and how our two servers log what an application raises after it.

The servers are the WSGI bridge and the in-process transport. They raise the error from `send`, as ASGI 2.4 requires;
what an application raises after that, or after its complete response, can only be logged.
"""

import asyncio
import logging

UNWATCHED = "llmproxy.unwatched"
"""An extension in the scope of requests whose disconnects are noticed only by failing writes."""


class ClientDisconnected(ConnectionError):
    """The client has disconnected, or reads no more of the response. It never leaves the endpoints.

    Other servers raise their own `OSError` from `send`; the endpoints convert it to this one.
    """


def report(error: BaseException, log: logging.Logger) -> None:
    """Log what an application raised after its client had disconnected, unless it only ended because of that."""
    if isinstance(error, ClientDisconnected | asyncio.CancelledError):
        return
    # Frameworks wrap the error that ends a sender into one of their own.
    level = logging.DEBUG if _is_caused_by_disconnect(error) else logging.ERROR
    log.log(
        level, "an application failed after its client had disconnected or its response was complete", exc_info=error
    )


def _is_caused_by_disconnect(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ClientDisconnected):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
