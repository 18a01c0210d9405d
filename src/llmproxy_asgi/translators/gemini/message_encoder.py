"""Turns and parts, written as Google takes them.

The instruction stands apart, what was said in its name later becomes the user's words. Neighbouring contents of one
role are one. All results of a step stand in one content, as many as there were calls, before anything else.
"""

from collections import deque
from collections.abc import Sequence

from msgspec import Raw
from msgspec import json as json_of

from llmproxy_asgi.conversation import (
    InlineData,
    JSONObject,
    Link,
    Media,
    Message,
    Opaque,
    Part,
    PlainText,
    Reasoning,
    Refusal,
    Request,
    Seal,
    ServerToolCall,
    ServerToolResult,
    StoredFile,
    Text,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.custom_tools import wrapped_input
from llmproxy_asgi.translators.gemini.mappings import RESOLUTIONS_OUT
from llmproxy_asgi.translators.gemini.message_decoder import is_own_file
from llmproxy_asgi.translators.gemini.reasoning import is_base64
from llmproxy_asgi.translators.gemini.response_encoder import bare_signature
from llmproxy_asgi.translators.gemini.schema import PROTOCOL, STAND_IN
from llmproxy_asgi.translators.hosted_tools import tool_kind
from llmproxy_asgi.translators.instructions import FIRST_TURN
from llmproxy_asgi.translators.losses import Losses, unread
from llmproxy_asgi.translators.media import picture_type
from llmproxy_asgi.translators.names import Renamer
from llmproxy_asgi.translators.pairing import arguments_raw, drop_empty, pair
from llmproxy_asgi.translators.seals import usable
from llmproxy_asgi.translators.told_parts import told_result

_FETCHED = ("gs://", "https://generativelanguage.googleapis.com/", "https://www.youtube.com/", "https://youtu.be/")
"""Addresses that Google reads by itself."""
_CONTINUES = frozenset({PROTOCOL, "openai-chat"})
"""Protocols in which a last word of the model's is one that may be repeated."""


class Contents:
    """Writes the conversation of one request: `system` and `contents` are Google's."""

    def __init__(self, request: Request, upstream: Upstream, names: Renamer, losses: Losses) -> None:
        self._request = request
        self._upstream = upstream
        self._can = upstream.capabilities
        self._names = names
        self._losses = losses
        self.system: list[JSONObject] = []
        self.contents: list[JSONObject] = []
        self._called: dict[str, str] = {}  # call id to the name that was called; each result has its call before it
        self._role = "system"
        self.emulated: set[str] = set()
        """Upstream names of free-text tools that were called before."""

    def write(self) -> None:
        """Write everything.

        Raises:
            Unsupported: A part cannot be expressed, or a trailing message of the model's would be said again.
            BadRequest: A result answers no call.
        """
        paired = pair(drop_empty(self._request.messages, keep_sealed=True))
        self._losses.add(*paired.warnings)
        messages = paired.messages
        leading = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
        for message in messages[:leading]:
            self._warn_of_name(message)
            self.system += self._plain(message.parts)
        for message in messages[leading:]:
            self._warn_of_name(message)
            self._turn(message)
        if not self.contents or self.contents[0]["role"] != "user":
            self._losses.add("emulated:first_user_turn")
            self.contents.insert(0, {"role": "user", "parts": [{"text": FIRST_TURN}]})
        self._check_end(messages)

    # ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _turn(self, message: Message) -> None:
        self._role = message.role
        match message.role:
            case "assistant":
                self._append("model", self._said(message.parts))
            case "tool":
                self._results([part for part in message.parts if isinstance(part, ToolResult)])
            case "system":
                self._losses.add("downgraded:system_message")
                self._append("user", self._plain(message.parts))
            case "user":
                self._append("user", self._plain(message.parts))

    def _append(self, role: str, parts: list[JSONObject]) -> None:
        if not parts:
            return
        if self.contents and self.contents[-1]["role"] == role:
            self.contents[-1]["parts"] += parts
        else:
            self.contents.append({"role": role, "parts": parts})

    def _check_end(self, messages: Sequence[Message]) -> None:
        if not messages or messages[-1].role != "assistant":
            return
        wanted = self._upstream.resuming or self._request.protocol in _CONTINUES
        if not (wanted and self._can.prefill):
            raise refusals.prefill(self._request.model)

    def _warn_of_name(self, message: Message) -> None:
        if message.name:
            self._losses.add("dropped:name")

    def _plain(self, parts: Sequence[Part]) -> list[JSONObject]:
        return [wire for part in parts if (wire := self._part(part)) is not None]

    def _said(self, parts: Sequence[Part]) -> list[JSONObject]:
        """What the model said; a loose signature stands where Google puts it: on the first call, else the next text."""
        if len(parts) == 1 and type(parts[0]) is Text and not parts[0].seals:
            return self._plain(parts)
        made: list[JSONObject] = []
        loose: deque[str] = deque()
        calls = any(isinstance(part, ToolCall) for part in parts)
        called = False
        stateful = any(self._opens(seal) for part in parts for seal in part.seals)
        for part in parts:
            own = self._signatures(part)
            if isinstance(part, Reasoning):
                loose += own
                made += self._thought(part, kept=bool(own), told=stateful and not part.seals)
                continue
            wire = self._part(part)
            if wire is None:
                continue
            waits = calls and not isinstance(part, ToolCall)
            signature = own[0] if own else (loose.popleft() if loose and not waits else None)
            if isinstance(part, ToolCall):
                # Older models want none, and newer ones refuse a turn whose first call has none.
                if signature is None and not called and self._can.thinking != "budget":
                    signature = STAND_IN
                called = True
            if signature is not None:
                wire["thoughtSignature"] = signature
            made.append(wire)
        return [*made, *map(bare_signature, loose)]

    def _signatures(self, part: Part) -> list[str]:
        """The state on a part that this upstream can open."""
        kept = [seal.data for seal in part.seals if self._opens(seal)]
        if len(kept) < len(part.seals) and not isinstance(part, Reasoning):
            self._losses.add("dropped:reasoning")
        return kept

    def _opens(self, seal: Seal) -> bool:
        return seal.kind in {"signature", "encrypted"} and is_base64(seal.data) and usable(seal, self._upstream)

    def _thought(self, part: Reasoning, *, kept: bool, told: bool) -> list[JSONObject]:
        """A thought as it goes back. `told`: what it came to is in the state that stands on another part."""
        if self._request.protocol == PROTOCOL and (kept or not part.seals):
            return [{"text": part.text, "thought": True}] if part.text else []
        if not kept and not told and (part.text or part.seals):
            self._losses.add("dropped:reasoning")
        return []

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _part(self, part: Part) -> JSONObject | None:
        match part:
            case Text(text=text) | Refusal(text=text):
                return {"text": text, **part.extras.get(PROTOCOL, {})} if text or part.seals else None
            case Media():
                return self._media(part)
            case ToolCall():
                return {"functionCall": self._call(part)}
            case Opaque(protocol="gemini", data=data):
                return dict(data)
            case Opaque():
                self._losses.add(unread(part, self._role))
                return None
            case ServerToolCall(tool=tool) | ServerToolResult(tool=tool):
                self._losses.add(f"dropped:{tool_kind(tool)}")
                return None
            case Reasoning() | ToolResult():
                self._losses.add("dropped:reasoning")
                return None

    def _call(self, part: ToolCall) -> JSONObject:
        name = self._called[part.call_id] = self._names.outward(part.name, part.namespace)
        arguments = part.arguments
        if part.kind == "custom":
            self.emulated.add(name)
            arguments = wrapped_input(arguments)
        return {"id": part.call_id, "name": name, "args": arguments_raw(arguments)}

    # ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _results(self, results: Sequence[ToolResult]) -> None:
        moved: list[JSONObject] = []
        parts: list[JSONObject] = []
        for result in results:
            words: list[str] = []
            media: list[JSONObject] = []
            for inner in told_result(result, PROTOCOL, self._losses).content:
                if isinstance(inner, Text):
                    words.append(inner.text)
                elif (wire := self._part(inner)) is not None:
                    if set(wire) == {"text"}:
                        words.append(wire["text"])
                    else:
                        media.append(wire)
            response: JSONObject = {
                "id": result.call_id,
                "name": self._called[result.call_id],
                "response": {"error" if result.is_error else "output": _value("\n".join(words))},
            }
            if media and self._can.tool_result_media:
                response["parts"] = media
            elif media:
                moved += [{"text": f"[{result.call_id}]"}, *media]
            parts.append({"functionResponse": {**response, **result.extras.get(PROTOCOL, {})}})
        if parts:
            self.contents.append({"role": "user", "parts": parts})
        if moved:
            self._losses.add("moved:tool_result_media")
            self.contents.append({"role": "user", "parts": moved})

    # ── media ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _media(self, part: Media) -> JSONObject:
        can = self._can
        if not {"image": can.images, "document": can.documents, "audio": can.audio}.get(part.kind, True):
            raise refusals.unsupported_input(self._request.model, part.kind)
        native = part.extras.get(PROTOCOL, {})
        detail: JSONObject = {}
        if part.detail is not None and part.detail in RESOLUTIONS_OUT:
            detail = {"mediaResolution": {"level": RESOLUTIONS_OUT[part.detail]}}
        match part.source:
            case InlineData(data=data):
                return {"inlineData": {"mimeType": _type_of(part, data), "data": data}, **detail, **native}
            case PlainText(text=text):
                self._losses.add("downgraded:document")
                return {"text": "\n\n".join([*filter(None, (part.title or part.name, part.context)), text])}
            case StoredFile(protocol="gemini", id=address):
                return {"fileData": _file(address, part), **detail, **native}
            case Link(url=address) if is_own_file(address) and not can.stored:
                raise refusals.vendor_reference("messages")
            case Link(url=address) if address.startswith(_FETCHED) or self._request.protocol == PROTOCOL:
                return {"fileData": _file(address, part), **detail, **native}
            case Link():
                raise refusals.unsupported_url(self._request.model, part.kind)
            case StoredFile():
                raise refusals.foreign_reference()


def _file(address: str, part: Media) -> JSONObject:
    return {"fileUri": address, **({"mimeType": part.media_type} if part.media_type else {})}


def _type_of(part: Media, data: str) -> str:
    if part.kind == "image":
        return picture_type(data, part.media_type)
    return part.media_type or ("audio/wav" if part.kind == "audio" else "application/pdf")


def _value(text: str) -> Raw | str:
    """A result's words as the value that they are, with their own spelling, or as words."""
    if text[:1] not in {"{", "[", "-", "t", "f", *"0123456789"}:
        return text  # a text, also one in quotes: that would lose them
    try:
        json_of.decode(text)
    except (ValueError, RecursionError):
        return text
    return Raw(text.encode())
