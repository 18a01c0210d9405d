"""Encode a stream for callers of Chat Completions: unnamed chunks, usage last, `[DONE]`.

The rules follow the behaviour of the official client's accumulator, which was tested: it appends strings, so role, call
ids and names are sent once; calls are numbered from 0 without gaps; objects in lists have an integer index or come in
one chunk only; a later chunk without usage erases it. Deltas are written from prefixes that are built once, because a
stream consists almost only of deltas.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, assert_never

import msgspec
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import InboundRequest, StreamEncoder
from llmproxy_asgi.translators.openai.errors import encode_error_object
from llmproxy_asgi.translators.openai.mappings import TIER_OUT
from llmproxy_asgi.translators.openai_chat.mappings import (
    answer_id,
    encode_annotation,
    encode_finish,
    encode_image,
    encode_logprobs,
    encode_usage,
)
from llmproxy_asgi.translators.openai_chat.reasoning import call_extras, seal_entry

_json = msgspec.json.encode
_DONE = b"data: [DONE]\n\n"


class _Call:
    """A call with its index in this stream."""

    __slots__ = ("call_id", "custom", "number", "written")

    def __init__(self, number: int, part: ir.ToolCall) -> None:
        self.number = number
        self.call_id = part.call_id
        self.custom = part.kind == "custom"
        self.written = False


class _Choice:
    """The state of one candidate."""

    __slots__ = (
        "annotations",
        "arguments",
        "calls",
        "details",
        "entries",
        "held",
        "images",
        "length",
        "media",
        "offsets",
        "open_text",
        "opened",
        "reasoning",
        "refused",
        "sealed",
        "summaries",
        "text",
    )

    def __init__(self, head: bytes, index: int) -> None:
        self.opened = head + b'{"index":%d,"delta":{' % index
        self.text = self.opened + b'"content":'
        self.reasoning = self.opened + b'"reasoning_content":'
        self.refused = False
        self.open_text = -1
        """The index of the open text part; others are held until it ends, because clients see one text."""
        self.held: dict[int, list[ir.PartStarted | ir.PartDelta | ir.PartEnded]] = {}
        self.length = 0
        """The text's length so far, in code points: annotations count from the message's start."""
        self.offsets: dict[int, int] = {}
        self.annotations: list[dict[str, Any]] = []
        self.calls: dict[int, _Call] = {}
        self.arguments: dict[int, bytes] = {}
        self.entries = 0
        self.details: dict[int, tuple[int, bytes]] = {}
        """The indexes and prefixes of unsealed reasoning entries, by part."""
        self.summaries: set[int] = set()
        self.sealed: set[int] = set()
        self.media: dict[int, tuple[ir.Media, list[str]]] = {}
        self.images = 0

    def entry(self) -> int:
        """Return the index of a new entry of `reasoning_details`."""
        self.entries += 1
        return self.entries - 1


class ChatStreamEncoder(StreamEncoder):
    """The encoder of one stream."""

    def __init__(self, inbound_request: InboundRequest) -> None:
        raw = inbound_request.raw
        self._model = inbound_request.model
        self._legacy = "functions" in raw and "tools" not in raw
        self._include_usage = inbound_request.include_usage
        self._tail = b',"usage":null}\n\n' if inbound_request.include_usage else b"}\n\n"
        self._delta_end = b'},"logprobs":null,"finish_reason":null}]' + self._tail
        self._call_end = (b"}" if self._legacy else b"}}]") + self._delta_end
        self._head = b""
        self._choices: dict[int, _Choice] = {}
        self._usage: ir.Usage | None = None
        self._over = False

    @override
    def feed(self, events: Sequence[ir.StreamEvent]) -> bytes:
        out: list[bytes] = []
        choices = self._choices
        for event in events:
            if type(event) is ir.PartDelta:
                delta = event.delta
                if type(delta) is ir.TextDelta:
                    choice = choices[event.candidate]
                    if choice.open_text == event.index:
                        self._write_text(choice, delta.text, out)
                        continue
                elif type(delta) is ir.ArgumentsDelta:
                    self._write_arguments(choices[event.candidate], event.index, delta.text, out)
                    continue
                elif type(delta) is ir.ReasoningDelta:
                    self._write_reasoning(choices[event.candidate], event.index, delta.text, out)
                    continue
            if self._over:
                break
            self._event(event, out)
        return out[0] if len(out) == 1 else b"".join(out)

    def _event(self, event: ir.StreamEvent, out: list[bytes]) -> None:
        match event:
            case ir.PartDelta() | ir.PartStarted() | ir.PartEnded():
                choice = self._choice(event.candidate, out)
                if event.index in choice.held:
                    choice.held[event.index].append(event)
                elif isinstance(event, ir.PartStarted) and isinstance(event.part, ir.Text) and choice.open_text >= 0:
                    choice.held[event.index] = [event]
                else:
                    self._part(choice, event, out)
            case ir.Started():
                self._start(event, out)
            case ir.UsageReported():
                self._usage = event.usage
            case ir.Finished():
                self._finish(event.candidate, event.finish, out)
            case ir.Failed():
                out.append(b"data: " + encode_error_object(event.error) + b"\n\n")
                self._over = True
            case ir.Ended():
                self._end(event, out)
            case ir.Passed():
                pass
            case _:
                assert_never(event)

    # ── lifecycle ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, event: ir.Started, out: list[bytes]) -> None:
        self._usage = event.usage
        self._head = self._open(event.id, event.created_at, event)
        self._choice(0, out)

    def _open(self, answer: str, created_at: datetime, event: ir.Started | None = None) -> bytes:
        head: dict[str, Any] = {
            "id": answer_id(answer, event.nonce if event else ""),
            "object": "chat.completion.chunk",
            "created": int(created_at.timestamp()),
            "model": self._model or (event.model if event else ""),
        }
        if event is not None and event.service_tier is not None and event.service_tier in TIER_OUT:
            head["service_tier"] = TIER_OUT[event.service_tier]
        return b"data: " + _json(head)[:-1] + b',"choices":['

    def _choice(self, index: int, out: list[bytes]) -> _Choice:
        """Return a candidate's state; write the role first, and index 0 first, as the official client needs."""
        found = self._choices.get(index)
        if found is not None:
            return found
        if not self._head:
            self._head = self._open("", datetime.fromtimestamp(0, UTC))
        if index and 0 not in self._choices:
            self._choice(0, out)
        choice = self._choices[index] = _Choice(self._head, index)
        out.append(choice.opened + b'"role":"assistant","content":""' + self._delta_end)
        return choice

    def _finish(self, candidate: int, finish: ir.Finish, out: list[bytes]) -> None:
        choice = self._choice(candidate, out)
        if finish.reason is ir.FinishReason.REFUSAL and finish.message and not (choice.length or choice.refused):
            self._write(choice, b'"refusal":' + _json(finish.message), out)
            choice.refused = True
        if choice.annotations:
            self._write(choice, b'"annotations":' + _json(choice.annotations), out)
        word = encode_finish(finish.reason, refused=choice.refused, legacy=self._legacy)
        out.append(choice.opened + b'},"logprobs":null,"finish_reason":"' + word.encode() + b'"}]' + self._tail)

    def _end(self, event: ir.Ended, out: list[bytes]) -> None:
        self._over = True
        if self._include_usage and self._usage is not None:
            tier = b""
            if (
                event.service_tier is not None
                and event.service_tier in TIER_OUT
                and b'"service_tier":' not in self._head
            ):
                tier = b',"service_tier":' + _json(TIER_OUT[event.service_tier])
            out.append(self._head + b'],"usage":' + _json(encode_usage(self._usage)) + tier + b"}\n\n")
        out.append(_DONE)

    def _write(self, choice: _Choice, fields: bytes, out: list[bytes]) -> None:
        out.append(choice.opened + fields + self._delta_end)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _part(self, choice: _Choice, event: ir.PartStarted | ir.PartDelta | ir.PartEnded, out: list[bytes]) -> None:
        match event:
            case ir.PartStarted():
                self._start_part(choice, event.index, event.part, out)
            case ir.PartDelta():
                self._write_delta(choice, event.index, event.delta, out)
            case ir.PartEnded():
                self._end_part(choice, event.index, event.part, out)
                if event.index == choice.open_text:
                    choice.open_text = -1
                    self._resume_held(choice, out)
            case _:
                assert_never(event)

    def _resume_held(self, choice: _Choice, out: list[bytes]) -> None:
        """Write the events of the text part that was held first."""
        waiting = next(iter(choice.held), None)
        if waiting is not None:
            for event in choice.held.pop(waiting):
                self._part(choice, event, out)

    def _start_part(self, choice: _Choice, index: int, part: ir.Part, out: list[bytes]) -> None:
        match part:
            case ir.Text():
                choice.open_text = index
                choice.offsets[index] = choice.length
                self._write_text(choice, part.text, out)
                self._add_citations(choice, index, part.citations)
            case ir.Reasoning():
                if part.style == "summary":
                    choice.summaries.add(index)
                self._write_reasoning(choice, index, part.text, out)
            case ir.Refusal():
                self._write_refusal(choice, part.text, out)
            case ir.ToolCall():
                self._start_call(choice, index, part, out)
                return
            case ir.Media():
                choice.media[index] = (part, [])
            case ir.ServerToolCall() | ir.ServerToolResult() | ir.ToolResult() | ir.Opaque():
                return
            case _:
                assert_never(part)
        self._write_seals(choice, index, part.seals, out)

    def _write_delta(self, choice: _Choice, index: int, delta: ir.Delta, out: list[bytes]) -> None:
        match delta:
            case ir.ReasoningDelta():
                self._write_reasoning(choice, index, delta.text, out)
            case ir.RefusalDelta():
                self._write_refusal(choice, delta.text, out)
            case ir.SealDelta():
                self._write_late_seal(choice, index, delta.seal, out)
            case ir.CitationDelta():
                self._add_citations(choice, index, (delta.citation,))
            case ir.LogprobsDelta():
                fields = b'},"logprobs":' + _json(encode_logprobs(delta.tokens)) + b',"finish_reason":null}]'
                out.append(choice.opened + fields + self._tail)
            case ir.MediaDelta():
                self._write_media(choice, index, delta, out)
            case ir.TextDelta():
                self._write_text(choice, delta.text, out)
            case ir.ArgumentsDelta():
                self._write_arguments(choice, index, delta.text, out)
            case _:
                assert_never(delta)

    def _end_part(self, choice: _Choice, index: int, part: ir.Part | None, out: list[bytes]) -> None:
        if index in choice.calls:
            self._end_call(choice, index, part, out)
        elif index in choice.media:
            self._end_media(choice, index, part, out)
        elif isinstance(part, ir.Text) and choice.length == choice.offsets.get(index):
            self._write_text(choice, part.text, out)
        elif isinstance(part, ir.Reasoning) and index not in choice.details and index not in choice.sealed:
            self._write_reasoning(choice, index, part.text, out)
        if part is not None and part.seals and index not in choice.sealed:
            for seal in part.seals:
                self._write_late_seal(choice, index, seal, out)

    def _write_text(self, choice: _Choice, text: str, out: list[bytes]) -> None:
        if text:
            choice.length += len(text)
            out.append(choice.text + _json(text) + self._delta_end)

    def _write_refusal(self, choice: _Choice, text: str, out: list[bytes]) -> None:
        choice.refused = True
        if text:
            self._write(choice, b'"refusal":' + _json(text), out)

    def _add_citations(self, choice: _Choice, index: int, citations: Sequence[ir.Citation]) -> None:
        for citation in citations:
            entry = encode_annotation(citation, choice.offsets.get(index, 0), choice.length)
            if entry is not None:
                choice.annotations.append(entry)

    # ── images and audio ─────────────────────────────────────────────────────────────────────────────────────────────

    def _write_media(self, choice: _Choice, index: int, delta: ir.MediaDelta, out: list[bytes]) -> None:
        """Write a delta of audio; collect those of an image, which clients need complete."""
        head, pieces = choice.media[index]
        pieces.append(delta.data)
        if head.kind == "audio":
            audio = {"id": head.id, "data": delta.data, "transcript": delta.transcript}
            if len(pieces) > 1:
                del audio["id"]  # once: the client appends strings
            self._write(choice, b'"audio":' + _json({key: value for key, value in audio.items() if value}), out)

    def _end_media(self, choice: _Choice, index: int, part: ir.Part | None, out: list[bytes]) -> None:
        head, pieces = choice.media[index]
        media = part if isinstance(part, ir.Media) else head
        source = media.source
        if pieces and not (isinstance(source, ir.InlineData) and source.data):
            source = ir.InlineData(data="".join(pieces))
        if media.kind == "image":
            choice.images += 1
            entry = encode_image(media, source, choice.images - 1)
            self._write(choice, b'"images":[' + _json(entry) + b"]", out)
        elif media.kind == "audio" and not pieces and isinstance(source, ir.InlineData):
            audio = {"id": media.id, "data": source.data, "transcript": media.transcript}
            self._write(choice, b'"audio":' + _json({key: value for key, value in audio.items() if value}), out)

    # ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _write_reasoning(self, choice: _Choice, index: int, text: str, out: list[bytes]) -> None:
        """Write reasoning under both names that clients read, and by part for those that send it back."""
        if not text:
            return
        if index in choice.details:
            entry = choice.details[index]
        else:
            field = "summary" if index in choice.summaries else "text"
            number = choice.entry()
            between = b',"reasoning_details":[{"index":%d,"type":"reasoning.%b","%b":'
            entry = choice.details[index] = (number, between % (number, field.encode(), field.encode()))
        encoded = _json(text)
        out += (choice.reasoning, encoded, b',"reasoning":', encoded, entry[1], encoded, b"}]", self._delta_end)

    def _write_seals(self, choice: _Choice, index: int, seals: Sequence[ir.Seal], out: list[bytes]) -> None:
        call = choice.calls.get(index)
        for seal in seals:
            choice.sealed.add(index)
            open_entry = choice.details.pop(index, None) if seal.kind == "signature" else None
            field = ("summary" if index in choice.summaries else "text") if open_entry is not None else None
            number = open_entry[0] if open_entry is not None else choice.entry()
            entry = seal_entry(seal, number, continues=field, call_id=call.call_id if call else None)
            self._write(choice, b'"reasoning_details":[' + _json(entry) + b"]", out)

    def _write_late_seal(self, choice: _Choice, index: int, seal: ir.Seal, out: list[bytes]) -> None:
        """Write a seal that arrived after its part's start."""
        call = choice.calls.get(index)
        extra = call_extras((seal,)) if call is not None and not call.custom and not self._legacy else None
        if call is not None and extra is not None:
            # The official client needs a function in each delta of a function call.
            entry = {"index": call.number, "function": {"arguments": ""}, "extra_content": extra}
            self._write(choice, b'"tool_calls":[' + _json(entry) + b"]", out)
        self._write_seals(choice, index, (seal,), out)

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_call(self, choice: _Choice, index: int, part: ir.ToolCall, out: list[bytes]) -> None:
        call = choice.calls[index] = _Call(len(choice.calls), part)
        if self._legacy:
            self._write(choice, b'"function_call":' + _json({"name": part.name, "arguments": ""}), out)
            choice.arguments[index] = choice.opened + b'"function_call":{"arguments":'
        else:
            kind = "custom" if call.custom else "function"
            field = "input" if call.custom else "arguments"
            head: dict[str, Any] = {
                "index": call.number,
                "id": part.call_id,
                "type": kind,
                kind: {"name": part.name, field: ""},
            }
            extra = call_extras(part.seals)
            if extra is not None:
                head["extra_content"] = extra
            self._write(choice, b'"tool_calls":[' + _json(head) + b"]", out)
            prefix = b'"tool_calls":[{"index":%d,"%b":{"%b":' % (call.number, kind.encode(), field.encode())
            choice.arguments[index] = choice.opened + prefix
        self._write_seals(choice, index, part.seals, out)
        self._write_arguments(choice, index, part.arguments, out)

    def _write_arguments(self, choice: _Choice, index: int, text: str, out: list[bytes]) -> None:
        call = choice.calls.get(index)
        if text and call is not None:  # else a server tool's call, which this protocol can't express
            call.written = True
            out.append(choice.arguments[index] + _json(text) + self._call_end)

    def _end_call(self, choice: _Choice, index: int, part: ir.Part | None, out: list[bytes]) -> None:
        call = choice.calls[index]
        if not call.written and isinstance(part, ir.ToolCall):
            self._write_arguments(choice, index, part.arguments, out)
        if not call.written and not call.custom:
            self._write_arguments(choice, index, "{}", out)
