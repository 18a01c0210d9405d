"""Render a call's response as the bytes that its client reads: passed through or translated, stored or not."""

from typing_extensions import override

from llmproxy_asgi.call import Call, CallState
from llmproxy_asgi.conversation import Batch, Ended, Failed
from llmproxy_asgi.conversation_state.reasoning import withheld_reasoning
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.base import AnyInbound, InboundRequest, StreamEncoder


class ResponseStream:
    """A call's batches as the bytes that its client reads.

    A failure is encoded as the protocol's own error event, whether the stream was passed through or translated.
    """

    __slots__ = ("_call", "_encoder", "_inbound", "_inbound_request", "_next", "_recorder", "_tap")

    def __init__(self, call: Call, inbound: AnyInbound, inbound_request: InboundRequest) -> None:
        self._next = call.next
        self._call = call
        self._tap = call.tap
        self._recorder = call.recorder
        self._inbound = inbound
        self._inbound_request = inbound_request
        self._encoder: StreamEncoder | None = None if call.is_passthrough else inbound.encoder(inbound_request)

    async def next(self) -> bytes | None:
        """Return the next bytes, which may be empty; None after the last."""
        batch = await self._next()
        if batch is None:
            return None
        if self._encoder is not None:
            if entries := self._tap.feed(batch.events):
                await self._call.keep(entries)
            data = self._encoder.feed(batch.events)
            ended = self._recorder.ended and batch.events and type(batch.events[-1]) is Ended
            if ended and (state := self._encoder.withheld()):
                await self._call.keep(withheld_reasoning(state))
            return data
        raw = batch.raw or b""
        if batch.events:
            if entries := self._tap.feed(batch.events):
                await self._call.keep(entries)
            if isinstance(batch.events[-1], Failed):
                return raw + error_event(self._inbound, self._inbound_request, batch.events[-1].error)
        return raw

    async def fail(self, error: GatewayError) -> bytes:
        """End a stream that the gateway itself interrupts; return its last bytes, none if it had ended."""
        if self._encoder is not None:
            return self._encoder.feed((Failed(error),))
        if self._call.recorder.ended:
            return b""
        return error_event(self._inbound, self._inbound_request, self._call.stream_error(error))


class StoredResponseStream(ResponseStream):
    """A stream that the call's state stores and rewrites as it passes."""

    __slots__ = ("_state",)

    def __init__(self, call: Call, inbound: AnyInbound, state: CallState) -> None:
        super().__init__(call, inbound, state.request)
        self._state = state

    @override
    async def next(self) -> bytes | None:
        data = await super().next()
        return await self._state.rewrite(data) if data and self._state.needs_rewrite(data) else data

    @override
    async def fail(self, error: GatewayError) -> bytes:
        data = await super().fail(error)
        return await self._state.rewrite(data) if data else data


def open_stream(call: Call, inbound: AnyInbound, inbound_request: InboundRequest) -> ResponseStream:
    """Return the stream of a call's response."""
    if call.state is None:
        return ResponseStream(call, inbound, inbound_request)
    return StoredResponseStream(call, inbound, call.state)


async def render(call: Call, inbound: AnyInbound, inbound_request: InboundRequest) -> bytes:
    """Return a complete response as its client reads it."""
    response, stored = call.response(), call.state
    if isinstance(response, Batch):
        body = response.raw or b""
    else:
        request = inbound_request if stored is None else stored.request
        heavy = request.heavy or call.heavy
        body = await call.worker.run(inbound.encode, response, request) if heavy else inbound.encode(response, request)
    return body if stored is None else await stored.rewrite_whole(body)


def error_event(inbound: AnyInbound, inbound_request: InboundRequest, error: GatewayError) -> bytes:
    """Encode an error as an event of the client's protocol, for a stream that may have begun."""
    return inbound.encoder(inbound_request).feed((Failed(error),))
