"""Errors as complete responses in the client's protocol."""

import contextlib
import logging
from collections.abc import Iterable

from llmproxy_asgi.disconnect import ClientDisconnected
from llmproxy_asgi.errors import GatewayError, InternalError
from llmproxy_asgi.execution.open_calls import SHUTTING_DOWN
from llmproxy_asgi.facts import Observers
from llmproxy_asgi.http_connection import HTTPConnection
from llmproxy_asgi.telemetry.call_recorder import record_refusal
from llmproxy_asgi.translators.base import AnyInbound

_log = logging.getLogger("llmproxy_asgi.calls")


async def handle_error(
    connection: HTTPConnection,
    inbound: AnyInbound,
    error: Exception,
    observers: Observers,
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Respond to a request that failed, if its client can still receive a response.

    Args:
        connection: The request.
        inbound: The codec that encodes the error.
        error: A `GatewayError`, a disconnect, or a bug, which is logged and becomes a 500.
        observers: Receive the refusal.
        headers: Further headers of the response.

    Raises:
        GatewayError: The response had started.
        Exception: The host's own `receive` or `send` failed; the host handles that.
    """
    if isinstance(error, ClientDisconnected):
        return
    if error is connection.host_error:
        raise error
    known = error if isinstance(error, GatewayError) else internal_error(error, connection)
    if connection.started:
        raise known  # the server aborts the connection, so that the response does not look complete
    with contextlib.suppress(ClientDisconnected):
        await _respond(connection, inbound, known, observers, headers)


def internal_error(error: Exception, connection: HTTPConnection) -> InternalError:
    """Log a bug, and return the error for the client, which contains no details."""
    _log.error("a call failed unexpectedly", exc_info=error, extra={"request_id": connection.request_id})
    internal = InternalError("The gateway failed unexpectedly: its log holds the cause under the request id.")
    internal.reported = getattr(error, "reported", False)
    return internal


async def _respond(
    connection: HTTPConnection,
    inbound: AnyInbound,
    error: GatewayError,
    observers: Observers,
    further: Iterable[tuple[bytes, bytes]],
) -> None:
    problem = inbound.problem(error, request_id=connection.request_id)
    record_refusal(
        observers,
        error,
        request_id=connection.request_id,
        protocol=inbound.protocol,
        status=problem.status,
    )
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in problem.headers]
    headers += further
    if error.code == SHUTTING_DOWN and connection.scope.get("http_version", "1.1").startswith("1"):
        headers.append((b"connection", b"close"))
    await connection.answer(problem.status, headers, problem.body)
