"""Put a conversation into the order that strict upstreams require.

Clients trim histories, interrupt tools, and answer parallel calls one by one in any order. Upstreams require exactly
one result for every call, directly after the step that made it. Encoders call `drop_empty`, `pair` and `merge`, in this
order, as far as their protocol needs them. Nothing invents text of the user or the model; only a missing result is
added, with a text that says so.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from typing import Any, TypeVar, cast

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.wire.json_body import Bounds, count_values, decode
from llmproxy_asgi.wire.surrogates import replace_halves

_T = TypeVar("_T")
_ARGUMENTS = Bounds(json_depth=500)
"""How deep a call's arguments may nest to be read, and how many values they may hold; nothing real comes near."""
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACE = " \t\r\n"

MISSING_RESULT = "[no result]"
"""The result of a call that has none."""


class Paired(msgspec.Struct, frozen=True):
    """An ordered conversation, and what was added to it or dropped from it."""

    messages: tuple[ir.Message, ...]
    warnings: tuple[str, ...] = ()


def pair(messages: Sequence[ir.Message]) -> Paired:
    """Put the results of each step into one tool message right after its assistant message.

    Consecutive assistant messages are one step from the first with calls on, and become one message. Results are in the
    order of their calls and take name and kind from them. A call without a result gets an error result that says so,
    unless the conversation ends with its step. Of several results of one call the last one is used, because it is the
    client's newest. Call ids may recur in later steps; a result answers the nearest open call before it.

    Raises:
        BadRequest: A result names a call that is not in the conversation.
    """
    kinds = {type(part) for message in messages for part in message.parts}
    if kinds.isdisjoint((ir.ToolCall, ir.ToolResult)):
        return Paired(tuple(messages))
    rows = _join_steps(messages)
    steps, duplicates = _answered(rows)
    ordered, emulated = _in_order(rows, steps)
    warnings = (("emulated:tool_result",) if emulated else ()) + (("dropped:tool_result",) if duplicates else ())
    return Paired(tuple(ordered), warnings)


class _Slot:
    """A call and its result."""

    __slots__ = ("call", "result", "source")

    def __init__(self, call: ir.ToolCall) -> None:
        self.call = call
        self.result: ir.ToolResult | None = None
        self.source: ir.Message | None = None

    def answer(self, result: ir.ToolResult, source: ir.Message) -> bool:
        """Set the result; return whether it replaced a different one."""
        before = self.result
        # A result knows its call by id alone; what else it says of it may be a guess of the caller's library.
        self.result = msgspec.structs.replace(result, name=self.call.name, kind=self.call.kind)
        self.source = source
        return before is not None and before != self.result

    def filled(self) -> ir.ToolResult:
        """Return the result; an error result where there is none."""
        return self.result or ir.ToolResult(
            call_id=self.call.call_id,
            name=self.call.name,
            kind=self.call.kind,
            is_error=True,
            content=(ir.Text(text=MISSING_RESULT),),
        )


class _SameId:
    """The calls that share one id: the open ones by step, the nearest last, and the one answered last."""

    __slots__ = ("answered", "open")

    def __init__(self) -> None:
        self.open: deque[deque[_Slot]] = deque()
        self.answered: _Slot | None = None

    def take(self, *, nearest: bool) -> _Slot | None:
        """Return the open call that a result answers."""
        if not self.open:
            return None
        group = self.open[-1 if nearest else 0]
        slot = group.popleft()
        if not group:
            (self.open.pop if nearest else self.open.popleft)()
        self.answered = slot
        return slot


def _answered(rows: Sequence[ir.Message]) -> tuple[dict[int, list[_Slot]], bool]:
    """Return each step's calls and results, by the position of its message, and whether a result was dropped."""
    ids: dict[str, _SameId] = {}
    steps: dict[int, list[_Slot]] = {}
    early: list[tuple[ir.ToolResult, ir.Message]] = []
    duplicates = False
    for position, message in ((at, message) for at, message in enumerate(rows) if not _is_words(message)):
        slots = [_Slot(call) for call in _calls(message)]
        if slots:
            steps[position] = slots
        groups: dict[str, deque[_Slot]] = {}
        for slot in slots:
            groups.setdefault(slot.call.call_id, deque()).append(slot)
        for call_id, group in groups.items():
            ids.setdefault(call_id, _SameId()).open.append(group)
        for result in (part for part in message.parts if isinstance(part, ir.ToolResult)):
            same = ids.get(result.call_id)
            slot_found = (same.take(nearest=True) or same.answered) if same else None
            if slot_found is None:
                early.append((result, message))
            else:
                duplicates |= slot_found.answer(result, message)
    for result, message in early:
        same = ids.get(result.call_id)
        if same is None:
            shown = result.call_id[:100]
            raise BadRequest(
                f"A tool result answers the call {shown!r}, which is not in the conversation.", param="messages"
            )
        slot_found = same.take(nearest=False)
        if slot_found is None:
            duplicates = True
        else:
            slot_found.answer(result, message)
    return steps, duplicates


def _in_order(rows: Sequence[ir.Message], steps: dict[int, list[_Slot]]) -> tuple[list[ir.Message], bool]:
    """Return the messages, each step followed by its results, and whether a result was added."""
    rest = [message if _is_words(message) else _without_results(message) for message in rows]
    last = max((position for position, message in enumerate(rest) if message is not None), default=-1)
    ordered: list[ir.Message] = []
    emulated = False
    for position, message in enumerate(rest):
        if message is not None:
            ordered.append(message)
        slots = steps.get(position)
        if slots is None:
            continue
        missing = sum(slot.result is None for slot in slots)
        if missing == len(slots) and position == last:
            continue
        emulated |= missing > 0
        ordered.append(_tool_message(slots))
    return ordered, emulated


def _without_results(message: ir.Message) -> ir.Message | None:
    """Return a message without its results; None: nothing is left."""
    parts = tuple(part for part in message.parts if not isinstance(part, ir.ToolResult))
    if len(parts) == len(message.parts):
        return message
    if not parts:
        return None
    return msgspec.structs.replace(message, role="user" if message.role == "tool" else message.role, parts=parts)


def _tool_message(slots: Sequence[_Slot]) -> ir.Message:
    sources = {id(slot.source): slot.source for slot in slots if slot.source is not None and slot.source.role == "tool"}
    parts = tuple(slot.filled() for slot in slots)
    return _one(tuple(sources.values()), parts) if sources else ir.Message(role="tool", parts=parts)


def _join_steps(messages: Sequence[ir.Message]) -> list[ir.Message]:
    """Join consecutive assistant messages from the first with calls on: its results have to follow all of them."""
    joined: list[ir.Message] = []
    for role, group in groupby(messages, key=lambda message: message.role):
        run = tuple(group)
        step = len(run)
        if role == "assistant":
            step = next((at for at, message in enumerate(run) if _calls(message)), step)
        joined.extend(run[:step])
        if step < len(run):
            joined.append(_one(run[step:]))
    return joined


def _is_words(message: ir.Message) -> bool:
    """Return whether a message is a single text, as most are."""
    return len(message.parts) == 1 and type(message.parts[0]) is ir.Text


def _calls(message: ir.Message) -> list[ir.ToolCall]:
    return [part for part in message.parts if isinstance(part, ir.ToolCall)]


def merge(messages: Sequence[ir.Message], roles: Collection[ir.Role] = ("user", "assistant")) -> tuple[ir.Message, ...]:
    """Join consecutive messages of one role; their parts are appended, not merged.

    A field is kept where all messages agree on it; system messages of different authority are not joined.
    """
    merged: list[ir.Message] = []
    for (role, _), group in groupby(messages, key=lambda message: (message.role, message.authority)):
        run = tuple(group)
        if role in roles:
            merged.append(_one(run))
        else:
            merged.extend(run)
    return tuple(merged)


def _one(messages: Sequence[ir.Message], parts: tuple[ir.Part, ...] | None = None) -> ir.Message:
    """Join messages of one role; `parts`, if given, replace theirs."""
    first = messages[0]
    if parts is None:
        parts = tuple(part for message in messages for part in message.parts)
    if len(messages) == 1:
        return first if parts == first.parts else msgspec.structs.replace(first, parts=parts)
    return ir.Message(
        role=first.role,
        parts=parts,
        authority=_agreed(messages, lambda message: message.authority),
        name=_agreed(messages, lambda message: message.name),
        phase=_agreed(messages, lambda message: message.phase),
        expires=_agreed(messages, lambda message: message.expires),
        id=_agreed(messages, lambda message: message.id),
        extras=_united(message.extras for message in messages),
    )


def _agreed(messages: Sequence[ir.Message], field: Callable[[ir.Message], _T | None]) -> _T | None:
    first = field(messages[0])
    return first if all(field(message) == first for message in messages) else None


def _united(all_extras: Iterable[ir.Extras]) -> ir.Extras:
    united: dict[str, dict[str, Any]] = {}
    for extras in all_extras:
        for protocol, fields in extras.items():
            united.setdefault(protocol, {}).update(fields)
    return united or ir.EMPTY


def drop_empty(
    messages: Sequence[ir.Message], *, blank: bool = False, keep_sealed: bool = False
) -> tuple[ir.Message, ...]:
    """Drop empty texts, also inside tool results, and messages that are empty then. Nothing is added.

    The cache mark of a dropped text moves to the part before it in the same message.

    Args:
        messages: The conversation.
        blank: Also drop texts of white space alone (Anthropic refuses them).
        keep_sealed: Keep an empty text that carries seals (Gemini seals them).
    """

    def is_empty(part: object) -> bool:
        if not isinstance(part, ir.Text) or (keep_sealed and part.seals):
            return False
        return not (part.text.strip() if blank else part.text)

    kept: list[ir.Message] = []
    for message in messages:
        parts = _filled_parts(message.parts, is_empty)
        if parts:
            kept.append(message if parts == message.parts else msgspec.structs.replace(message, parts=parts))
    return tuple(kept)


def _filled_parts(parts: Sequence[ir.Part], is_empty: Callable[[object], bool]) -> tuple[ir.Part, ...]:
    kept: list[ir.Part] = []
    for part in parts:
        if is_empty(part):
            if part.cache_mark and kept and kept[-1].cache_mark is None:
                kept[-1] = msgspec.structs.replace(kept[-1], cache_mark=part.cache_mark)
        elif isinstance(part, ir.ToolResult) and any(map(is_empty, part.content)):
            content = tuple(inner for inner in part.content if not is_empty(inner))
            kept.append(msgspec.structs.replace(part, content=content))
        else:
            kept.append(part)
    return tuple(kept)


def arguments_object(text: str) -> dict[str, Any]:
    """Return a call's arguments as an object, whatever the model wrote.

    Nothing or `null` is `{}`, another JSON value is `{"value": ...}`, anything else is `{"_raw": text}`.
    """
    if not text.strip():
        return {}
    try:
        value = decode(_bounded(text))
    except (ValueError, RecursionError):  # not JSON, too deep, or too many values
        return {"_raw": text}
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    return {} if value is None else {"value": value}


def is_object(text: str) -> bool:
    """Return whether arguments are one complete JSON object."""
    return _object_text(text) is not None


def arguments_raw(text: str) -> msgspec.Raw:
    """Return `arguments_object` as JSON; an object keeps its text (number spelling, key order)."""
    written = _object_text(text)
    return msgspec.Raw(msgspec.json.encode(arguments_object(text)) if written is None else written)


def _object_text(text: str) -> bytes | None:
    """Return the text of arguments that are one JSON object; its values are checked, not decoded."""
    if not text.lstrip(_SPACE).startswith("{"):
        return None
    try:
        data = _bounded(text)
        _MEMBERS.decode(data)
    except (ValueError, RecursionError):
        return None
    return data


def _bounded(text: str) -> bytes:
    """Arguments as bytes, with U+FFFD for each lone half of a surrogate pair in their escapes.

    Raises:
        ValueError: They nest too deep, hold too many values, or hold half a character.
    """
    data = text.strip(_SPACE).encode()
    # How deep a JSON reader can go differs between versions of Python, so the limit is our own.
    if len(data) > _ARGUMENTS.json_depth:
        count_values(data, _ARGUMENTS)
    return replace_halves(data) or data
