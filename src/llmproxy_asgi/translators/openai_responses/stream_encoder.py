"""Encode a stream for Responses clients: lifecycle events around output items, each added, filled and done.

The rules follow the behaviour of the official client's accumulator, which was tested: `response.created` comes first
and its id never changes; `added` comes before the other events of an item; ids are equal from `added` to `done`; the
final `output` is authoritative. Parts may overlap, because every event contains its item's id.

Adjacent texts and refusals are the content parts of one message. Only the next part or the end shows whether an item
was the last one, which may be incomplete; messages and calls are done at that point. `writers` encodes the items.
"""

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.errors import GatewayError, UpstreamFailed
from llmproxy_asgi.translators.assemble import unfold
from llmproxy_asgi.translators.base import InboundRequest
from llmproxy_asgi.translators.codec.parts import CandidateState, NullWriter, PartEncoder, PartWriter
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, answer_id, encode_finish
from llmproxy_asgi.translators.openai_responses.response_encoder import (
    ResponseObject,
    error_event,
    failure_object,
    passthrough_failure,
)
from llmproxy_asgi.translators.openai_responses.writers import (
    ImageWriter,
    MessageWriter,
    OutputItems,
    PassthroughItem,
    ReasoningWriter,
    TextWriter,
    ToolCallWriter,
    WebSearchWriter,
)


class ResponsesStreamEncoder(PartEncoder):
    """The encoder of one stream."""

    one_candidate = True

    def __init__(self, inbound_request: InboundRequest) -> None:
        super().__init__()
        self._inbound_request = inbound_request
        self._output = OutputItems("", self.out)
        self._object: ResponseObject | None = None
        self._message: MessageWriter | None = None
        self._call: ToolCallWriter | None = None
        self._namespaces: dict[str, str] | None = None
        self._refused = False
        self._has_text = False
        self.last = b""
        """The final response object."""

    @override
    def withheld(self) -> Sequence[tuple[str, Sequence[ir.Seal]]]:
        return tuple(self._output.withheld.items())

    # ── lifecycle events ─────────────────────────────────────────────────────────────────────────────────────────────

    @override
    def start(self, event: ir.Started) -> None:
        state = self._inbound_request.state
        found = (state.answer_id if state is not None else None) or answer_id(event.id, event.nonce)
        self._object = ResponseObject(
            self._inbound_request,
            answer=found,
            model=event.model,
            created_at=event.created_at,
            extras=event.extras.get(PROTOCOL, {}),
        )
        self._object.service_tier = self.tier
        self._output = OutputItems(found, self.out)
        snapshot = msgspec.Raw(self._object.encode("in_progress", ()))
        self._output.event("response.created", {"response": snapshot})
        self._output.event("response.in_progress", {"response": snapshot})

    @override
    def finish(self, candidate: CandidateState) -> None:
        finish = candidate.finish
        if finish.reason is ir.FinishReason.REFUSAL and finish.message and not (self._has_text or self._refused):
            writer = self.writer(candidate, ir.Refusal(text=finish.message))
            writer.start()
            writer.close(None)
        status, _ = encode_finish(finish, refused=self._refused)
        self._complete_pending(status="incomplete" if status == "incomplete" else "completed")

    @override
    def end(self) -> None:
        finish = self.candidate(0).finish
        status, why = encode_finish(finish, refused=self._refused)
        error: JSONObject | None = None
        if status == "failed":
            error = failure_object(UpstreamFailed(finish.message or "The model made a call that cannot be read."))
        name = "response.incomplete" if status == "cancelled" else f"response.{status}"
        self._write_last(name, status, incomplete=why, error=error)

    @override
    def fail(self, error: GatewayError) -> None:
        if self._object is not None:
            self._write_last("response.failed", "failed", error=failure_object(error))
            return
        event = passthrough_failure(error)
        if event is not None:
            answer = {**event.get("response", {}), "model": self._inbound_request.model}
            self._output.event("response.failed", {**event, "response": answer}, numbered=False)
        else:
            self._output.event("error", error_event(error), numbered=False)

    def _write_last(
        self, name: str, status: str, *, incomplete: str | None = None, error: JSONObject | None = None
    ) -> None:
        if self._object is None:
            return
        self._object.service_tier = self.tier
        self.last = self._object.encode(
            status, self._output.items(), usage=self.usage, error=error, incomplete=incomplete
        )
        self._output.event(name, {"response": msgspec.Raw(self.last)})

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @override
    def writer(self, candidate: CandidateState, part: ir.Part) -> PartWriter:
        match part:
            case ir.Text() | ir.Refusal():
                return self._text_writer(part)
            case ir.Opaque() if part.protocol != PROTOCOL:
                return NullWriter(part, self.out)
            case ir.ServerToolResult() | ir.ToolResult():
                return NullWriter(part, self.out)
        self._complete_pending()
        match part:
            case ir.Reasoning():
                return ReasoningWriter(part, self._output)
            case ir.ToolCall():
                self._call = ToolCallWriter(part, self._output, self._namespace(part))
                return self._call
            case ir.ServerToolCall():
                return WebSearchWriter(part, self._output)
            case ir.Media():
                return ImageWriter(part, self._output)
            case ir.Opaque():
                return PassthroughItem(part, self._output)
            case _:
                assert_never(part)

    def _text_writer(self, part: ir.Text | ir.Refusal) -> PartWriter:
        """Return the writer of a text, which continues an adjacent message of the same phase and id."""
        if isinstance(part, ir.Refusal):
            self._refused = True
        else:
            self._has_text = True
        if self._message is None or not self._message.accepts(part):
            self._complete_pending()
            self._message = MessageWriter(self._output, part)
        elif part.seals:
            self._message.seal(part.seals)
        return TextWriter(part, self._message)

    def _complete_pending(self, *, status: str = "completed") -> None:
        """Close the open message and call; each is done when its parts have ended."""
        if self._message is not None:
            self._message.complete(status)
            self._message = None
        if self._call is not None:
            self._call.complete(status)
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
