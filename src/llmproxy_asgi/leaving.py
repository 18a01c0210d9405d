"""What our own two servers, the WSGI bridge and the in-process transport, do about clients who leave.

An application is told by the error that ASGI 2.4 asks for; what it raises after that, or after its answer is complete,
can be told to nobody and goes to the log.
"""

import asyncio
import logging


class ClientGoneError(OSError):
    """Raised by `send` once nobody takes the answer any more, as ASGI 2.4 asks."""


def report(error: BaseException, log: logging.Logger) -> None:
    """Log what an application raised when nobody could be told any more; nothing if it left when it was told to."""
    if isinstance(error, ClientGoneError | asyncio.CancelledError):
        return
    # Frameworks wrap the error that ends a sender into one of their own.
    level = logging.DEBUG if _is_caused_by_leaving(error) else logging.ERROR
    log.log(level, "an application failed after its client had left or had its answer", exc_info=error)


def _is_caused_by_leaving(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ClientGoneError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
