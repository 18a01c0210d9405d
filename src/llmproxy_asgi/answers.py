"""A call's answer as the bytes that its caller reads, whether it is passed on or translated, kept or not."""

from typing import TYPE_CHECKING

from typing_extensions import override

from llmproxy_asgi.call import Call
from llmproxy_asgi.conversation import Batch, Ended, Failed
from llmproxy_asgi.conversation_state.reasoning import withheld_reasoning
from llmproxy_asgi.errors import GatewayError
from llmproxy_asgi.translators.base import AnyInbound, InboundRequest, StreamEncoder

if TYPE_CHECKING:
    from llmproxy_asgi.conversation_state.stateful import ConversationTurn


class CallerStream:
    """A call's batches as the bytes that its caller reads.

    A failure is written as the protocol's own error event, whether the stream was passed through or translated.
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
        """The next bytes, maybe none yet; None after the last."""
        batch = await self._next()
        if batch is None:
            return None
        if self._encoder is not None:
            if kept := self._tap.feed(batch.events):
                await self._call.keep(kept)
            data = self._encoder.feed(batch.events)
            ended = self._recorder.ended and batch.events and type(batch.events[-1]) is Ended
            if ended and (state := self._encoder.withheld()):
                await self._call.keep(withheld_reasoning(state))
            return data
        raw = batch.raw or b""
        if batch.events:
            if kept := self._tap.feed(batch.events):
                await self._call.keep(kept)
            if isinstance(batch.events[-1], Failed):
                return raw + failure(self._inbound, self._inbound_request, batch.events[-1].error)
        return raw

    async def broke(self, error: GatewayError) -> bytes:
        """The last bytes of a stream that something of ours broke off, whatever came of it; none if it had ended."""
        if self._encoder is not None:
            return self._encoder.feed((Failed(error),))
        if self._call.recorder.ended:
            return b""
        return failure(self._inbound, self._inbound_request, self._call.broke(error))


class KeptStream(CallerStream):
    """One that is kept as it passes, and told as what it then is."""

    __slots__ = ("_turn",)

    def __init__(self, call: Call, inbound: AnyInbound, turn: "ConversationTurn") -> None:
        super().__init__(call, inbound, turn.said)
        self._turn = turn

    @override
    async def next(self) -> bytes | None:
        data = await super().next()
        return await self._turn.tell(data) if data and self._turn.concerns(data) else data

    @override
    async def broke(self, error: GatewayError) -> bytes:
        data = await super().broke(error)
        return await self._turn.tell(data) if data else data


def stream_of(call: Call, inbound: AnyInbound, inbound_request: InboundRequest) -> CallerStream:
    """A streamed answer as its caller reads it."""
    return CallerStream(call, inbound, inbound_request) if call.turn is None else KeptStream(call, inbound, call.turn)


async def whole_of(call: Call, inbound: AnyInbound, inbound_request: InboundRequest) -> bytes:
    """A whole answer as its caller reads it."""
    answer, turn = call.answer(), call.turn
    if isinstance(answer, Batch):
        body = answer.raw or b""
    else:
        said = inbound_request if turn is None else turn.said
        heavy = said.heavy or call.heavy
        body = await call.worker.run(inbound.encode, answer, said) if heavy else inbound.encode(answer, said)
    return body if turn is None else await turn.tell_whole(body)


def failure(inbound: AnyInbound, inbound_request: InboundRequest, error: GatewayError) -> bytes:
    """An error as an event of the caller's protocol, for a stream of which anything may have been sent already."""
    return inbound.encoder(inbound_request).feed((Failed(error),))
