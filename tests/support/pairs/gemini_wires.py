"""What a scripted Gemini says, as Google sends it: chunks that end in CRLF, calls whole, no end sign."""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, Protocol

from llmproxy_asgi.testing import Scenario, json_answer, sse_answer

JSONObject = dict[str, Any]

GEMINI_ID = "rsp-7Wx"
GEMINI_MODEL = "gemini-upstream-001"
GEMINI_USAGE: JSONObject = {"promptTokenCount": 30, "candidatesTokenCount": 12, "totalTokenCount": 42}


class Called(Protocol):
    """A call; `arguments` is JSON text."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> str: ...


def gemini_said(texts: Sequence[str], calls: Sequence[Called], *, stream: bool) -> Scenario:
    """A plain answer: its texts in pieces, then its calls, one chunk each."""
    if not stream:
        parts = [{"text": "".join(texts)}] if texts else []
        return json_answer(200, gemini_whole(*parts, *map(function_call, calls)))
    return sse_answer(gemini_spoken(texts, calls))


def gemini_spoken(texts: Sequence[str], calls: Sequence[Called]) -> list[bytes]:
    """The frames of a plain answer."""
    return gemini_chunks(*({"text": text} for text in texts), *map(function_call, calls))


def function_call(call: Called) -> JSONObject:
    """A call as a part."""
    return {"functionCall": {"id": call.id, "name": call.name, "args": json.loads(call.arguments)}}


def candidate(*parts: JSONObject, finish: str | None = None, index: int = 0, **more: Any) -> JSONObject:
    """One candidate of an answer or a chunk; without content where it has no parts."""
    made: JSONObject = {"content": {"parts": list(parts), "role": "model"}} if parts else {}
    return {**made, **({"finishReason": finish} if finish else {}), "index": index, **more}


def gemini_body(*candidates: JSONObject, usage: JSONObject | None = None, **more: Any) -> JSONObject:
    """An answer, or a chunk of one."""
    told = {"usageMetadata": usage} if usage is not None else {}
    said = {"candidates": list(candidates)} if candidates else {}
    return {**said, **told, "modelVersion": GEMINI_MODEL, "responseId": GEMINI_ID, **more}


def gemini_whole(*parts: JSONObject, finish: str = "STOP", usage: JSONObject | None = None, **more: Any) -> JSONObject:
    """A whole answer with one candidate; `more` is the candidate's."""
    return gemini_body(candidate(*parts, finish=finish, **more), usage=usage or GEMINI_USAGE)


def gemini_chunk(*parts: JSONObject, finish: str | None = None, usage: JSONObject | None = None, **more: Any) -> bytes:
    """One frame of a stream with one candidate; `more` is the candidate's."""
    return gemini_frame(gemini_body(candidate(*parts, finish=finish, **more), usage=usage))


def gemini_chunks(
    *parts: JSONObject, finish: str | None = "STOP", usage: JSONObject | None = None, **more: Any
) -> list[bytes]:
    """A stream: a chunk for each part with what was counted so far, and an empty one with the finish reason."""
    counted = usage or GEMINI_USAGE
    so_far = {**counted, "candidatesTokenCount": 1}
    frames = [gemini_chunk(part, usage=so_far) for part in parts]
    if finish is not None:
        frames.append(gemini_chunk({"text": ""}, finish=finish, usage=counted, **more))
    return frames


def gemini_frame(body: JSONObject) -> bytes:
    """A body as one frame."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\r\n\r\n"


def signature(name: str) -> str:
    """State of Google's own making: base64 of bytes that the strict fake knows."""
    return b64encode(b"gemini-" + name.encode() + b"\xfb\xff").decode()
