"""Encode messages as the input items of a Responses request.

The order is kept: a reasoning item is sent directly before the item it led to, or dropped. Item ids are sent if the
vendor accepts them; if reasoning is dropped, the ids of its message are as well, because the vendor would require it.
"""

import re
from collections.abc import Iterable
from typing import assert_never

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.foreign_parts import describe_foreign_parts
from llmproxy_asgi.translators.instructions import BETWEEN_TEXTS, FIRST_TURN, place_instructions
from llmproxy_asgi.translators.losses import Losses
from llmproxy_asgi.translators.media import decoded_text, image_type
from llmproxy_asgi.translators.names import CallIds, Renamer, derived
from llmproxy_asgi.translators.openai.encoding import MARK, flag_error, keep_last_marks, refuse_prefill
from llmproxy_asgi.translators.openai.mappings import encode_mark, kind_of
from llmproxy_asgi.translators.openai_responses.mappings import BETWEEN_SUMMARIES, PROTOCOL, legal_item_id
from llmproxy_asgi.translators.openai_responses.response_encoder import annotation, phase_of
from llmproxy_asgi.translators.pairing import drop_empty, pair
from llmproxy_asgi.translators.seals import usable

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_SAME_FILES = frozenset({"openai-responses", "openai-chat"})
"""Protocols that share file ids."""


class ResponsesItemEncoder:
    """The encoder of one request's input; `instructions` is the leading system text if it fits into one string."""

    def __init__(self, request: ir.Request, upstream: Upstream, losses: Losses) -> None:
        self._request = request
        self._upstream = upstream
        self._can = upstream.capabilities
        self._losses = losses
        self.names = Renamer.unchanged() if upstream.any_names else Renamer(NAME, 64)
        self.call_ids = CallIds()
        self.emulated: set[str] = set()
        """Upstream names of custom tools that are sent as functions."""
        self.instructions: str | None = None
        self.replays = False
        """Whether the items contain earlier reasoning."""
        self._marked: list[JSONObject] = []

    def encode(self) -> list[JSONObject]:
        """Encode the items in order."""
        paired = pair(drop_empty(self._request.messages))
        self._losses.add(*paired.warnings)
        messages = place_instructions(paired.messages, self._can, self._losses)
        refuse_prefill(messages, self._request, self._upstream, PROTOCOL)
        leading = next((n for n, message in enumerate(messages) if message.role != "system"), len(messages))
        if leading and self._fits_instructions(messages[0], alone=leading == 1):
            self.instructions = BETWEEN_TEXTS.join(part.text for part in messages[0].parts if isinstance(part, ir.Text))
        out: list[JSONObject] = []
        for message in messages[1:] if self.instructions is not None else messages:
            if message.name:
                self._losses.add("dropped:name")
            match message.role:
                case "system":
                    out += self._system(message)
                case "user":
                    out += self._plain("user", message)
                case "assistant":
                    out += self._assistant(message)
                case "tool":
                    out += [self._result(part) for part in message.parts if isinstance(part, ir.ToolResult)]
                case _:
                    assert_never(message.role)
        if not out and self.instructions is not None:  # the vendor refuses an empty input
            self._losses.add("emulated:first_user_turn")
            out = self._plain("user", ir.Message(role="user", parts=(ir.Text(text=FIRST_TURN),)))
        keep_last_marks(self._marked, self._losses)
        return out

    def _fits_instructions(self, message: ir.Message, *, alone: bool) -> bool:
        """Return whether the first system message can be the instructions string without a loss."""
        if message.authority is None and self._request.protocol == PROTOCOL:
            return True
        if not self._can.several_system:
            return all(isinstance(part, ir.Text) for part in message.parts)
        plain = len(message.parts) == 1 and isinstance(message.parts[0], ir.Text) and not message.parts[0].cache_mark
        return alone and plain and self._request.protocol in {"anthropic-messages", "gemini"}

    # ── instructions and user messages ───────────────────────────────────────────────────────────────────────────────

    def _system(self, message: ir.Message) -> list[JSONObject]:
        role = (message.authority or "developer") if self._can.developer_role else "system"
        return self._plain(role, message)

    def _plain(self, role: str, message: ir.Message) -> list[JSONObject]:
        items: list[JSONObject] = []
        content: list[JSONObject] = []
        for part in message.parts:
            if isinstance(part, ir.Opaque) and part.protocol == PROTOCOL and PROTOCOL not in part.extras:
                items.append(part.data)
            elif (entry := self._content(part)) is not None:
                content.append(entry)
        if not content:
            return items
        own = legal_item_id(message.id, "msg_")
        known = {"id": own} if own else {}
        return [*items, {"type": "message", **known, "role": role, "content": content}]

    # ── assistant messages ───────────────────────────────────────────────────────────────────────────────────────────

    def _assistant(self, message: ir.Message) -> list[JSONObject]:
        parts = message.parts
        reasoning = [part for part in parts if isinstance(part, ir.Reasoning)]
        kept = {id(part): item for part in reasoning if (item := self._reasoning(part)) is not None}
        followed = max(
            (n for n, part in enumerate(parts) if isinstance(part, ir.Text | ir.Refusal | ir.ToolCall)), default=-1
        )
        last = [part for part in parts[followed + 1 :] if id(part) in kept]
        for part in last:  # trailing reasoning without a following item is refused
            del kept[id(part)]
        if len(kept) < len(reasoning) or any(part.seals for part in parts if not isinstance(part, ir.Reasoning)):
            self._losses.add("dropped:reasoning")
        self.replays |= bool(kept)
        with_ids = len(kept) == len(reasoning)
        items: list[JSONObject] = []
        texts: list[ir.Text | ir.Refusal] = []
        for part in parts:
            if isinstance(part, ir.Text | ir.Refusal) and (not texts or _share_message(texts[-1], part)):
                texts.append(part)
                continue
            self._flush(texts, message, items, with_ids=with_ids)
            if isinstance(part, ir.Text | ir.Refusal):
                texts.append(part)
            elif isinstance(part, ir.Reasoning):
                items += [kept[id(part)]] if id(part) in kept else []
            else:
                items += self._other_items(part, with_ids=with_ids)
        self._flush(texts, message, items, with_ids=with_ids)
        return items

    def _flush(
        self, texts: list[ir.Text | ir.Refusal], message: ir.Message, items: list[JSONObject], *, with_ids: bool
    ) -> None:
        """Encode the collected texts as one message item."""
        if not texts:
            return
        content: list[JSONObject] = []
        for part in texts:
            if isinstance(part, ir.Refusal):
                content.append({"type": "refusal", "refusal": part.text})
            else:
                cited = [entry for each in part.citations if (entry := annotation(each, len(part.text)))]
                content.append({"type": "output_text", "text": part.text, "annotations": cited})
        item: JSONObject = {"type": "message", "role": "assistant", "content": content}
        own = legal_item_id(texts[0].id, "msg_") if with_ids else None
        if own:
            item |= {"id": own, "status": "completed"}
        phase = phase_of(texts[0]) or message.phase
        if phase:
            item["phase"] = phase
        items.append(item)
        texts.clear()

    def _reasoning(self, part: ir.Reasoning) -> JSONObject | None:
        """Encode earlier reasoning if the upstream can read it; it never becomes visible text."""
        found = next((seal for seal in part.seals if seal.kind == "encrypted" and usable(seal, self._upstream)), None)
        plain = part.style == "full" and PROTOCOL in part.extras
        if found is None and not (self._can.reasoning_content and part.text and not part.seals):
            return None
        native = (found.item_id if found else None) or part.id
        item: JSONObject = {
            "type": "reasoning",
            "id": legal_item_id(native, "rs_") or derived("rs_", found.data if found else part.text, size=40),
            "summary": [] if plain or not part.text else _summary(part),
        }
        if part.text and (plain or found is None):
            item["summary"] = []
            item["content"] = [{"type": "reasoning_text", "text": part.text}]
        if found is not None:
            item["encrypted_content"] = found.data
        return item

    def _other_items(self, part: ir.Part, *, with_ids: bool) -> list[JSONObject]:
        match part:
            case ir.ToolCall():
                return [self._call(part, with_ids=with_ids)]
            case ir.ServerToolCall() if PROTOCOL in part.extras:
                return [part.extras[PROTOCOL]]
            case ir.ServerToolResult() if any(PROTOCOL in each.extras for each in self._calls_of(part)):
                return []  # contained in its call
            case ir.Media(kind="image", source=ir.InlineData(data=data)) if PROTOCOL in part.extras and part.id:
                made = {**part.extras[PROTOCOL], "id": part.id, "status": "completed", "result": data}
                return [{"type": "image_generation_call", **made}]
            case ir.Opaque(protocol=protocol) if protocol == PROTOCOL:
                return [part.data]
            case _:
                self._losses.add(f"dropped:{kind_of(part)}")
                return []

    def _calls_of(self, result: ir.ServerToolResult) -> Iterable[ir.ServerToolCall]:
        return (
            part
            for message in self._request.messages
            for part in message.parts
            if isinstance(part, ir.ServerToolCall) and part.call_id == result.call_id
        )

    def _call(self, part: ir.ToolCall, *, with_ids: bool) -> JSONObject:
        call_id, name = self.call_ids.outward(part.call_id), self.names.outward(part.name)
        own = legal_item_id(part.id, "ctc_" if part.kind == "custom" else "fc_") if with_ids else None
        item: JSONObject = {"id": own} if own else {}
        if part.kind == "custom" and self._can.custom_tools:
            item |= {"type": "custom_tool_call", "call_id": call_id, "name": name, "input": part.arguments}
        else:
            arguments = part.arguments or "{}"
            if part.kind == "custom":
                self.emulated.add(name)
                arguments = msgspec.json.encode({"input": part.arguments}).decode()
            item |= {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
        if part.namespace is not None:
            item["namespace"] = part.namespace
        if part.caller is not None and PROTOCOL in part.extras:
            item["caller"] = part.caller
        return item

    def _result(self, part: ir.ToolResult) -> JSONObject:
        part = describe_foreign_parts(part, PROTOCOL, self._losses)
        entries = [entry for inner in part.content if (entry := self._content(inner)) is not None]
        if part.is_error:
            entries = flag_error(entries, "input_text")
        if part.cache_mark and entries:
            self._mark(entries[-1], part.cache_mark)
        custom = part.kind == "custom" and self._can.custom_tools
        return {
            "type": "custom_tool_call_output" if custom else "function_call_output",
            "call_id": self.call_ids.outward(part.call_id),
            "output": _output(entries),
        }

    # ── contents ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _content(self, part: ir.Part) -> JSONObject | None:
        match part:
            case ir.Text():
                return self._marked_entry({"type": "input_text", "text": part.text}, part.cache_mark)
            case ir.Media():
                return self._marked_entry(self._media(part), part.cache_mark)
            case ir.Refusal():
                return {"type": "input_text", "text": part.text}
            case ir.Opaque(protocol=protocol) if protocol == PROTOCOL:
                return part.data
            case _:
                self._losses.add(f"dropped:{kind_of(part)}")
                return None

    def _media(self, part: ir.Media) -> JSONObject:
        if part.kind == "image":
            return self._image(part)
        if part.kind == "document":
            return self._document(part)
        raise refusals.unsupported_input(self._request.model, part.kind)

    def _image(self, part: ir.Media) -> JSONObject:
        if not self._can.images:
            raise refusals.unsupported_input(self._request.model, "image")
        match part.source:
            case ir.InlineData(data=data):
                where = {"image_url": f"data:{image_type(data, part.media_type)};base64,{data}"}
            case ir.Link(url=url):
                where = {"image_url": url}
            case ir.StoredFile():
                where = self._stored(part.source)
            case _:
                raise refusals.unsupported_format(self._request.model, "image", "its data")
        return {"type": "input_image", **where, "detail": part.detail or "auto"}

    def _document(self, part: ir.Media) -> JSONObject:
        media_type = (part.media_type or "application/pdf").lower()
        name = part.name or part.title
        source = part.source
        if isinstance(source, ir.PlainText):
            return self._document_text(part, source.text)
        if isinstance(source, ir.InlineData) and media_type.startswith("text/") and self._request.protocol != PROTOCOL:
            words = decoded_text(source.data)
            if words is None:
                raise refusals.undecodable_document()
            return self._document_text(part, words)
        if not self._can.documents:
            raise refusals.unsupported_input(self._request.model, "document")
        match source:
            case ir.InlineData(data=data):
                where = {"filename": name or "document.pdf", "file_data": f"data:{media_type};base64,{data}"}
            case ir.Link(url=url):
                where = {"file_url": url}
            case ir.StoredFile():
                where = self._stored(source)
            case _:
                assert_never(source)
        return {"type": "input_file", **where}

    def _stored(self, source: ir.StoredFile) -> dict[str, str]:
        if source.protocol not in _SAME_FILES:
            raise refusals.foreign_reference()
        if not self._can.stored:
            raise refusals.vendor_reference("messages")
        return {"file_id": source.id}

    def _document_text(self, part: ir.Media, text: str) -> JSONObject:
        """Encode a document as text after its title."""
        self._losses.add("downgraded:document")
        heads = [head for head in (part.title or part.name, part.context) if head]
        return {"type": "input_text", "text": "\n\n".join([*heads, text])}

    # ── cache marks ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _marked_entry(self, entry: JSONObject, mark: ir.CacheMark | None) -> JSONObject:
        if mark is not None:
            self._mark(entry, mark)
        return entry

    def _mark(self, entry: JSONObject, mark: ir.CacheMark) -> None:
        if self._can.cache_marks:
            entry[MARK] = encode_mark(mark)
            self._marked.append(entry)


def _share_message(before: ir.Text | ir.Refusal, after: ir.Text | ir.Refusal) -> bool:
    """Return whether two texts are content parts of one message: equal ids and phases."""
    return before.id == after.id and phase_of(before) == phase_of(after)


def _summary(part: ir.Reasoning) -> list[JSONObject]:
    """Encode the summary in its original parts, if they are known and unchanged."""
    divided = part.extras.get(PROTOCOL, ir.EMPTY).get("summary")
    texts = divided if isinstance(divided, list) and BETWEEN_SUMMARIES.join(divided) == part.text else [part.text]
    return [{"type": "summary_text", "text": text} for text in texts]


def _output(entries: list[JSONObject]) -> str | list[JSONObject]:
    """Encode one plain text as a string, which all servers accept; other content as parts."""
    if not entries:
        return ""
    if len(entries) == 1 and entries[0].keys() == {"type", "text"}:
        return str(entries[0]["text"])
    return entries
