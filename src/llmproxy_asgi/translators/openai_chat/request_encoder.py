"""Encode a request as Chat Completions: the top level here, its messages in `message_encoder`.

The encoder follows the model's capabilities and reports every loss. It refuses options that would make the response
wrong, and drops options that only tune it. Equal requests have equal bytes.
"""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.options import Encoding
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.instructions import BETWEEN_TEXTS
from llmproxy_asgi.translators.losses import Losses, unsaid_extras
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.message_encoder import ChatMessageEncoder, JSONObject
from llmproxy_asgi.translators.openai_chat.options import OPTIONS
from llmproxy_asgi.translators.openai_chat.tool_encoder import ChatToolEncoder


def encode_request(request: ir.Request, upstream: Upstream) -> UpstreamRequest:
    """Encode the request, with the renamed tools and ids that decoding its response needs."""
    return ChatRequestEncoder(request, upstream).encode()


class ChatRequestEncoder:
    """The encoder of one request."""

    def __init__(self, request: ir.Request, upstream: Upstream) -> None:
        self._request = request
        self._upstream = upstream
        self._can = upstream.capabilities
        self._losses = Losses()
        self._messages = ChatMessageEncoder(request, upstream, self._losses)
        self._names = self._messages.names

    def encode(self) -> UpstreamRequest:
        """Encode the request; raise `Unsupported` for options that the model cannot serve."""
        request, can = self._request, self._can
        OPTIONS.refuse(request, can)
        tool_encoder = ChatToolEncoder(request, can, self._names, self._messages.emulated, self._losses)
        tools = tool_encoder.encode()  # before the messages, so that declared names stay unchanged
        messages = self._messages.encode()
        body: JSONObject = {"model": self._upstream.model, "messages": messages, **tools}
        body |= tool_encoder.choose(tools.get("tools", ()))
        encoding = Encoding(request, can, self._losses)
        body |= OPTIONS.encode(encoding)
        if encoding.instruction:
            self._add_instruction(encoding.instruction, messages)
        if request.extras:
            merge_extras(body, request.extras.get(PROTOCOL, ir.EMPTY))
            self._losses.add(*unsaid_extras(request, PROTOCOL))
        if request.stream:
            body["stream"] = True
            if self._can.stream_usage:
                body["stream_options"] = {"include_usage": True}
        return UpstreamRequest(
            body=msgspec.json.encode(body),
            stream=request.stream,
            warnings=self._losses.words,
            names=self._names.table,
            namespaces=self._names.namespaces,
            call_ids=self._messages.call_ids.table,
            emulated=frozenset(self._messages.emulated),
            stop=encoding.stop,
        )

    def _add_instruction(self, line: str, messages: list[JSONObject]) -> None:
        """Add an instruction after the leading ones."""
        leading = ("system", "developer")
        if not self._can.several_system and messages and messages[0]["role"] in leading:
            content = messages[0]["content"]
            added = BETWEEN_TEXTS + line if isinstance(content, str) else [{"type": "text", "text": line}]
            messages[0]["content"] = content + added
            return
        index = next((n for n, each in enumerate(messages) if each["role"] not in leading), len(messages))
        role = "developer" if self._can.developer_role else "system"
        messages.insert(index, {"role": role, "content": line})
