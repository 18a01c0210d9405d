"""A caller of a soak: sends one request over a bare connection, reads its answer to the end, or leaves before it.

It reads what every client of the protocol would: the text, the sign of the end, the error. An answer that has neither
end nor error is `torn`, whatever its text.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from soak.plan import Call, Wire

End = Literal["whole", "error", "refused", "left", "torn"]
"""How an answer ended: complete, with the protocol's error within a stream, with an error status, left by its caller,
or in none of these ways."""

HANG = 150.0
"""Seconds after which a call is given up as hung."""


class Answer(NamedTuple):
    """What came of a call."""

    end: End
    status: int = 0
    text: str = ""
    seen: str = ""
    """Details for debugging."""


class Connection:
    """A connection of one caller; it takes one request after another as long as answers end in good order."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, call: Call) -> Answer:
        """Send a call's request and read its answer."""
        body = b""
        status = 0
        try:
            async with asyncio.timeout(HANG if call.leaves is None else call.leaves):
                reader = await self._send(_request(call))
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(b" ", 2)[1])
                async for piece in _body(reader, head.lower()):
                    body += piece
        except TimeoutError:
            self.close()
            return Answer("left" if call.leaves is not None else "torn", status, seen=f"hung after {body[-400:]!r}")
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            return Answer("torn", status, seen=f"{error!r} after {body[-400:]!r}")
        answer = _judged(call, status, body)
        if answer.end == "whole":
            return answer
        tried = next((line for line in head.decode().split("\r\n") if line.startswith("x-llmproxy-explain")), "")
        return answer._replace(seen=f"{answer.seen} {tried}")

    async def _send(self, request: bytes) -> asyncio.StreamReader:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        self._writer.write(request)
        return self._reader

    def close(self) -> None:
        """Leave at once, whatever is under way."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


async def get(port: int, path: str, *headers: str) -> bytes:
    """The body of a page of the host's.

    Raises:
        RuntimeError: It is not there.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        lines = [f"GET {path} HTTP/1.1", "host: localhost", "connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{path} answered {head[:100]!r}")
    return body


async def _body(reader: asyncio.StreamReader, head: bytes) -> Any:
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        yield await reader.readexactly(length)
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)


def _judged(call: Call, status: int, body: bytes) -> Answer:
    if status != 200:
        legal = bool(json.loads(body).get("error"))
        return Answer("refused" if legal else "torn", status, seen=body[-600:].decode())
    wire = call.talk.wire
    if not call.stream:
        return Answer("whole", status, _whole_text(wire, json.loads(body)))
    pieces, ended, failed = [], False, False
    for event in _events(body):
        if event is None:
            ended = ended or wire == "chat"
            continue
        failed = failed or _tells_error(event)
        ended = ended or _is_end(wire, event)
        pieces.append(_piece(wire, event))
    end: End = "error" if failed and not ended else "whole" if ended and not failed else "torn"
    return Answer(end, status, "".join(pieces), seen="" if end == "whole" else body[-600:].decode(errors="replace"))


def _events(body: bytes) -> Iterator[dict[str, Any] | None]:
    """The data of each event; None: `[DONE]`. What is no JSON at all is an event that says nothing."""
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        data = b"".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
        if data == b"[DONE]":
            yield None
        elif data:
            try:
                yield json.loads(data)
            except ValueError:
                yield {"unreadable": True}


def _tells_error(event: dict[str, Any]) -> bool:
    return bool(event.get("error")) or event.get("type") in ("error", "response.failed")


def _is_end(wire: Wire, event: dict[str, Any]) -> bool:
    match wire:
        case "chat":
            return False
        case "responses":
            return event.get("type") == "response.completed"
        case "messages":
            return event.get("type") == "message_stop"
        case "gemini":
            return any(each.get("finishReason") for each in event.get("candidates", ()))


def _piece(wire: Wire, event: dict[str, Any]) -> str:
    match wire:
        case "chat":
            return "".join(each["delta"].get("content") or "" for each in event.get("choices", ()))
        case "responses":
            return str(event["delta"]) if event.get("type") == "response.output_text.delta" else ""
        case "messages":
            return str(event["delta"].get("text", "")) if event.get("type") == "content_block_delta" else ""
        case "gemini":
            return _gemini_text(event)


def _whole_text(wire: Wire, body: dict[str, Any]) -> str:
    match wire:
        case "chat":
            return str(body["choices"][0]["message"]["content"])
        case "responses":
            parts = (part for item in body["output"] if item["type"] == "message" for part in item["content"])
            return "".join(part["text"] for part in parts)
        case "messages":
            return "".join(block["text"] for block in body["content"])
        case "gemini":
            return _gemini_text(body)


def _gemini_text(body: dict[str, Any]) -> str:
    said = (each.get("content", {}).get("parts", ()) for each in body.get("candidates", ()))
    return "".join(part.get("text", "") for parts in said for part in parts)


def _request(call: Call) -> bytes:
    path, body = _asked(call)
    content = json.dumps(body).encode()
    talk = call.talk
    lines = [
        f"POST /llm{path} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(content)}",
        f"x-request-id: {call.request_id}",
        "x-llmproxy-explain: 1",
        f"authorization: Bearer {talk.key}" if talk.key else f"x-user: {talk.user}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def _asked(call: Call) -> tuple[str, dict[str, Any]]:
    """A turn of a conversation, as its protocol has it. Half of the Chat callers ask for usage themselves."""
    talk, stream = call.talk, call.stream
    system, asked, answered = talk.beginning()
    model, last = talk.model(call.errand.fault), f"Go on. {call.errand.told()}"
    turns = [("user", asked), ("assistant", answered), ("user", last)]
    said = [{"role": role, "content": text} for role, text in turns]
    match talk.wire:
        case "chat":
            options = {"stream_options": {"include_usage": True}} if stream and call.number % 2 else {}
            messages = [{"role": "system", "content": system}, *said]
            return "/v1/chat/completions", {"model": model, "messages": messages, "stream": stream, **options}
        case "responses":
            asks = {"model": model, "instructions": system, "input": said, "stream": stream, "store": False}
            return "/v1/responses", asks
        case "messages":
            asks = {"model": model, "system": system, "messages": said, "stream": stream, "max_tokens": 4096}
            return "/v1/messages", asks
        case "gemini":
            roles = {"user": "user", "assistant": "model"}
            contents = [{"role": roles[role], "parts": [{"text": text}]} for role, text in turns]
            method = "streamGenerateContent?alt=sse" if stream else "generateContent"
            asks = {"systemInstruction": {"parts": [{"text": system}]}, "contents": contents}
            return f"/v1beta/models/{model}:{method}", asks
