"""The paths that call a model: one handler for all protocols, streamed or not.

A failure before the first byte is an HTTP status with an error of the client's protocol; after it, it is the protocol's
error event.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING

from llmproxy_asgi.call import Call
from llmproxy_asgi.conversation import EMPTY
from llmproxy_asgi.disconnect import ClientDisconnected
from llmproxy_asgi.endpoints.errors import handle_error, internal_error
from llmproxy_asgi.endpoints.headers import Headers, attempt_headers, model_headers
from llmproxy_asgi.engine import AdmittedRequest, Engine
from llmproxy_asgi.errors import BadRequest, GatewayError
from llmproxy_asgi.execution.open_calls import shutting_down
from llmproxy_asgi.facts import CallContext
from llmproxy_asgi.http_connection import DisconnectWatch, HTTPConnection, KeepAlive
from llmproxy_asgi.rendering import ResponseStream, error_event, open_stream, render
from llmproxy_asgi.translators.base import HEAVY_BYTES, AnyInbound, InboundRequest

if TYPE_CHECKING:
    from llmproxy_asgi.responses_api.endpoints import StoredResponses
    from llmproxy_asgi.responses_api.turn import ConversationTurn

_JSON = (b"content-type", b"application/json")
_STRICT = "x-llmproxy-strict"
_EXPLAIN = "x-llmproxy-explain"
_FINAL_EVENT_TIMEOUT = 1.0
"""Seconds for the last event of a cancelled stream."""
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class CallHandler:
    """Serves one request to a model: owns its connection, its options, its response headers, and its call's context.

    Args:
        engine: Creates the call.
        connection: The request.
        inbound: The codec of its protocol.
        path_parameters: Parameters in the path, where a protocol names the model there.
        key_in_query: Whether `?key=` is a credential.
        counts: Whether to count the request's tokens only.
        stored: Creates the state of calls, and serves background requests; None: the protocol has none.
    """

    __slots__ = (
        "_admitted",
        "_connection",
        "_context",
        "_counts",
        "_engine",
        "_explains",
        "_inbound",
        "_inbound_request",
        "_key_in_query",
        "_path_parameters",
        "_shows_reasons",
        "_stored",
    )

    def __init__(
        self,
        engine: Engine,
        connection: HTTPConnection,
        inbound: AnyInbound,
        *,
        path_parameters: Mapping[str, str] = EMPTY,
        key_in_query: bool = False,
        counts: bool = False,
        stored: "StoredResponses | None" = None,
    ) -> None:
        self._engine = engine
        self._connection = connection
        self._inbound = inbound
        self._path_parameters = path_parameters
        self._key_in_query = key_in_query
        self._counts = counts
        self._stored = stored
        self._context: CallContext | None = None
        self._explains = False  # until its header has been checked
        self._shows_reasons = False
        self._admitted: AdmittedRequest
        self._inbound_request: InboundRequest

    async def serve(self) -> None:
        """Respond to the request."""
        engine, connection, inbound = self._engine, self._connection, self._inbound
        try:
            grant = await engine.runtime.authenticator.authenticate(connection.scope, key_in_query=self._key_in_query)
            admitted = self._admitted = engine.admit(grant, spends=not self._counts)
            try:
                runtime = engine.runtime
                limits = runtime.config.limits
                async with DisconnectWatch(connection) as watch:
                    body = await watch.json_body(limit=limits.body, seconds=limits.body_timeout, held=admitted.body)
                    headers, path = connection.headers, self._path_parameters
                    if len(body) <= HEAVY_BYTES:
                        inbound_request = inbound.open(body, headers=headers, path=path, bounds=runtime.bounds)
                    else:
                        inbound_request = await runtime.worker.run(
                            inbound.open, body, headers=headers, path=path, bounds=runtime.bounds
                        )
                    self._inbound_request = inbound_request
                    if self._counts:
                        await self._serve_count()
                    elif self._stored is not None and (state := inbound_request.state) is not None and state.background:
                        await self._stored.begin(connection, inbound, inbound_request, admitted, strict=self._strict)
                    elif inbound_request.stream:
                        await self._serve_stream()
                    else:
                        await self._serve_whole()
            finally:
                admitted.release()
        except Exception as error:  # noqa: BLE001  every error becomes a response
            await handle_error(connection, inbound, error, engine.runtime.observers, headers=self._attempt_headers())

    async def _serve_whole(self) -> None:
        entering = self._create_call()
        with self._engine.runtime.open_calls.call():
            async with entering as call:
                body = await render(call, self._inbound, self._inbound_request)
                headers = self._call_headers(call)
        await self._connection.answer(200, [_JSON, *headers], body)

    async def _serve_count(self) -> None:
        admitted, connection, inbound_request = self._admitted, self._connection, self._inbound_request
        with self._engine.runtime.open_calls.call():
            if self._stored is not None and (turn := self._turn(self._stored)) is not None:
                inbound_request = await turn.open(may_pass_on=False)
            counted = await self._engine.count(
                inbound_request,
                self._inbound,
                admitted.grant,
                reservation=admitted.reservation,
                strict=self._strict,
                request_id=connection.request_id,
            )
        headers = [*self._id_headers(), *model_headers(counted.target.model, counted.warnings)]
        await connection.answer(200, [_JSON, *headers], self._inbound.encode_count(counted.tokens))

    async def _serve_stream(self) -> None:
        connection, inbound, inbound_request = self._connection, self._inbound, self._inbound_request
        runtime, media_type = self._engine.runtime, inbound_request.media_type
        keepalive = KeepAlive(
            connection,
            inbound.keepalive,
            every=runtime.config.keepalive,
            headers=self._id_headers(),
            media_type=media_type,
        )
        stream: ResponseStream | None = None
        try:
            try:
                entering = self._create_call()
                with runtime.open_calls.call():
                    async with entering as call:
                        await keepalive.flush()
                        if not connection.started:
                            await connection.begin_stream(self._call_headers(call), media_type=media_type)
                        stream = open_stream(call, inbound, inbound_request)
                        await _copy(stream, keepalive)
            except asyncio.CancelledError:
                if connection.started and not connection.disconnected:
                    await self._send_final_event(self._final_event(stream, shutting_down()))
                raise
            except ClientDisconnected:
                raise
            except Exception as error:
                if error is connection.host_error:
                    raise
                await keepalive.flush()
                if not connection.started:
                    raise
                known = error if isinstance(error, GatewayError) else internal_error(error, connection)
                await keepalive.write(await self._final_event(stream, known))
            await keepalive.end()
        finally:
            keepalive.cancel()

    def _create_call(self) -> Call:
        admitted, connection = self._admitted, self._connection
        turn = None if self._stored is None else self._turn(self._stored)
        call = self._engine.call(
            self._inbound_request if turn is None else turn.request,
            self._inbound,
            admitted.grant,
            reservation=admitted.reservation,
            headers=connection.headers,
            strict=self._strict,
            request_id=connection.request_id,
        )
        runtime = self._engine.runtime
        if turn is not None:
            call.attach_state(turn)
        self._context = call.context
        self._explains = runtime.config.endpoints.explain and self._flag(_EXPLAIN)
        self._shows_reasons = self._explains and runtime.admins.names(admitted.grant)
        return call

    def _turn(self, stored: "StoredResponses") -> "ConversationTurn | None":
        """Create the stored state of the call; None: it uses none.

        Raises:
            BadRequest: The request needs storage, and nothing may be stored.
        """
        if self._inbound_request.state is None:
            return None
        return stored.stateful.turn(self._inbound_request, self._admitted.grant.owner, strict=self._strict)

    async def _final_event(self, stream: ResponseStream | None, error: GatewayError) -> bytes:
        """Return the last bytes of a stream that failed here; there is no stream if only keep-alives were sent."""
        if stream is None:
            return error_event(self._inbound, self._inbound_request, error)
        return await stream.fail(error)

    async def _send_final_event(self, event: Awaitable[bytes]) -> None:
        """End a stream that the server cancelled, because it shuts down without draining the gateway first."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_FINAL_EVENT_TIMEOUT):
                await self._connection.write(await event)
                await self._connection.end()

    # ── options and headers ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _strict(self) -> bool:
        """Whether to refuse the request where it would lose something in translation."""
        return self._flag(_STRICT)

    def _flag(self, name: str) -> bool:
        value = self._connection.headers.get(name)
        if value is None:
            return False
        if value not in _FLAGS:
            raise BadRequest(f"{name}: expected one of {', '.join(_FLAGS)}.", param=name, code="invalid_value")
        return _FLAGS[value]

    def _call_headers(self, call: Call) -> Headers:
        return [*self._id_headers(), *model_headers(call.upstream_model, call.warnings), *self._attempt_headers()]

    def _id_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the request's id in the protocol's own header, if it has one."""
        name = self._inbound.request_id_header
        return ((name, self._connection.request_id.encode()),) if name else ()

    def _attempt_headers(self) -> Headers:
        """Return the headers for the number of attempts and, on request, the steps of the call."""
        context = self._context
        if context is None:
            return []
        if not self._explains:
            return attempt_headers(context.attempts, None)
        steps = context.steps if self._shows_reasons else [step.without_reason() for step in context.steps]
        return attempt_headers(context.attempts, steps)


async def _copy(stream: ResponseStream, keepalive: KeepAlive) -> None:
    """Write every batch when it arrives."""
    while (data := await stream.next()) is not None:
        if data:
            await keepalive.write(data)
