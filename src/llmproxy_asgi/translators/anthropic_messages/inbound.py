"""Serve Anthropic's Messages protocol: decode callers' requests and encode their responses.

Source: Anthropic's Python SDK 2.11.0 (types, stream accumulator, error classes) and public documentation, read
2026-11-21. `open` reads only the top level and is strict there, so that a wrong type is a clear 400 of the gateway
also for requests that pass through.
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec
from msgspec import Raw
from typing_extensions import override

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import BadRequest, GatewayError
from llmproxy_asgi.translators.anthropic_messages import listing
from llmproxy_asgi.translators.anthropic_messages.errors import encode_problem
from llmproxy_asgi.translators.anthropic_messages.options import OPTIONS
from llmproxy_asgi.translators.anthropic_messages.request_decoder import decode_request
from llmproxy_asgi.translators.anthropic_messages.response_encoder import encode_response
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL
from llmproxy_asgi.translators.anthropic_messages.stream_encoder import MessagesStreamEncoder
from llmproxy_asgi.translators.base import Headers, Inbound, InboundRequest, Problem, StreamEncoder
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.outline import Counted, Outline
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds

_HEADER_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_FIRST_BYTES = {
    "messages": (b"[", "an array"),
    "tools": (b"[", "an array"),
    "stop_sequences": (b"[", "an array"),
    "system": (b'["', "a string or an array"),
    "thinking": (b"{", "an object"),
    "output_config": (b"{", "an object"),
    "tool_choice": (b"{", "an object"),
    "metadata": (b"{", "an object"),
    "cache_control": (b"{", "an object"),
    "temperature": (b"-0123456789", "a number"),
    "top_p": (b"-0123456789", "a number"),
    "top_k": (b"-0123456789", "a number"),
}
_FIELD_NAMES = """
    output_format container context_management mcp_servers thread compaction fallbacks fallback_credit_token
    inference_geo diagnostics user_profile_id workspace_id billing_policy betas
"""
"""The other request fields of the anthropic Python SDK 2.11.0, including beta."""
OUTLINE = Outline(OPTIONS.known.union(_FIELD_NAMES.split()), Counted("messages", "messages"), Counted("tools", "tools"))
_NULL = ord("n")

SPELLING = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "reasoning": "thinking",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
"""Common field names to this protocol's names."""


class MessagesInbound(Inbound):
    """The codec half for callers."""

    protocol: ClassVar[str] = PROTOCOL
    keepalive: ClassVar[bytes] = b'event: ping\ndata: {"type": "ping"}\n\n'
    spelling = SPELLING
    request_id_header: ClassVar[bytes | None] = b"request-id"
    output_limits: ClassVar[tuple[str, ...]] = ("max_tokens",)

    @override
    def open(
        self, body: bytes, *, headers: Headers, path: Mapping[str, str] = ir.EMPTY, bounds: Bounds = DEFAULT_BOUNDS
    ) -> InboundRequest:
        raw, values = OUTLINE.open(body, bounds)
        _check_types(raw)
        model, stream = Node.of(raw, "model"), Node.of(raw, "stream")
        _check_max_tokens(raw, path)
        if "messages" not in raw:
            raise missing("messages")
        return InboundRequest(
            protocol=PROTOCOL,
            model=model.text() if model else "",
            stream=stream.boolean() if stream else False,
            raw=raw,
            size=len(body),
            values=values,
            version=_version(headers.get("anthropic-version")),
            betas=_betas(headers.get("anthropic-beta")),
            path=path,
        )

    @override
    def decode(self, inbound_request: InboundRequest) -> ir.Request:
        return decode_request(inbound_request)

    @override
    def encode(self, response: ir.Response, inbound_request: InboundRequest) -> bytes:
        return encode_response(response, inbound_request.model or response.model, inbound_request.size)

    @override
    def encoder(self, inbound_request: InboundRequest) -> StreamEncoder:
        return MessagesStreamEncoder(inbound_request)

    @override
    def problem(self, error: GatewayError, *, request_id: str | None = None) -> Problem:
        return encode_problem(error, request_id)

    @override
    def encode_count(self, tokens: int) -> bytes:
        return msgspec.json.encode({"input_tokens": tokens})

    @override
    def list_models(self, names: Sequence[str]) -> bytes:
        return listing.list_models(names)

    @override
    def show_model(self, name: str) -> bytes:
        return listing.show_model(name)


def _check_types(raw: Mapping[str, Raw]) -> None:
    for key, value in raw.items():
        rule = _FIRST_BYTES.get(key)
        if rule is None:
            continue
        first_bytes, expected = rule
        first = memoryview(value)[0]
        if first not in first_bytes and (first != _NULL or key == "messages"):
            raise BadRequest(f"{key}: expected {expected}.", param=key, code="invalid_type")


def _check_max_tokens(raw: Mapping[str, Raw], path: Mapping[str, str]) -> None:
    limit = Node.of(raw, "max_tokens")
    if limit is not None:
        limit.integer(0)
    elif path.get("operation") != "count_tokens":
        raise missing("max_tokens")


def _version(header: str | None) -> str | None:
    """Return the caller's version; the upstream decides about unknown ones."""
    if not header:
        return None
    if not _HEADER_NAME.fullmatch(header):
        raise BadRequest(
            "The version cannot be read (anthropic-version): send a date such as 2023-06-01.",
            param="anthropic-version",
            code="invalid_value",
        )
    return header


def _betas(header: str | None) -> tuple[str, ...]:
    if not header:
        return ()
    names = tuple(name for entry in header.split(",") if (name := entry.strip()))
    for name in names:
        if not _HEADER_NAME.fullmatch(name):
            raise BadRequest(
                "A beta name is invalid (anthropic-beta): send names of letters, digits, `.`, `_`, `:` and `-`.",
                param="anthropic-beta",
                code="invalid_value",
            )
    return names
