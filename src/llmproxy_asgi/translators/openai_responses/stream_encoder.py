"""Encode a stream for Responses clients: lifecycle events around output items, each added, filled and done.

The rules follow the behaviour of the official client's accumulator, which was tested: `response.created` comes first
and its id never changes; `added` comes before the other events of an item; ids are equal from `added` to `done`; the
final `output` is authoritative. Parts may overlap, because every event contains its item's id.

Adjacent texts and refusals are the content parts of one message. Only the next part or the end shows whether an item
was the last one, which may be incomplete; messages and calls are done at that point. `writers` encodes the items.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, assert_never

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError, UpstreamFailed
from llmproxy_asgi.translators.assemble import unfold
from llmproxy_asgi.translators.base import InboundRequest, StreamEncoder
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, answer_id, encode_finish
from llmproxy_asgi.translators.openai_responses.response_encoder import (
    ResponseObject,
    error_event,
    failure_object,
    passthrough_failure,
)
from llmproxy_asgi.translators.openai_responses.writers import (
    ImageWriter,
    LateTextWriter,
    MessageWriter,
    NullWriter,
    OutputItems,
    PassthroughItem,
    ReasoningWriter,
    TextWriter,
    ToolCallWriter,
    WebSearchWriter,
    Writer,
)

_EPOCH = datetime.fromtimestamp(0, UTC)


class ResponsesStreamEncoder(StreamEncoder):
    """The encoder of one stream."""

    def __init__(self, inbound_request: InboundRequest) -> None:
        self._inbound_request = inbound_request
        self._output = OutputItems("")
        self._object: ResponseObject | None = None
        self._open: dict[int, Writer] = {}
        self._message: MessageWriter | None = None
        self._call: ToolCallWriter | None = None
        self._usage: ir.Usage | None = None
        self._finish: ir.Finish | None = None
        self._namespaces: dict[str, str] | None = None
        self._refused = False
        self._has_text = False
        self._over = False
        self.last = b""
        """The final response object."""

    @override
    def withheld(self) -> Sequence[tuple[str, Sequence[ir.Seal]]]:
        return tuple(self._output.withheld.items())

    @override
    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        out: list[bytes] = []
        for event in events:
            if type(event) is ir.PartDelta:
                writer = self._open.get(event.index)
                if writer is not None and not event.candidate:
                    writer.delta(event.delta, out)
            elif not self._over:
                self._encode_event(event, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def _encode_event(self, event: ir.StreamEvent, out: list[bytes]) -> None:
        match event:
            case ir.PartStarted(candidate=0, index=index, part=part):
                self._open[index] = self._start_part(part, out)
            case ir.PartEnded(candidate=0, index=index, part=part):
                self._end_part(index, part, out)
            case ir.Finished(candidate=0, finish=finish):
                self._finished(finish, out)
            case ir.UsageReported(usage=usage):
                self._usage = usage
            case ir.Started():
                self._start(event, out)
            case ir.Ended(service_tier=tier):
                if self._object is not None:
                    self._object.service_tier = tier or self._object.service_tier
                self._end(out)
            case ir.Failed(error=error):
                self._fail(error, out)
            case ir.PartStarted() | ir.PartDelta() | ir.PartEnded() | ir.Finished() | ir.Passed():
                pass  # another candidate, as this protocol has one; or an event with the numbering of another upstream
            case _:
                assert_never(event)

    # ── lifecycle events ─────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, event: ir.Started, out: list[bytes]) -> None:
        state = self._inbound_request.state
        found = (state.answer_id if state is not None else None) or answer_id(event.id, event.nonce)
        self._usage = event.usage
        self._object = ResponseObject(
            self._inbound_request,
            answer=found,
            model=event.model,
            created_at=event.created_at,
            extras=event.extras.get(PROTOCOL, {}),
        )
        self._object.service_tier = event.service_tier
        self._output = OutputItems(found)
        snapshot = msgspec.Raw(self._object.encode("in_progress", ()))
        self._output.event("response.created", {"response": snapshot}, out)
        self._output.event("response.in_progress", {"response": snapshot}, out)

    def _finished(self, finish: ir.Finish, out: list[bytes]) -> None:
        self._finish = finish
        if finish.reason is ir.FinishReason.REFUSAL and finish.message and not (self._has_text or self._refused):
            refusal = ir.Refusal(text=finish.message)
            self._start_part(refusal, out).end(refusal, out)
        status, _ = encode_finish(finish, refused=self._refused)
        self._complete_pending(out, status="incomplete" if status == "incomplete" else "completed")

    def _end(self, out: list[bytes]) -> None:
        finish = self._finish or ir.Finish(reason=ir.FinishReason.UNKNOWN)
        status, why = encode_finish(finish, refused=self._refused)
        error: JSONObject | None = None
        if status == "failed":
            error = failure_object(UpstreamFailed(finish.message or "The model made a call that cannot be read."))
        name = "response.incomplete" if status == "cancelled" else f"response.{status}"
        self._close(name, status, out, incomplete=why, error=error)

    def _fail(self, error: GatewayError, out: list[bytes]) -> None:
        self._over = True
        if self._object is None:
            event = passthrough_failure(error)
            if event is not None:
                answer = {**event.get("response", {}), "model": self._inbound_request.model}
                OutputItems("").event("response.failed", {**event, "response": answer}, out, numbered=False)
            else:
                OutputItems("").event("error", error_event(error), out, numbered=False)
            return
        self._close("response.failed", "failed", out, error=failure_object(error))

    def _close(
        self,
        name: str,
        status: str,
        out: list[bytes],
        *,
        incomplete: str | None = None,
        error: JSONObject | None = None,
    ) -> None:
        self._over = True
        self._open.clear()
        if self._object is None:
            return
        self.last = self._object.encode(
            status, self._output.items(), usage=self._usage, error=error, incomplete=incomplete
        )
        self._output.event(name, {"response": msgspec.Raw(self.last)}, out)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_part(self, part: ir.Part, out: list[bytes]) -> Writer:
        match part:
            case ir.Text() | ir.Refusal():
                return self._start_text(part, out)
            case ir.Reasoning():
                self._complete_pending(out)
                return ReasoningWriter(self._output, part, out)
            case ir.ToolCall():
                self._complete_pending(out)
                self._call = ToolCallWriter(self._output, part, self._namespace(part), out)
                return self._call
            case ir.ServerToolCall():
                self._complete_pending(out)
                return WebSearchWriter(self._output, part, out)
            case ir.Media():
                self._complete_pending(out)
                return ImageWriter(self._output, part)
            case ir.Opaque(protocol=protocol) if protocol == PROTOCOL:
                self._complete_pending(out)
                return PassthroughItem(self._output, part.data)
            case ir.Opaque() | ir.ServerToolResult() | ir.ToolResult():
                return NullWriter()
            case _:
                assert_never(part)

    def _start_text(self, part: ir.Text | ir.Refusal, out: list[bytes]) -> Writer:
        """Start a text; continue the previous message if it is adjacent and has the same phase and id."""
        if isinstance(part, ir.Refusal):
            self._refused = True
        else:
            self._has_text = True
        if self._message is None or not self._message.accepts(part):
            self._complete_pending(out)
            self._message = MessageWriter(self._output, part, out)
        elif part.seals:
            self._message.seal(part.seals)
        if isinstance(part, ir.Text) and not (part.text or part.citations) and self._message.has_content:
            return LateTextWriter(self._message, part)
        return TextWriter(self._message, part, out)

    def _end_part(self, index: int, part: ir.Part | None, out: list[bytes]) -> None:
        writer = self._open.pop(index, None)
        if writer is not None:
            writer.end(part, out)

    def _complete_pending(self, out: list[bytes], *, status: str = "completed") -> None:
        """Close the open message and call; each is done when its parts have ended."""
        if self._message is not None:
            self._message.complete(status, out)
            self._message = None
        if self._call is not None:
            self._call.complete(status, out)
            self._call = None

    def _namespace(self, call: ir.ToolCall) -> str | None:
        """Return a call's namespace; restore it for upstreams without namespaces."""
        if call.namespace is not None:
            return call.namespace
        if self._namespaces is None:
            self._namespaces = _namespaces(self._inbound_request)
        return self._namespaces.get(call.name)


def encode_answer(response: ir.Response, inbound_request: InboundRequest) -> bytes:
    """Encode a complete response: the final object of its stream."""
    encoder = ResponsesStreamEncoder(inbound_request)
    encoder.feed(tuple(_with_leading_seals(_with_phase(response))))
    return encoder.last


def _with_leading_seals(response: ir.Response) -> Iterator[ir.StreamEvent]:
    """Split a complete response into events; texts and calls start with their seals, which are written before them."""
    candidates = tuple(
        msgspec.structs.replace(candidate, parts=_merge_text_seals(candidate.parts))
        for candidate in response.candidates
    )
    response = msgspec.structs.replace(response, candidates=candidates)
    parts = {candidate.index: candidate.parts for candidate in candidates}
    for event in unfold(response):
        part = parts[event.candidate][event.index] if isinstance(event, ir.PartStarted | ir.PartDelta) else None
        if part is None or not part.seals or not isinstance(part, ir.Text | ir.ToolCall):
            yield event
        elif isinstance(event, ir.PartStarted):
            yield msgspec.structs.replace(event, part=msgspec.structs.replace(event.part, seals=part.seals))
        elif isinstance(event, ir.PartDelta) and not isinstance(event.delta, ir.SealDelta):
            yield event


def _merge_text_seals(parts: Sequence[ir.Part]) -> tuple[ir.Part, ...]:
    """Move the seals of adjacent texts to the first one: they are one message."""
    kept: list[ir.Part] = []
    for part in parts:
        first = kept[-1] if kept else None
        if not part.seals or not isinstance(part, ir.Text) or not isinstance(first, ir.Text):
            kept.append(part)
            continue
        kept[-1] = msgspec.structs.replace(first, seals=(*first.seals, *part.seals))
        if part.text:
            kept.append(msgspec.structs.replace(part, seals=()))
    return tuple(kept)


def _with_phase(response: ir.Response) -> ir.Response:
    """Copy each candidate's phase to its texts, as streams have it."""
    if not any(candidate.phase for candidate in response.candidates):
        return response
    candidates = []
    for candidate in response.candidates:
        own = {PROTOCOL: {"phase": candidate.phase}}
        parts = tuple(
            msgspec.structs.replace(part, extras={**own, **part.extras})
            if isinstance(part, ir.Text | ir.Refusal)
            else part
            for part in candidate.parts
        )
        candidates.append(msgspec.structs.replace(candidate, parts=parts))
    return msgspec.structs.replace(response, candidates=tuple(candidates))


def _namespaces(inbound_request: InboundRequest) -> dict[str, str]:
    """Map the names of tools that exactly one namespace declares to that namespace."""
    raw = inbound_request.raw.get("tools")
    if raw is None or b'"namespace"' not in bytes(raw):
        return {}
    namespaces: dict[str, set[str | None]] = {}
    try:
        tools = msgspec.json.decode(raw)
    except msgspec.MsgspecError:  # passed through without validation: a number out of range
        return {}
    for tool in _entries(tools):
        inner = _entries(tool.get("tools")) if tool.get("type") == "namespace" else [tool]
        namespace = tool.get("name") if tool.get("type") == "namespace" else None
        for each in inner:
            namespaces.setdefault(str(each.get("name")), set()).add(namespace if isinstance(namespace, str) else None)
    return {
        name: namespace for name, found in namespaces.items() if len(found) == 1 and (namespace := next(iter(found)))
    }


def _entries(found: Any) -> list[dict[str, Any]]:
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
