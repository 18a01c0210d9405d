"""Encode a request as Responses: the top level here, its input in `item_encoder`.

The encoder follows the model's capabilities and reports every loss. It refuses options that would make the response
wrong, and drops options that only tune it. Nothing is stored at the vendor: each request contains the complete
conversation. Equal requests have equal bytes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import Upstream, UpstreamRequest
from llmproxy_asgi.translators.codec.options import Encoding
from llmproxy_asgi.translators.extras import merge_extras
from llmproxy_asgi.translators.instructions import BETWEEN_TEXTS
from llmproxy_asgi.translators.losses import Losses, unsaid_extras
from llmproxy_asgi.translators.openai_responses.item_encoder import ResponsesItemEncoder
from llmproxy_asgi.translators.openai_responses.mappings import PROTOCOL, SOURCES, STATE
from llmproxy_asgi.translators.openai_responses.options import OPTIONS
from llmproxy_asgi.translators.openai_responses.tool_encoder import ResponsesToolEncoder

_MERGED = frozenset({"tool_choice", "reasoning", "include"})
"""Native fields that are merged into encoded fields instead of added."""


def encode_request(request: ir.Request, upstream: Upstream) -> UpstreamRequest:
    """Encode the request, with the renamed tools and ids that decoding its response needs."""
    return ResponsesRequestEncoder(request, upstream).encode()


class ResponsesRequestEncoder:
    """The encoder of one request."""

    def __init__(self, request: ir.Request, upstream: Upstream) -> None:
        self._request = request
        self._upstream = upstream
        self._can = upstream.capabilities
        self._losses = Losses()
        self._items = ResponsesItemEncoder(request, upstream, self._losses)
        self._tools = ResponsesToolEncoder(request, self._can, self._items.names, self._items.emulated, self._losses)
        self._own: Mapping[str, Any] = request.extras.get(PROTOCOL, {})
        self._body: JSONObject = {}

    def encode(self) -> UpstreamRequest:
        """Encode the request; raise `Unsupported` for options that the model cannot serve."""
        request, body = self._request, self._body
        self._refuse_impossible()
        tools = self._tools.encode()  # before the items, so that declared names stay unchanged
        items = self._items.encode()
        body["model"] = self._upstream.model
        if self._items.instructions is not None:
            body["instructions"] = self._items.instructions
        body["input"] = items
        if tools:
            body["tools"] = tools
        body |= self._tools.choose(tools)
        encoding = Encoding(request, self._can, self._losses)
        options = OPTIONS.encode(encoding)
        include = [*self._included(options), *options.pop("include", ()), *self._own.get("include", ())]
        body |= options
        if encoding.instruction:
            self._add_instruction(encoding.instruction, items)
        if request.extras:
            self._losses.add(*unsaid_extras(request, PROTOCOL))
            merge_extras(body, {key: value for key, value in self._own.items() if key not in _MERGED})
        if include:
            body["include"] = list(dict.fromkeys(include))
        if request.stream:
            body["stream"] = True
        return UpstreamRequest(
            body=msgspec.json.encode(body),
            stream=request.stream,
            warnings=self._losses.words,
            names=self._items.names.table,
            call_ids=self._items.call_ids.table,
            emulated=frozenset(self._items.emulated),
            stop=encoding.stop,
        )

    def _refuse_impossible(self) -> None:
        OPTIONS.refuse(self._request, self._can)
        for key in () if self._can.stored else ("conversation", "prompt", "background"):
            if self._own.get(key):
                raise refusals.no_stored_responses(key)

    def _included(self, options: JSONObject) -> Iterator[str]:
        """Yield what the response must contain for its reasoning to be sent back, and for its searches to be shown."""
        reasoning = options.get("reasoning", ir.EMPTY)
        if reasoning.get("effort", "none") != "none" or "summary" in reasoning or self._items.replays:
            yield STATE
        if self._tools.shows_sources:
            yield SOURCES

    def _add_instruction(self, line: str, items: list[JSONObject]) -> None:
        """Add an instruction after the leading ones."""
        leading = ("system", "developer")
        if not self._can.several_system:
            self._body["instructions"] = BETWEEN_TEXTS.join(filter(None, (self._items.instructions, line)))
            return
        index = next((n for n, each in enumerate(items) if each.get("role") not in leading), len(items))
        role = "developer" if self._can.developer_role else "system"
        instruction = {"type": "message", "role": role, "content": [{"type": "input_text", "text": line}]}
        items.insert(index, instruction)
