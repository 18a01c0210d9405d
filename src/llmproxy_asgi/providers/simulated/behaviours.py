"""What the simulated models do: the model's name chooses, the request says the rest.

A behaviour is a plain function from a request to an answer, or raises the error that the caller shall see. Nothing is
random and nothing is remembered: the same request is answered with the same bytes.
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
from llmproxy_asgi.providers.simulated.filling import fill
from llmproxy_asgi.providers.simulated.tale import TALE

LONG_WAIT = 2.0
"""Seconds before the first word of `slow`."""
SLOW_PACE = 0.25
"""Seconds between the words of `slow`."""
MOST_CANDIDATES = 128
_SHORT = 12

_PIECE = re.compile(r"\s*\S+|\s+")
_LONG_TEXT = 50_000
_MOST_SLICES = 1000


class Ending(Enum):
    """How an answer's bytes end."""

    WHOLE = auto()
    CUT = auto()
    """In the middle, without the protocol's end sign."""
    SILENCE = auto()
    """After three pieces nothing comes any more; a whole answer never begins."""
    RUBBISH = auto()
    """It is no answer at all."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What is answered, and how.

    Args:
        parts: The answer.
        finish: Why it ended.
        wait: Seconds before its first word.
        pace: Seconds between two pieces at the least.
        ending: How its bytes end.
    """

    parts: tuple[Part, ...] = ()
    finish: FinishReason = FinishReason.STOP
    wait: float = 0.0
    pace: float = 0.0
    ending: Ending = Ending.WHOLE


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, and what an answer to it may be made from.

    Args:
        request: Read whole.
        digest: Of its bytes; ids are made from it.
        issuer: Whose reasoning state this protocol writes without wrapping it.
        candidate: Which of several answers is wanted.
    """

    request: Request
    digest: str
    issuer: str
    candidate: int = 0

    def call_id(self, number: int) -> str:
        """The id of a call, its own in this conversation."""
        return f"call_{self.digest[:20]}_{self.candidate}_{number}"


Behaviour: TypeAlias = Callable[[Ask], Performance]

_REFUSAL = "I will not do that. It is nothing you said: this model declines whatever it is asked."
_CUT = "This answer is cut off before it comes to its end, and what you are reading now you are probably not reading."
_STALLED = "One moment please, this answer stops in the middle and never goes on."
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
"""Status, its cause and the words for it; `error-429` and its like answer with them."""
_RETRY_AFTER = 1.0


def names() -> tuple[str, ...]:
    """Every model there is."""
    return (*BEHAVIOURS, *(f"error-{status}" for status in ERRORS))


def perform(ask: Ask) -> Performance:
    """What the model that is asked for answers.

    Raises:
        GatewayError: The error that it answers with; `status` is the one to send.
    """
    model = ask.request.model
    behaviour = BEHAVIOURS.get(model)
    if behaviour is not None:
        return behaviour(ask)
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
    """How many words there are: the tokens of these models."""
    return sum(len(_readable(part).split()) for part in parts)


def pieces(text: str) -> list[str]:
    """How a model says a text: word by word, each with the space before it; very long ones in slices."""
    if len(text) <= _LONG_TEXT:
        return _PIECE.findall(text)
    size = -(-len(text) // _MOST_SLICES)
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


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _echo(ask: Ask) -> Performance:
    said, seen = _last_question(ask.request)
    suffix = f" (answer {ask.candidate + 1})" if ask.candidate else ""
    lines = [said] if said else []
    if seen:
        lines.append(f"I see {_listed(seen)}.")
    return _says(("\n\n".join(lines) or "You said nothing.") + suffix)


def _story(ask: Ask) -> Performance:
    limit = ask.request.max_output_tokens
    shown = _first_words(TALE, limit) if limit is not None else TALE
    return Performance((Text(text=shown),), FinishReason.LENGTH if shown != TALE else FinishReason.STOP)


def _length(ask: Ask) -> Performance:
    limit = min(ask.request.max_output_tokens or _SHORT, _SHORT)
    return Performance((Text(text=_first_words(TALE, limit)),), FinishReason.LENGTH)


def _slow(_ask: Ask) -> Performance:
    return Performance((Text(text=_SLOW),), wait=LONG_WAIT, pace=SLOW_PACE)


def _refuse(_ask: Ask) -> Performance:
    return Performance((Refusal(text=_REFUSAL),), FinishReason.REFUSAL)


def _cut(_ask: Ask) -> Performance:
    return Performance((Text(text=_CUT),), ending=Ending.CUT)


def _stall(_ask: Ask) -> Performance:
    return Performance((Text(text=_STALLED),), ending=Ending.SILENCE)


def _rubbish(_ask: Ask) -> Performance:
    return Performance(ending=Ending.RUBBISH)


def _says(text: str) -> Performance:
    return Performance((Text(text=text),))


def _first_words(text: str, count: int) -> str:
    return "".join(pieces(text)[:count])


def _last_question(request: Request) -> tuple[str, list[str]]:
    """What the user said last, and what else was shown with it."""
    asked = next((message for message in reversed(request.messages) if message.role == "user"), None)
    parts = asked.parts if asked is not None else ()
    said = "\n".join(part.text for part in parts if isinstance(part, Text))
    return said, [_described(part) for part in parts if not isinstance(part, Text)]


def _described(part: Part) -> str:
    if not isinstance(part, Media):
        return "something for which there is no word"
    article = "an" if part.kind in {"image", "audio"} else "a"
    facts = [part.media_type or "", part.name or part.title or "", _size(part)]
    told = ", ".join(fact for fact in facts if fact)
    noun = "audio clip" if part.kind == "audio" else part.kind
    return f"{article} {noun} ({told})" if told else f"{article} {noun}"


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


def _tools(ask: Ask) -> Performance:
    return _after_results(ask) or _calls(ask, 1)


def _parallel(ask: Ask) -> Performance:
    return _after_results(ask) or _calls(ask, 1 if ask.request.tool_choice.parallel is False else 2)


def _after_results(ask: Ask) -> Performance | None:
    """What is said to the results of the step before; None where there are none."""
    messages = ask.request.messages
    last = max((place for place, message in enumerate(messages) if message.role == "assistant"), default=-1)
    results = [part for message in messages[last + 1 :] for part in message.parts if isinstance(part, ToolResult)]
    if not results:
        return None
    called = {call.call_id: call.name for call in _made_calls(messages)}
    return _says("\n".join(_quoted(result, called.get(result.call_id)) for result in results))


def _made_calls(messages: Sequence[Message]) -> Iterator[ToolCall]:
    return (part for message in messages for part in message.parts if isinstance(part, ToolCall))


def _quoted(result: ToolResult, name: str | None) -> str:
    told = " ".join(part.text if isinstance(part, Text) else _described(part) for part in result.content)
    return f"{name or result.name or 'The tool'} {'failed' if result.is_error else 'answered'}: {told or 'nothing'}"


def _calls(ask: Ask, most: int) -> Performance:
    usable = _usable(ask.request)
    if not usable:
        return _says("There is no tool that I may call.")
    chosen = (usable * most)[:most]
    return Performance(
        tuple(_call(tool, ask.call_id(number)) for number, tool in enumerate(chosen)), FinishReason.TOOL_CALLS
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


def _answer_in_json(ask: Ask) -> Performance:
    wanted = ask.request.output
    if wanted.kind == "json_schema" and wanted.schema is not None:
        return _says(_json(fill(wanted.schema)))
    said, _ = _last_question(ask.request)
    return _says(_json({"answer": said}))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


# ── reasoning ────────────────────────────────────────────────────────────────────────────────────────────────────────

_SEAL = "simulated-seal:"


def _reason(ask: Ask) -> Performance:
    """Thinks in a few sentences and seals them; a seal that comes back is checked like a vendor would."""
    request = ask.request
    checked = sum(_check(part) for message in request.messages for part in message.parts if isinstance(part, Reasoning))
    said, _ = _last_question(request)
    count = len(said.split())
    answer = f"Having thought about your {count} {'word' if count == 1 else 'words'}, I agree with you."
    if checked:
        answer += (
            f" And I remember what I thought before: {checked} {'seal is' if checked == 1 else 'seals are'} whole."
        )
    if request.reasoning.effort == "none":
        return _says(answer)
    thought = (
        f"The user wrote {count} {'word' if count == 1 else 'words'}. I could disagree, but nothing here speaks "
        "against it. An answer in one sentence will do, and it should be a friendly one."
    )
    seal = Seal(issuer=ask.issuer, kind="signature", data=_seal_of(thought))
    shown = "" if request.reasoning.visible == "hidden" else thought
    return Performance((Reasoning(text=shown, seals=(seal,)), Text(text=answer)))


def _check(part: Reasoning) -> int:
    """How many seals of ours this part holds.

    Raises:
        BadRequest: One does not belong to its text.
    """
    found = 0
    for seal in part.seals:
        # Callers may keep the state without the words; then there is nothing to compare it with.
        if part.text and seal.data != _seal_of(part.text):
            raise BadRequest("The state of the reasoning that was sent back does not belong to its text.")
        found += 1
    return found


def _seal_of(thought: str) -> str:
    return b64encode(
        _SEAL.encode() + blake2s(thought.encode("utf-8", "surrogatepass"), digest_size=24).digest()
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
    "cut": _cut,
    "stall": _stall,
    "rubbish": _rubbish,
}
"""A model's name to what it does."""
