"""The paths that reach a model: one handler for every protocol, streamed or not.

A failure before the first byte is a real status in the caller's own protocol; after it, the protocol's error event.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Mapping
from typing import Protocol

from llmproxy_asgi.call import Call
from llmproxy_asgi.conversation import EMPTY
from llmproxy_asgi.disconnect import ClientDisconnected
from llmproxy_asgi.endpoints.connection import DisconnectWatch, HTTPConnection, KeepAlive
from llmproxy_asgi.endpoints.headers import attempt_headers, model_headers
from llmproxy_asgi.engine import AdmittedRequest, Engine
from llmproxy_asgi.errors import BadRequest, GatewayError, InternalError
from llmproxy_asgi.execution.open_calls import SHUTTING_DOWN, going_down
from llmproxy_asgi.rendering import ResponseStream, error_event, open_stream, render
from llmproxy_asgi.telemetry.call_recorder import record_refusal
from llmproxy_asgi.translators.base import HEAVY_BYTES, AnyInbound, InboundRequest

_log = logging.getLogger("llmproxy_asgi.calls")

_JSON = (b"content-type", b"application/json")
_STRICT = "x-llmproxy-strict"
_EXPLAIN = "x-llmproxy-explain"
_LAST_WORD = 1.0
"""Seconds for it."""
_SWITCH = {"1": True, "true": True, "0": False, "false": False}


class Detached(Protocol):
    """Serves a request that goes on without its caller."""

    async def __call__(
        self,
        connection: HTTPConnection,
        inbound: AnyInbound,
        inbound_request: InboundRequest,
        entry: AdmittedRequest,
        *,
        strict: bool,
    ) -> None:
        """Begin it, and tell its caller so."""


async def serve_call(
    engine: Engine,
    connection: HTTPConnection,
    inbound: AnyInbound,
    *,
    path_parameters: Mapping[str, str] = EMPTY,
    key_in_query: bool = False,
    counts: bool = False,
    background: Detached | None = None,
) -> None:
    """Answer one request in `inbound`'s protocol.

    Args:
        engine: What serves it.
        connection: The request, and where its answer goes.
        inbound: Reads the one and writes the other.
        path_parameters: Parameters in the path, where a protocol names the model there.
        key_in_query: Whether `?key=` counts.
        counts: Whether only the request's tokens are asked for.
        background: Serves requests that go on without their caller.
    """
    try:
        grant = await engine.runtime.authenticator.authenticate(connection.scope, key_in_query=key_in_query)
        entry = engine.admit(grant, spends=not counts)
        try:
            runtime = engine.runtime
            limits = runtime.config.limits
            async with DisconnectWatch(connection) as watch:
                body = await watch.json_body(limit=limits.body, seconds=limits.body_timeout, held=entry.body)
                if len(body) <= HEAVY_BYTES:
                    inbound_request = inbound.open(
                        body, headers=connection.headers, path=path_parameters, bounds=runtime.bounds
                    )
                else:
                    inbound_request = await runtime.worker.run(
                        inbound.open, body, headers=connection.headers, path=path_parameters, bounds=runtime.bounds
                    )
                if counts:
                    await _serve_count(engine, connection, inbound, inbound_request, entry)
                elif background is not None and inbound_request.state is not None and inbound_request.state.background:
                    await background(connection, inbound, inbound_request, entry, strict=_strict(connection))
                elif inbound_request.stream:
                    await _serve_stream(engine, connection, inbound, inbound_request, entry)
                else:
                    await _serve_whole(engine, connection, inbound, inbound_request, entry)
        finally:
            entry.release()
    except Exception as error:  # noqa: BLE001  the last stop
        await fail(connection, inbound, error)


async def fail(connection: HTTPConnection, inbound: AnyInbound, error: Exception) -> None:
    """What a request comes to that ended with an error: an answer, if there is anybody to read one.

    Args:
        connection: The request.
        inbound: Writes the answer.
        error: A `GatewayError`; that the caller left; or a bug of ours, which is a 500 and is logged.

    Raises:
        GatewayError: The answer had begun.
        Exception: The host's own `receive` or `send` failed; the host answers that.
    """
    if isinstance(error, ClientDisconnected):
        return
    if error is connection.host_error:
        raise error
    known = error if isinstance(error, GatewayError) else unexpected(error, connection)
    if connection.started:
        raise known  # the server breaks the connection off, so that half an answer does not look like a whole one
    with contextlib.suppress(ClientDisconnected):
        await refuse(connection, inbound, known)


async def refuse(connection: HTTPConnection, inbound: AnyInbound, error: GatewayError) -> None:
    """An error as an answer of its own."""
    problem = inbound.problem(error, request_id=connection.request_id)
    record_refusal(
        connection.observers,
        error,
        request_id=connection.request_id,
        protocol=inbound.protocol,
        status=problem.status,
    )
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in problem.headers]
    headers += _tried(connection)
    if error.code == SHUTTING_DOWN and connection.scope.get("http_version", "1.1").startswith("1"):
        headers.append((b"connection", b"close"))
    await connection.answer(problem.status, headers, problem.body)


def unexpected(error: Exception, connection: HTTPConnection) -> InternalError:
    """A bug of ours, logged; the caller reads nothing of it but the request's id."""
    _log.error("a call failed unexpectedly", exc_info=error, extra={"request_id": connection.request_id})
    internal = InternalError("The gateway failed unexpectedly: its log holds the cause under the request id.")
    internal.reported = getattr(error, "reported", False)
    return internal


async def _serve_whole(
    engine: Engine,
    connection: HTTPConnection,
    inbound: AnyInbound,
    inbound_request: InboundRequest,
    entry: AdmittedRequest,
) -> None:
    taken = _take(engine, connection, inbound, inbound_request, entry)
    with engine.runtime.open_calls.call():
        async with taken as call:
            body = await render(call, inbound, inbound_request)
            headers = [
                *_ids(connection, inbound),
                *model_headers(call.upstream_model, call.warnings),
                *_tried(connection),
            ]
    await connection.answer(200, [_JSON, *headers], body)


async def _serve_count(
    engine: Engine,
    connection: HTTPConnection,
    inbound: AnyInbound,
    inbound_request: InboundRequest,
    entry: AdmittedRequest,
) -> None:
    with engine.runtime.open_calls.call():
        counted = await engine.count(
            inbound_request,
            inbound,
            entry.grant,
            reservation=entry.reservation,
            strict=_strict(connection),
            request_id=connection.request_id,
        )
    headers = [*_ids(connection, inbound), *model_headers(counted.target.model, counted.warnings)]
    await connection.answer(200, [_JSON, *headers], inbound.encode_count(counted.tokens))


async def _serve_stream(
    engine: Engine,
    connection: HTTPConnection,
    inbound: AnyInbound,
    inbound_request: InboundRequest,
    entry: AdmittedRequest,
) -> None:
    ids = _ids(connection, inbound)
    keepalive = KeepAlive(
        connection,
        inbound.keepalive,
        every=engine.runtime.config.keepalive,
        headers=ids,
        media_type=inbound_request.media_type,
    )
    stream: ResponseStream | None = None
    try:
        try:
            taken = _take(engine, connection, inbound, inbound_request, entry)
            with engine.runtime.open_calls.call():
                async with taken as call:
                    await keepalive.flush()
                    if not connection.started:
                        headers = [*ids, *model_headers(call.upstream_model, call.warnings), *_tried(connection)]
                        await connection.begin_stream(headers, media_type=inbound_request.media_type)
                    stream = open_stream(call, inbound, inbound_request)
                    await _copy(stream, keepalive)
        except asyncio.CancelledError:
            if connection.started and not connection.disconnected:
                await _last_word(connection, _broken(stream, inbound, inbound_request, going_down()))
            raise
        except ClientDisconnected:
            raise
        except Exception as error:
            if error is connection.host_error:
                raise
            await keepalive.flush()
            if not connection.started:
                raise
            known = error if isinstance(error, GatewayError) else unexpected(error, connection)
            await keepalive.write(await _broken(stream, inbound, inbound_request, known))
        await keepalive.end()
    finally:
        keepalive.cancel()


async def _broken(
    stream: ResponseStream | None, inbound: AnyInbound, inbound_request: InboundRequest, error: GatewayError
) -> bytes:
    """The end of a stream that broke off here; there is none yet where nothing but keep-alives was sent."""
    return error_event(inbound, inbound_request, error) if stream is None else await stream.fail(error)


async def _last_word(connection: HTTPConnection, word: Awaitable[bytes]) -> None:
    """What a caller reads whose call is ended by the server: it shuts down, and has not asked us to drain before."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_LAST_WORD):
            await connection.write(await word)
            await connection.end()


async def _copy(stream: ResponseStream, keepalive: KeepAlive) -> None:
    """Every batch as one write, as it comes."""
    while (data := await stream.next()) is not None:
        if data:
            await keepalive.write(data)


def _take(
    engine: Engine,
    connection: HTTPConnection,
    inbound: AnyInbound,
    inbound_request: InboundRequest,
    entry: AdmittedRequest,
) -> Call:
    """The call; the connection knows from now on how it goes."""
    call = engine.call(
        inbound_request,
        inbound,
        entry.grant,
        reservation=entry.reservation,
        headers=connection.headers,
        strict=_strict(connection),
        request_id=connection.request_id,
    )
    connection.context = call.context
    connection.explains = engine.runtime.config.endpoints.explain and _switched(connection, _EXPLAIN)
    connection.shows_reasons = connection.explains and engine.runtime.admins.names(entry.grant)
    return call


def _tried(connection: HTTPConnection) -> list[tuple[bytes, bytes]]:
    """How many requests went out for it and, where that is asked for, what was tried and why."""
    context = connection.context
    if context is None:
        return []
    if not connection.explains:
        return attempt_headers(context.attempts, None)
    steps = context.steps if connection.shows_reasons else [step.without_reason() for step in context.steps]
    return attempt_headers(context.attempts, steps)


def _strict(connection: HTTPConnection) -> bool:
    """Whether the caller wants the request taken as it is, or not at all."""
    return _switched(connection, _STRICT)


def _switched(connection: HTTPConnection, name: str) -> bool:
    value = connection.headers.get(name)
    if value is None:
        return False
    if value not in _SWITCH:
        raise BadRequest(f"{name}: expected one of {', '.join(_SWITCH)}.", param=name, code="invalid_value")
    return _SWITCH[value]


def _ids(connection: HTTPConnection, inbound: AnyInbound) -> tuple[tuple[bytes, bytes], ...]:
    """The request's id under the name that the protocol has for it, if that is one of its own."""
    name = inbound.request_id_header
    return ((name, connection.request_id.encode()),) if name else ()
