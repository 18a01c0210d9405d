"""Encode the messages of a Chat Completions request.

Content that this protocol can't express is moved (media of tool results into a user message after all results),
written as text (an error flag, a plain-text document) or refused; each with a warning.
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard, assert_never

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.capabilities import Capabilities
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.foreign_parts import describe_foreign_parts
from llmproxy_asgi.translators.instructions import BETWEEN_TEXTS, place_instructions
from llmproxy_asgi.translators.losses import Losses, unread
from llmproxy_asgi.translators.media import image_type
from llmproxy_asgi.translators.names import CallIds, Renamer
from llmproxy_asgi.translators.openai.encoding import MARK, flag_error, keep_last_marks, refuse_prefill
from llmproxy_asgi.translators.openai.mappings import NATIVE_ISSUER, encode_mark, kind_of
from llmproxy_asgi.translators.openai_chat.mappings import AUDIO_FORMATS, PROTOCOL
from llmproxy_asgi.translators.openai_chat.reasoning import GOOGLE_ISSUER
from llmproxy_asgi.translators.pairing import pair
from llmproxy_asgi.translators.seals import usable

_LOST_REASONING = " "
"""Replaces lost reasoning for upstreams that require it; they refuse an empty string as well."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TEXT = frozenset({"type", "text"})
"""The keys of a plain text part."""


JSONObject = dict[str, Any]


class ChatMessageEncoder:
    """The encoder of one request's messages."""

    def __init__(self, request: ir.Request, upstream: Upstream, losses: Losses) -> None:
        self._request = request
        self._upstream = upstream
        self._can: Capabilities = upstream.capabilities
        self._losses = losses
        self.names = Renamer.unchanged() if upstream.any_names else Renamer(NAME, 64)
        self.call_ids = CallIds()
        self.emulated: set[str] = set()
        """Upstream names of custom tools that are sent as functions."""
        self._marked: list[JSONObject] = []

    def encode(self) -> list[JSONObject]:
        """Encode the messages in order."""
        paired = pair(self._request.messages)
        self._losses.add(*paired.warnings)
        messages = place_instructions(paired.messages, self._can, self._losses)
        refuse_prefill(messages, self._request, self._upstream, PROTOCOL)
        out: list[JSONObject] = []
        for message in messages:
            match message.role:
                case "system":
                    out += self._system(message)
                case "user":
                    out += self._user(message)
                case "assistant":
                    out += self._assistant(message)
                case "tool":
                    out += self._tool(message)
                case _:
                    assert_never(message.role)
        keep_last_marks(self._marked, self._losses)
        return out

    # ── roles ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _system(self, message: ir.Message) -> list[JSONObject]:
        role = (message.authority or "developer") if self._can.developer_role else "system"
        return self._plain(role, message)

    def _user(self, message: ir.Message) -> list[JSONObject]:
        return self._plain("user", message)

    def _plain(self, role: str, message: ir.Message) -> list[JSONObject]:
        if (text := _only_text(message)) is not None:
            return [self._named({"role": role, "content": text}, message)]
        entries = [entry for part in message.parts if (entry := self._part(part)) is not None]
        if not entries:
            return []
        encoded: JSONObject = {"role": role, "content": self._content(entries)}
        return [self._named(encoded, message)]

    def _named(self, encoded: JSONObject, message: ir.Message) -> JSONObject:
        if message.name:
            encoded["name"] = message.name
        return encoded

    def _assistant(self, message: ir.Message) -> list[JSONObject]:
        if (text := _only_text(message)) is not None:
            return [self._named({"role": "assistant", "content": text}, message)]
        parts = message.parts
        texts = [entry for part in parts if isinstance(part, ir.Text) and (entry := self._part(part)) is not None]
        refusals = [part.text for part in parts if isinstance(part, ir.Refusal)]
        calls = [self._call(part) for part in parts if isinstance(part, ir.ToolCall)]
        audio = next((part.data for part in parts if _is_own_audio(part)), None)
        for part in parts:
            if isinstance(part, ir.Media | ir.ServerToolCall | ir.ServerToolResult | ir.Opaque) and not _is_own_audio(
                part
            ):
                self._losses.add(
                    unread(part, "assistant") if isinstance(part, ir.Opaque) else f"dropped:{kind_of(part)}"
                )
        encoded: JSONObject = {"role": "assistant"}
        self._add_reasoning(encoded, [part for part in parts if isinstance(part, ir.Reasoning)])
        if not (texts or refusals or calls or audio or len(encoded) > 1):
            return []
        encoded["content"] = _text_content(texts)
        if refusals:
            encoded["refusal"] = "".join(refusals)
        if audio is not None:
            encoded["audio"] = audio
        if calls:
            encoded["tool_calls"] = calls
            if self._can.needs_reasoning_content:
                encoded.setdefault("reasoning_content", _LOST_REASONING)
        return [self._named(encoded, message)]

    def _tool(self, message: ir.Message) -> list[JSONObject]:
        out: list[JSONObject] = []
        moved: list[JSONObject] = []
        for part in message.parts:
            if not isinstance(part, ir.ToolResult):
                continue
            part = describe_foreign_parts(part, PROTOCOL, self._losses)  # noqa: PLW2901  the same result
            call_id = self.call_ids.outward(part.call_id)
            entries: list[JSONObject] = []
            media: list[JSONObject] = []
            for inner in part.content:
                entry = self._part(inner)
                if entry is not None:
                    (entries if entry["type"] == "text" else media).append(entry)
            if part.is_error:
                entries = flag_error(entries, "text")
            if part.cache_mark and entries:
                self._marked_entry(entries[-1], part.cache_mark)
            out.append({"role": "tool", "tool_call_id": call_id, "content": self._content(entries) if entries else ""})
            if media:
                moved += [{"type": "text", "text": f"[{call_id}]"}, *media]
        if moved:
            self._losses.add("moved:tool_result_media")
            out.append({"role": "user", "content": moved})
        return out

    def _content(self, entries: list[JSONObject]) -> str | list[JSONObject]:
        """Encode one plain text as a string, which all servers accept; several if the model takes no text parts."""
        if len(entries) == 1:
            return entries[0]["text"] if entries[0].keys() == _TEXT else entries
        if not self._can.text_parts and all(entry.keys() == _TEXT for entry in entries):
            return BETWEEN_TEXTS.join(entry["text"] for entry in entries)
        return entries

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _part(self, part: ir.Part) -> JSONObject | None:
        match part:
            case ir.Text():
                return self._marked_entry({"type": "text", "text": part.text}, part.cache_mark) if part.text else None
            case ir.Media():
                return self._marked_entry(self._media(part), part.cache_mark)
            case ir.Refusal():
                return {"type": "text", "text": part.text}
            case ir.Opaque(protocol="openai-chat"):
                return part.data
            case ir.Opaque():
                self._losses.add(unread(part, "user"))
                return None
            case _:
                self._losses.add(f"dropped:{kind_of(part)}")
                return None

    def _media(self, part: ir.Media) -> JSONObject:
        match part.kind:
            case "image":
                return self._image(part)
            case "audio":
                return self._audio(part)
            case "document":
                return self._document(part)
            case "video":
                raise refusals.unsupported_input(self._request.model, "video")
            case _:
                assert_never(part.kind)

    def _image(self, part: ir.Media) -> JSONObject:
        if not self._can.images:
            raise refusals.unsupported_input(self._request.model, "image")
        match part.source:
            case ir.InlineData(data=data):
                url = f"data:{image_type(data, part.media_type)};base64,{data}"
            case ir.Link(url=url):
                pass
            case ir.StoredFile():
                raise refusals.foreign_reference()
            case ir.PlainText():
                raise refusals.unsupported_format(self._request.model, "image", "its data")
            case _:
                assert_never(part.source)
        image = {"url": url}
        if part.detail:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}

    def _audio(self, part: ir.Media) -> JSONObject:
        word = AUDIO_FORMATS.get((part.media_type or "").partition(";")[0].lower())
        if not self._can.audio:
            raise refusals.unsupported_input(self._request.model, "audio")
        if word is None or not isinstance(part.source, ir.InlineData):
            raise refusals.unsupported_format(self._request.model, "audio", "inline WAV or MP3")
        return {"type": "input_audio", "input_audio": {"data": part.source.data, "format": word}}

    def _document(self, part: ir.Media) -> JSONObject:
        media_type = (part.media_type or "application/pdf").lower()
        match part.source:
            case ir.PlainText(text=text):
                return self._document_text(part, text)
            case ir.InlineData(data=data) if media_type.startswith("text/"):
                return self._document_text(part, _text_of(data))
            case ir.InlineData(data=data) if self._can.documents:
                name = part.name or part.title or "document.pdf"
                url = f"data:{media_type};base64,{data}"
                return {"type": "file", "file": {"filename": name, "file_data": url}}
            case ir.StoredFile(protocol="openai-chat", id=stored):
                return {"type": "file", "file": {"file_id": stored}}
            case ir.Link():
                raise refusals.unsupported_url(self._request.model, "document")
            case ir.StoredFile():
                raise refusals.foreign_reference()
            case _:
                raise refusals.unsupported_input(self._request.model, "document")

    def _document_text(self, part: ir.Media, text: str) -> JSONObject:
        """Encode a document as text after its title."""
        self._losses.add("downgraded:document")
        heads = [head for head in (part.title or part.name, part.context) if head]
        return {"type": "text", "text": "\n\n".join([*heads, text])}

    # ── reasoning and calls ──────────────────────────────────────────────────────────────────────────────────────────

    def _add_reasoning(self, encoded: JSONObject, reasoning: Iterable[ir.Reasoning]) -> None:
        """Add earlier reasoning if the upstream can read it; it never becomes visible text."""
        readable: list[str] = []
        details: list[JSONObject] = []
        for part in reasoning:
            kept = self._kept(part)
            if not kept and (part.seals or not self._can.reasoning_content):
                self._losses.add("dropped:reasoning")
                continue
            if self._can.reasoning_content and part.text:
                readable.append(part.text)
            if kept:
                details += _details(part, kept, len(details))
        if readable:
            encoded["reasoning_content"] = "".join(readable)
        if details:
            encoded["reasoning_details"] = details

    def _kept(self, part: ir.Reasoning | ir.ToolCall) -> list[Any]:
        if self._upstream.issuer == NATIVE_ISSUER:  # the vendor has no field for state
            return []
        kept = [seal for seal in part.seals if usable(seal, self._upstream)]
        if self._upstream.issuer == GOOGLE_ISSUER and isinstance(part, ir.Reasoning):
            return []  # its calls contain the state
        return kept

    def _call(self, part: ir.ToolCall) -> JSONObject:
        name = self.names.outward(part.name, part.namespace)
        call_id = self.call_ids.outward(part.call_id)
        if part.kind == "custom" and self._can.custom_tools:
            return {"id": call_id, "type": "custom", "custom": {"name": name, "input": part.arguments}}
        arguments = part.arguments or "{}"
        if part.kind == "custom":
            self.emulated.add(name)
            arguments = msgspec.json.encode({"input": part.arguments}).decode()
        encoded: JSONObject = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        kept = self._kept(part)
        if kept:
            encoded["extra_content"] = {"google": {"thought_signature": kept[0].data}}
        return encoded

    # ── cache marks ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _marked_entry(self, entry: JSONObject, mark: ir.CacheMark | None) -> JSONObject:
        if mark is None or not self._can.cache_marks:
            return entry
        entry[MARK] = encode_mark(mark)
        self._marked.append(entry)
        return entry


def _only_text(message: ir.Message) -> str | None:
    """Return the text of a message that is one plain text, as most are; None for others."""
    if len(message.parts) != 1:
        return None
    part = message.parts[0]
    return part.text or None if isinstance(part, ir.Text) and part.cache_mark is None else None


def _text_content(texts: list[JSONObject]) -> str | list[JSONObject] | None:
    """Encode texts of the model: one string if all of them are plain."""
    if not texts:
        return None
    if all(entry.keys() == _TEXT for entry in texts):
        return "".join(entry["text"] for entry in texts)
    return texts


def _details(part: ir.Reasoning, kept: Sequence[Any], start: int) -> list[JSONObject]:
    """Encode reasoning in its issuer's form, with unwrapped data."""
    field = "summary" if part.style == "summary" else "text"
    entries: list[JSONObject] = []
    if part.text:
        entries.append({"type": f"reasoning.{field}", field: part.text})
    for seal in kept:
        if seal.kind == "signature":
            if not entries or "signature" in entries[-1] or "data" in entries[-1]:
                entries.append({"type": "reasoning.text", "text": ""})
            entries[-1] |= {"signature": seal.data, **_form(seal)}
        else:
            entry = {"type": "reasoning.encrypted", "data": seal.data, **_form(seal)}
            entries.append({**entry, "id": seal.item_id} if seal.item_id else entry)
    return [{"index": start + number, **entry} for number, entry in enumerate(entries)]


def _form(seal: ir.Seal) -> JSONObject:
    return {"format": seal.format} if seal.format else {}


def _is_own_audio(part: ir.Part) -> TypeGuard[ir.Opaque]:
    """Return whether this is audio that the upstream generated and references by id."""
    return isinstance(part, ir.Opaque) and part.protocol == PROTOCOL and part.kind == "audio"


def _text_of(data: str) -> str:
    try:
        return b64decode(data).decode("utf-8", errors="replace")
    except ValueError:
        raise refusals.undecodable_document() from None
