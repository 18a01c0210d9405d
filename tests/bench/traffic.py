"""What travels in the benchmark: requests, answers, and the marks that prove nothing was lost.

Every text the upstream sends carries a mark `~<index>@<sent>;`, where `sent` is a monotonic clock in nanoseconds
(or 0). A gateway that passes on or translates an answer must deliver all marks, once each and in order.

The model's name in a request says how the upstream answers: `plain-1` at once, `full-256` with 256 chunks as fast
as they can be written, `paced-150` with 150 chunks in even steps, `hold-1` with one chunk and then silence.
"""

import json
import re
from typing import Any, Literal

Wire = Literal["chat", "messages"]

MARK = re.compile(rb"~(\d+)@(\d+);")
INDEX = re.compile(rb"~(\d+)@")
MODEL = re.compile(rb'"model"\s*:\s*"(plain|full|paced|hold)-(\d+)"')

PACE = 0.02
"""Seconds between two chunks of a paced stream."""

KEY = "llmp_bench0123456789abcdef0123456789"
"""What a caller shows where the gateway asks for a key."""

PATHS: dict[Wire, str] = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}

_SYSTEM = "You answer questions about a library's opening hours, politely and in at most three sentences."
_TURNS = [
    {"role": "user", "content": "Is the reading room open on Sunday, and may I bring my own coffee into it?"},
    {"role": "assistant", "content": "It opens at ten on Sundays. Covered cups are welcome at the long tables."},
    {"role": "user", "content": "Thank you. And how long before closing time must a book be handed in?"},
]


def mark(index: int, sent: int = 0) -> bytes:
    """One piece of text, as the upstream says it."""
    return b" ~%d@%d;" % (index, sent)


def request(wire: Wire, model: str, *, prefix: str = "", key: str = "") -> bytes:
    """A whole HTTP/1.1 request that asks `model` for an answer, as a stream unless it is a plain one."""
    payload = request_payload(wire, model)
    head = [
        f"POST {prefix}{PATHS[wire]} HTTP/1.1",
        "host: 127.0.0.1",
        "accept: application/json",
        "content-type: application/json",
        "user-agent: bench/1",
        f"content-length: {len(payload)}",
    ]
    if wire == "messages":
        head.append("anthropic-version: 2023-06-01")
    if key:
        head.append(f"x-api-key: {key}" if wire == "messages" else f"authorization: Bearer {key}")
    return "\r\n".join([*head, "", ""]).encode() + payload


def request_payload(wire: Wire, model: str) -> bytes:
    """The JSON of a short conversation in the client's protocol."""
    body: dict[str, Any] = {"model": model, "max_tokens": 256, "temperature": 0.7}
    if wire == "chat":
        body["messages"] = [{"role": "system", "content": _SYSTEM}, *_TURNS]
    else:
        body["system"] = _SYSTEM
        body["messages"] = _TURNS
    if not model.startswith("plain"):
        body["stream"] = True
    return json.dumps(body).encode()


_HEAD = (
    b'data: {"id":"chatcmpl-Q7bX2mN4vC9zL1kJ","object":"chat.completion.chunk","created":1790000000,'
    b'"model":"bench-large","system_fingerprint":"fp_5d1e0a77c3","choices":[{"index":0,"delta":'
)
_GOES_ON = b',"logprobs":null,"finish_reason":null}]}\n\n'
_USAGE = (
    b'{"prompt_tokens":74,"completion_tokens":%d,"total_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}'
)

FIRST_FRAME = _HEAD + b'{"role":"assistant","content":""}' + _GOES_ON
LAST_FRAMES = (_HEAD + b'{},"logprobs":null,"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n")


def text_frame(index: int, sent: int = 0) -> bytes:
    """One Chat Completions chunk of about 250 bytes with one piece of text."""
    return b'%s{"content":"%s"}%s' % (_HEAD, mark(index, sent), _GOES_ON)


def usage_frame(chunks: int) -> bytes:
    """The chunk with the counts, which a client or a gateway must ask for."""
    usage = _USAGE % (chunks, 74 + chunks)
    return _HEAD.partition(b'"choices":')[0] + b'"choices":[],"usage":' + usage + b"}\n\n"


def plain_answer() -> bytes:
    """The JSON of a Chat Completions answer that is not a stream."""
    text = mark(0) + b" A book may be handed in until a quarter of an hour before closing time." * 3
    return (
        b'{"id":"chatcmpl-Q7bX2mN4vC9zL1kJ","object":"chat.completion","created":1790000000,'
        b'"model":"bench-large","choices":[{"index":0,"message":{"role":"assistant","content":"'
        + text
        + b'","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":'
        + _USAGE % (54, 128)
        + b',"service_tier":"default","system_fingerprint":"fp_5d1e0a77c3"}'
    )


def fault_in_stream(body: bytes, wire: Wire, expected: list[bytes]) -> str:
    """What is wrong with a finished stream that should hold the marks of `expected`; empty if nothing is."""
    found = INDEX.findall(body)
    if found != expected:
        return f"{len(found)} of {len(expected)} chunks, or not in order"
    last = b"data: [DONE]" if wire == "chat" else b'"message_stop"'
    return "" if last in body[-200:] else "the stream has no proper end"
