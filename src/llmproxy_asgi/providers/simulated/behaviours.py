"""The behaviours of the simulated models; the model's name selects one.

A behaviour is a plain function that returns the response to a request, or raises the error that the caller receives.
Nothing is random and there is no state: the same request gets the same bytes.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2s
from typing import TypeAlias

import msgspec

from llmproxy_asgi.conversation import (
    FinishReason,
    InlineData,
    Link,
    Media,
    Message,
    Part,
    PlainText,
    Reasoning,
    Refusal,
    Request,
    Seal,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from llmproxy_asgi.errors import BadRequest, CallerError, ErrorKind, GatewayError
from llmproxy_asgi.providers.simulated.canned_text import TEXT
from llmproxy_asgi.providers.simulated.filling import fill

LONG_WAIT = 2.0
"""Seconds before the first word of `slow`."""
SLOW_PACE = 0.25
"""Seconds between the words of `slow`."""
MAX_CANDIDATES = 128
_SHORT = 12

_PIECE = re.compile(r"\s*\S+|\s+")
_LONG_TEXT = 50_000
_MAX_SLICES = 1000


class Ending(Enum):
    """How a response's bytes end."""

    COMPLETE = auto()
    TRUNCATED = auto()
    """In the middle, without the protocol's end marker."""
    STALLED = auto()
    """A stream stalls after three chunks; a response that is not streamed never starts."""
    GARBAGE = auto()
    """The body is not a response at all."""


@dataclass(frozen=True, slots=True)
class Script:
    """A response, and how it is sent.

    Args:
        parts: The content.
        finish: The finish reason.
        wait: Seconds before the first chunk.
        pace: Least seconds between two chunks.
        ending: How the bytes end.
    """

    parts: tuple[Part, ...] = ()
    finish: FinishReason = FinishReason.STOP
    wait: float = 0.0
    pace: float = 0.0
    ending: Ending = Ending.COMPLETE


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request, and what its response is derived from.

    Args:
        request: The decoded request.
        digest: The digest of its bytes; ids are derived from it.
        issuer: The issuer whose reasoning state this protocol carries unwrapped.
        candidate: The index of the candidate to answer with.
    """

    request: Request
    digest: str
    issuer: str
    candidate: int = 0

    def call_id(self, number: int) -> str:
        """Return a tool call's id, unique in this conversation."""
        return f"call_{self.digest[:20]}_{self.candidate}_{number}"


Behaviour: TypeAlias = Callable[[Prompt], Script]

_REFUSAL = "I will not do that. It is nothing you said: this model declines whatever it is asked."
_CUT = "This answer is cut off before it comes to its end, and what you are reading now you are probably not reading."
_STALLED = "One moment please, this answer stops in the middle and never continues."
_SLOW = "Good things take a while. This answer kept you waiting, and now it comes one word at a time."

ERRORS: dict[int, tuple[ErrorKind, str]] = {
    400: (ErrorKind.BAD_REQUEST, "the request is wrong"),
    401: (ErrorKind.AUTHENTICATION, "the key is wrong"),
    403: (ErrorKind.FORBIDDEN, "the key may not do this"),
    404: (ErrorKind.NOT_FOUND, "there is no such thing"),
    408: (ErrorKind.CLIENT_TIMEOUT, "the request took too long"),
    429: (ErrorKind.RATE_LIMIT, "there were too many requests"),
    500: (ErrorKind.INTERNAL, "something broke"),
    503: (ErrorKind.OVERLOADED, "there is too much to do"),
    529: (ErrorKind.OVERLOADED, "there is far too much to do"),
}
"""Error kind and message by status; the models `error-429` etc. respond with them."""
_RETRY_AFTER = 1.0


def names() -> tuple[str, ...]:
    """List all simulated models."""
    return (*BEHAVIOURS, *(f"error-{status}" for status in ERRORS))


def script_for(prompt: Prompt) -> Script:
    """Return the response of the requested model.

    Raises:
        GatewayError: The error that the model responds with; `status` is the one to send.
    """
    model = prompt.request.model
    behaviour = BEHAVIOURS.get(model)
    if behaviour is not None:
        return behaviour(prompt)
    status = model.removeprefix("error-")
    if model.startswith("error-") and status in map(str, ERRORS):
        raise _error(int(status))
    raise CallerError(
        f"The model {model[:200]!r} does not exist. There are: {', '.join(names())}.",
        param="model",
        code="model_not_found",
        status=404,
        kind=ErrorKind.MODEL_NOT_FOUND,
    )


def words(parts: Sequence[Part]) -> int:
    """Count the words; these models count a word as a token."""
    return sum(len(_readable(part).split()) for part in parts)


def pieces(text: str) -> list[str]:
    """Split a text into words, each with the space before it; very long texts into slices."""
    if len(text) <= _LONG_TEXT:
        return _PIECE.findall(text)
    size = -(-len(text) // _MAX_SLICES)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _readable(part: Part) -> str:
    match part:
        case Text(text=text) | Reasoning(text=text) | Refusal(text=text):
            return text
        case ToolCall(arguments=arguments):
            return arguments
        case ToolResult(content=content):
            return " ".join(map(_readable, content))
        case Media():
            return "media"
        case _:
            return ""


def _error(status: int) -> GatewayError:
    kind, reason = ERRORS[status]
    return GatewayError(
        f"This model always answers with status {status}: {reason}.",
        status=status,
        kind=kind,
        retry_after=_RETRY_AFTER if status == 429 else None,
    )


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _echo(prompt: Prompt) -> Script:
    text, media = _last_question(prompt.request)
    suffix = f" (answer {prompt.candidate + 1})" if prompt.candidate else ""
    lines = [text] if text else []
    if media:
        lines.append(f"I see {_listed(media)}.")
    return _text(("\n\n".join(lines) or "You said nothing.") + suffix)


def _story(prompt: Prompt) -> Script:
    limit = prompt.request.max_output_tokens
    shown = _first_words(TEXT, limit) if limit is not None else TEXT
    return Script((Text(text=shown),), FinishReason.LENGTH if shown != TEXT else FinishReason.STOP)


def _length(prompt: Prompt) -> Script:
    limit = min(prompt.request.max_output_tokens or _SHORT, _SHORT)
    return Script((Text(text=_first_words(TEXT, limit)),), FinishReason.LENGTH)


def _slow(_prompt: Prompt) -> Script:
    return Script((Text(text=_SLOW),), wait=LONG_WAIT, pace=SLOW_PACE)


def _refuse(_prompt: Prompt) -> Script:
    return Script((Refusal(text=_REFUSAL),), FinishReason.REFUSAL)


def _truncate(_prompt: Prompt) -> Script:
    return Script((Text(text=_CUT),), ending=Ending.TRUNCATED)


def _stall(_prompt: Prompt) -> Script:
    return Script((Text(text=_STALLED),), ending=Ending.STALLED)


def _garbage(_prompt: Prompt) -> Script:
    return Script(ending=Ending.GARBAGE)


def _text(text: str) -> Script:
    return Script((Text(text=text),))


def _first_words(text: str, count: int) -> str:
    return "".join(pieces(text)[:count])


def _last_question(request: Request) -> tuple[str, list[str]]:
    """Return the text of the last user message, and descriptions of its other parts."""
    message = next((message for message in reversed(request.messages) if message.role == "user"), None)
    parts = message.parts if message is not None else ()
    text = "\n".join(part.text for part in parts if isinstance(part, Text))
    return text, [_described(part) for part in parts if not isinstance(part, Text)]


def _described(part: Part) -> str:
    if not isinstance(part, Media):
        return "something for which there is no word"
    article = "an" if part.kind in {"image", "audio"} else "a"
    facts = [part.media_type or "", part.name or part.title or "", _size(part)]
    details = ", ".join(fact for fact in facts if fact)
    noun = "audio clip" if part.kind == "audio" else part.kind
    return f"{article} {noun} ({details})" if details else f"{article} {noun}"


def _size(media: Media) -> str:
    match media.source:
        case InlineData(data=data):
            return f"{len(data) * 3 // 4 - data[-2:].count('=')} bytes"
        case PlainText(text=text):
            return f"{len(text.split())} words"
        case Link(url=url):
            return f"at {url[:200]}"
        case _:
            return "a stored file"


def _listed(entries: Sequence[str]) -> str:
    return entries[0] if len(entries) == 1 else f"{', '.join(entries[:-1])} and {entries[-1]}"


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tools(prompt: Prompt) -> Script:
    return _after_results(prompt) or _calls(prompt, 1)


def _parallel(prompt: Prompt) -> Script:
    return _after_results(prompt) or _calls(prompt, 1 if prompt.request.tool_choice.parallel is False else 2)


def _after_results(prompt: Prompt) -> Script | None:
    """Answer the tool results of the step before; None if there are none."""
    messages = prompt.request.messages
    last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=-1)
    results = [part for message in messages[last + 1 :] for part in message.parts if isinstance(part, ToolResult)]
    if not results:
        return None
    called = {call.call_id: call.name for call in _previous_calls(messages)}
    return _text("\n".join(_quoted(result, called.get(result.call_id)) for result in results))


def _previous_calls(messages: Sequence[Message]) -> Iterator[ToolCall]:
    return (part for message in messages for part in message.parts if isinstance(part, ToolCall))


def _quoted(result: ToolResult, name: str | None) -> str:
    details = " ".join(part.text if isinstance(part, Text) else _described(part) for part in result.content)
    return f"{name or result.name or 'The tool'} {'failed' if result.is_error else 'answered'}: {details or 'nothing'}"


def _calls(prompt: Prompt, limit: int) -> Script:
    usable = _usable(prompt.request)
    if not usable:
        return _text("There is no tool that I may call.")
    chosen = (usable * limit)[:limit]
    return Script(
        tuple(_call(tool, prompt.call_id(number)) for number, tool in enumerate(chosen)), FinishReason.TOOL_CALLS
    )


def _usable(request: Request) -> list[Tool]:
    choice = request.tool_choice
    if choice.mode == "none":
        return []
    return [tool for tool in request.tools if tool.kind != "server" and (not choice.only or tool.name in choice.only)]


def _call(tool: Tool, call_id: str) -> ToolCall:
    if tool.kind == "custom":
        return ToolCall(call_id=call_id, name=tool.name, arguments=f"some {tool.name}", kind="custom")
    filled = fill(tool.parameters) if tool.parameters else {}
    arguments = filled if isinstance(filled, dict) else {}
    return ToolCall(call_id=call_id, name=tool.name, arguments=_json(arguments), namespace=tool.namespace)


def _answer_in_json(prompt: Prompt) -> Script:
    output = prompt.request.output
    if output.kind == "json_schema" and output.schema is not None:
        return _text(_json(fill(output.schema)))
    text, _ = _last_question(prompt.request)
    return _text(_json({"answer": text}))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


# ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────────

_SEAL = "simulated-seal:"


def _reason(prompt: Prompt) -> Script:
    """Reason in a few sentences and seal them; check returned seals as a vendor would."""
    request = prompt.request
    checked = sum(_check(part) for message in request.messages for part in message.parts if isinstance(part, Reasoning))
    text, _ = _last_question(request)
    count = len(text.split())
    answer = f"Having thought about your {count} {'word' if count == 1 else 'words'}, I agree with you."
    if checked:
        answer += (
            f" And I remember what I thought before: {checked} {'seal is' if checked == 1 else 'seals are'} whole."
        )
    if request.reasoning.effort == "none":
        return _text(answer)
    reasoning = (
        f"The user wrote {count} {'word' if count == 1 else 'words'}. I could disagree, but nothing here speaks "
        "against it. An answer in one sentence will do, and it should be a friendly one."
    )
    seal = Seal(issuer=prompt.issuer, kind="signature", data=_seal_of(reasoning))
    shown = "" if request.reasoning.visible == "hidden" else reasoning
    return Script((Reasoning(text=shown, seals=(seal,)), Text(text=answer)))


def _check(part: Reasoning) -> int:
    """Count the seals in this part.

    Raises:
        BadRequest: A seal does not match its text.
    """
    found = 0
    for seal in part.seals:
        # Callers may keep the state without the text; then there is nothing to compare it with.
        if part.text and seal.data != _seal_of(part.text):
            raise BadRequest("The state of the reasoning that was sent back does not belong to its text.")
        found += 1
    return found


def _seal_of(reasoning: str) -> str:
    return b64encode(
        _SEAL.encode() + blake2s(reasoning.encode("utf-8", "surrogatepass"), digest_size=24).digest()
    ).decode()


BEHAVIOURS: dict[str, Behaviour] = {
    "echo": _echo,
    "story": _story,
    "tools": _tools,
    "parallel": _parallel,
    "json": _answer_in_json,
    "reasoning": _reason,
    "slow": _slow,
    "refuse": _refuse,
    "length": _length,
    "cut": _truncate,
    "stall": _stall,
    "rubbish": _garbage,
}
"""Behaviour by model name."""
