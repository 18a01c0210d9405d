"""Encode messages and parts for a generateContent upstream.

Leading instructions go to `systemInstruction`, later ones become user content. Adjacent contents of one role are
merged. All tool results of a step are in one content, one per call, before anything else.
"""

from collections import deque
from collections.abc import Sequence

from msgspec import Raw
from msgspec import json as json_of

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream
from llmproxy_asgi.translators.custom_tools import wrapped_input
from llmproxy_asgi.translators.foreign_parts import describe_foreign_parts
from llmproxy_asgi.translators.gemini.mappings import RESOLUTIONS_OUT
from llmproxy_asgi.translators.gemini.message_decoder import is_google_file
from llmproxy_asgi.translators.gemini.reasoning import is_base64
from llmproxy_asgi.translators.gemini.response_encoder import bare_signature
from llmproxy_asgi.translators.gemini.schema import PLACEHOLDER_SIGNATURE, PROTOCOL
from llmproxy_asgi.translators.hosted_tools import tool_kind
from llmproxy_asgi.translators.instructions import FIRST_TURN
from llmproxy_asgi.translators.losses import Losses, unread
from llmproxy_asgi.translators.media import image_type
from llmproxy_asgi.translators.names import Renamer
from llmproxy_asgi.translators.pairing import arguments_raw, drop_empty, pair
from llmproxy_asgi.translators.seals import usable

_FETCHABLE = ("gs://", "https://generativelanguage.googleapis.com/", "https://www.youtube.com/", "https://youtu.be/")
"""Addresses that Google fetches."""
_PREFILL_PROTOCOLS = frozenset({PROTOCOL, "openai-chat"})
"""Protocols in which a last assistant message asks the model to continue it."""


class GeminiMessageEncoder:
    """The message encoder of one request; `system` and `contents` hold the encoded fields."""

    def __init__(self, request: ir.Request, upstream: Upstream, names: Renamer, losses: Losses) -> None:
        self._request = request
        self._upstream = upstream
        self._capabilities = upstream.capabilities
        self._names = names
        self._losses = losses
        self.system: list[JSONObject] = []
        self.contents: list[JSONObject] = []
        self._call_names: dict[str, str] = {}  # call id to name; calls precede their results
        self._role = "system"
        self.emulated: set[str] = set()
        """Upstream names of free-text tools that the conversation calls."""

    def write(self) -> None:
        """Encode the conversation.

        Raises:
            Unsupported: A part can't be expressed, or the model doesn't continue a trailing assistant message.
            BadRequest: A tool result matches no call.
        """
        paired = pair(drop_empty(self._request.messages, keep_sealed=True))
        self._losses.add(*paired.warnings)
        messages = paired.messages
        leading = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
        for message in messages[:leading]:
            self._warn_about_name(message)
            self.system += self._plain(message.parts)
        for message in messages[leading:]:
            self._warn_about_name(message)
            self._message(message)
        if not self.contents or self.contents[0]["role"] != "user":
            self._losses.add("emulated:first_user_turn")
            self.contents.insert(0, {"role": "user", "parts": [{"text": FIRST_TURN}]})
        self._check_end(messages)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _message(self, message: ir.Message) -> None:
        self._role = message.role
        match message.role:
            case "assistant":
                self._append("model", self._model_parts(message.parts))
            case "tool":
                self._results([part for part in message.parts if isinstance(part, ir.ToolResult)])
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

    def _check_end(self, messages: Sequence[ir.Message]) -> None:
        if not messages or messages[-1].role != "assistant":
            return
        continues = self._upstream.resuming or self._request.protocol in _PREFILL_PROTOCOLS
        if not (continues and self._capabilities.prefill):
            raise refusals.prefill(self._request.model)

    def _warn_about_name(self, message: ir.Message) -> None:
        if message.name:
            self._losses.add("dropped:name")

    def _plain(self, parts: Sequence[ir.Part]) -> list[JSONObject]:
        return [wire for part in parts if (wire := self._part(part)) is not None]

    def _model_parts(self, parts: Sequence[ir.Part]) -> list[JSONObject]:
        """Encode the model's parts; a signature without a part goes to the first call, else to the next text."""
        if len(parts) == 1 and type(parts[0]) is ir.Text and not parts[0].seals:
            return self._plain(parts)
        wire_parts: list[JSONObject] = []
        bare_signatures: deque[str] = deque()
        has_calls = any(isinstance(part, ir.ToolCall) for part in parts)
        call_seen = False
        stateful = any(self._is_usable(seal) for part in parts for seal in part.seals)
        for part in parts:
            signatures = self._signatures(part)
            if isinstance(part, ir.Reasoning):
                bare_signatures += signatures
                wire_parts += self._reasoning(part, is_sealed=bool(signatures), in_state=stateful and not part.seals)
                continue
            wire = self._part(part)
            if wire is None:
                continue
            deferred = has_calls and not isinstance(part, ir.ToolCall)
            signature = (
                signatures[0]
                if signatures
                else (bare_signatures.popleft() if bare_signatures and not deferred else None)
            )
            if isinstance(part, ir.ToolCall):
                # Newer models refuse a message whose first call has no signature; older ones need none.
                if signature is None and not call_seen and self._capabilities.thinking != "budget":
                    signature = PLACEHOLDER_SIGNATURE
                call_seen = True
            if signature is not None:
                wire["thoughtSignature"] = signature
            wire_parts.append(wire)
        return [*wire_parts, *map(bare_signature, bare_signatures)]

    def _signatures(self, part: ir.Part) -> list[str]:
        """Return the state on a part that this upstream can use."""
        signatures = [seal.data for seal in part.seals if self._is_usable(seal)]
        if len(signatures) < len(part.seals) and not isinstance(part, ir.Reasoning):
            self._losses.add("dropped:reasoning")
        return signatures

    def _is_usable(self, seal: ir.Seal) -> bool:
        return seal.kind in {"signature", "encrypted"} and is_base64(seal.data) and usable(seal, self._upstream)

    def _reasoning(self, part: ir.Reasoning, *, is_sealed: bool, in_state: bool) -> list[JSONObject]:
        """Encode reasoning; `in_state` means that the state on another part includes it."""
        if self._request.protocol == PROTOCOL and (is_sealed or not part.seals):
            return [{"text": part.text, "thought": True}] if part.text else []
        if not is_sealed and not in_state and (part.text or part.seals):
            self._losses.add("dropped:reasoning")
        return []

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _part(self, part: ir.Part) -> JSONObject | None:
        match part:
            case ir.Text(text=text) | ir.Refusal(text=text):
                return {"text": text, **part.extras.get(PROTOCOL, {})} if text or part.seals else None
            case ir.Media():
                return self._media(part)
            case ir.ToolCall():
                return {"functionCall": self._call(part)}
            case ir.Opaque(protocol="gemini", data=data):
                return dict(data)
            case ir.Opaque():
                self._losses.add(unread(part, self._role))
                return None
            case ir.ServerToolCall(tool=tool) | ir.ServerToolResult(tool=tool):
                self._losses.add(f"dropped:{tool_kind(tool)}")
                return None
            case ir.Reasoning() | ir.ToolResult():
                self._losses.add("dropped:reasoning")
                return None

    def _call(self, part: ir.ToolCall) -> JSONObject:
        name = self._call_names[part.call_id] = self._names.outward(part.name, part.namespace)
        arguments = part.arguments
        if part.kind == "custom":
            self.emulated.add(name)
            arguments = wrapped_input(arguments)
        return {"id": part.call_id, "name": name, "args": arguments_raw(arguments)}

    # ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _results(self, results: Sequence[ir.ToolResult]) -> None:
        moved_parts: list[JSONObject] = []
        parts: list[JSONObject] = []
        for result in results:
            texts: list[str] = []
            media: list[JSONObject] = []
            for inner in describe_foreign_parts(result, PROTOCOL, self._losses).content:
                if isinstance(inner, ir.Text):
                    texts.append(inner.text)
                elif (wire := self._part(inner)) is not None:
                    if set(wire) == {"text"}:
                        texts.append(wire["text"])
                    else:
                        media.append(wire)
            response: JSONObject = {
                "id": result.call_id,
                "name": self._call_names[result.call_id],
                "response": {"error" if result.is_error else "output": _result_value("\n".join(texts))},
            }
            if media and self._capabilities.tool_result_media:
                response["parts"] = media
            elif media:
                moved_parts += [{"text": f"[{result.call_id}]"}, *media]
            parts.append({"functionResponse": {**response, **result.extras.get(PROTOCOL, {})}})
        if parts:
            self.contents.append({"role": "user", "parts": parts})
        if moved_parts:
            self._losses.add("moved:tool_result_media")
            self.contents.append({"role": "user", "parts": moved_parts})

    # ── media ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _media(self, part: ir.Media) -> JSONObject:
        capabilities = self._capabilities
        if not {"image": capabilities.images, "document": capabilities.documents, "audio": capabilities.audio}.get(
            part.kind, True
        ):
            raise refusals.unsupported_input(self._request.model, part.kind)
        native = part.extras.get(PROTOCOL, {})
        detail: JSONObject = {}
        if part.detail is not None and part.detail in RESOLUTIONS_OUT:
            detail = {"mediaResolution": {"level": RESOLUTIONS_OUT[part.detail]}}
        match part.source:
            case ir.InlineData(data=data):
                return {"inlineData": {"mimeType": _media_type(part, data), "data": data}, **detail, **native}
            case ir.PlainText(text=text):
                self._losses.add("downgraded:document")
                return {"text": "\n\n".join([*filter(None, (part.title or part.name, part.context)), text])}
            case ir.StoredFile(protocol="gemini", id=address):
                return {"fileData": _file_data(address, part), **detail, **native}
            case ir.Link(url=address) if is_google_file(address) and not capabilities.stored:
                raise refusals.vendor_reference("messages")
            case ir.Link(url=address) if address.startswith(_FETCHABLE) or self._request.protocol == PROTOCOL:
                return {"fileData": _file_data(address, part), **detail, **native}
            case ir.Link():
                raise refusals.unsupported_url(self._request.model, part.kind)
            case ir.StoredFile():
                raise refusals.foreign_reference()


def _file_data(address: str, part: ir.Media) -> JSONObject:
    return {"fileUri": address, **({"mimeType": part.media_type} if part.media_type else {})}


def _media_type(part: ir.Media, data: str) -> str:
    if part.kind == "image":
        return image_type(data, part.media_type)
    return part.media_type or ("audio/wav" if part.kind == "audio" else "application/pdf")


def _result_value(text: str) -> Raw | str:
    """Return a result's text as raw JSON if it is a JSON value other than a string, else as text."""
    if text[:1] not in {"{", "[", "-", "t", "f", *"0123456789"}:
        return text  # also a quoted text, which would lose its quotes
    try:
        json_of.decode(text)
    except (ValueError, RecursionError):
        return text
    return Raw(text.encode())
