"""Reasoning in Chat Completions: three fields that no official document knows and every client of weight does.

`reasoning_content` is what people read. `reasoning_details` is what programs send back: entries with an integer
`index`, the readable text part by part and the upstream's sealed state beside it. Google's own endpoint keeps the
state of a call in `tool_calls[].extra_content.google.thought_signature`.

A seal that is foreign to this protocol goes out wrapped and is unwrapped when it comes back. Unwrapped blobs are
taken to be the issuer's that the reader names.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmproxy_asgi.conversation import Reasoning, Seal
from llmproxy_asgi.translators.openai.mappings import NATIVE_ISSUER
from llmproxy_asgi.translators.seals import unwrap, wrap

GOOGLE_ISSUER = "gemini"
_FORMS_OF_OPEN_MODELS = (None, "unknown")
"""Formats of reasoning that no vendor seals; the others name the vendor whose state it is."""


def spelled(seal: Seal) -> str:
    """The seal's blob as a caller gets it."""
    return seal.data if seal.issuer == NATIVE_ISSUER else wrap(seal)


def call_extras(seals: Iterable[Seal]) -> dict[str, Any] | None:
    """`extra_content` of a call, where Google made its seal."""
    for seal in seals:
        if seal.issuer == GOOGLE_ISSUER:
            return {"google": {"thought_signature": seal.data}}
        if seal.issuer.startswith(GOOGLE_ISSUER):
            return {"google": {"thought_signature": wrap(seal)}}
    return None


def seal_entry(seal: Seal, number: int, *, goes_on: str | None = None, call_id: str | None = None) -> dict[str, Any]:
    """An entry of `reasoning_details` that holds a seal.

    Args:
        seal: What to hold.
        number: The entry's index; an entry that goes on keeps the index of the text before it.
        goes_on: `text` or `summary` where this seals the entry of that kind which is already written.
        call_id: The call that is sealed.
    """
    if goes_on is not None:
        return {"index": number, "type": f"reasoning.{goes_on}", "signature": spelled(seal)}
    if seal.kind == "signature" and call_id is None:
        return {"index": number, "type": "reasoning.text", "text": "", "signature": spelled(seal)}
    entry: dict[str, Any] = {"index": number, "type": "reasoning.encrypted", "data": spelled(seal)}
    known = call_id or (seal.item_id if seal.issuer == NATIVE_ISSUER else None)
    if known:
        entry["id"] = known
    return entry


def encode_details(parts: Sequence[Reasoning], calls: Iterable[tuple[str, Sequence[Seal]]]) -> list[dict[str, Any]]:
    """`reasoning_details` of a whole message: its reasoning parts, then the seals of its calls by call id."""
    entries: list[dict[str, Any]] = []
    for part in parts:
        field = "summary" if part.style == "summary" else "text"
        opened = bool(part.text)
        if opened:
            entries.append({"index": len(entries), "type": f"reasoning.{field}", field: part.text})
        for seal in part.seals:
            if opened and seal.kind == "signature" and "signature" not in entries[-1]:
                entries[-1]["signature"] = spelled(seal)
            else:
                entries.append(seal_entry(seal, len(entries)))
                opened = False
    for call_id, seals in calls:
        entries += [seal_entry(seal, len(entries) + n, call_id=call_id) for n, seal in enumerate(seals)]
    return entries


def opened_seal(
    blob: str,
    *,
    issuer: str,
    kind: str,
    item_id: str | None = None,
    model: str | None = None,
    form: str | None = None,
) -> Seal:
    """The seal in a blob: the one that was wrapped, else the named issuer's own."""
    found = unwrap(blob)
    if found is not None:
        return found
    return Seal(
        issuer=issuer,
        kind="encrypted" if kind == "encrypted" else "signature",
        data=blob,
        item_id=item_id,
        model=model,
        format=form,
    )


class Detail:
    """One entry of `reasoning_details`, whatever of it can be read."""

    __slots__ = ("data", "form", "id", "index", "raw", "signature", "style", "text")

    def __init__(self, found: Mapping[str, Any]) -> None:
        index = found.get("index")
        self.index = index if type(index) is int else None
        self.style = "summary" if found.get("type") == "reasoning.summary" else "full"
        self.text = _text(found, "text") or _text(found, "summary")
        self.signature = _text(found, "signature")
        self.data = _text(found, "data")
        self.id = _text(found, "id")
        self.form = _text(found, "format") or None
        self.raw = self.style == "full" and self.form in _FORMS_OF_OPEN_MODELS and not self.signature


def read_details(found: Any) -> list[Detail]:
    """The entries that are objects."""
    return [Detail(entry) for entry in found if type(entry) is dict] if type(found) is list else []


def decode_details(
    found: Any, *, issuer: str, call_ids: Iterable[str] = ()
) -> tuple[list[Reasoning], dict[str, list[Seal]]]:
    """The reasoning parts of a whole message, and the seals of its calls by call id."""
    known = frozenset(call_ids)
    parts: list[Reasoning] = []
    sealed: dict[str, list[Seal]] = {}
    for detail in read_details(found):
        seals: list[Seal] = []
        if detail.signature:
            seals.append(opened_seal(detail.signature, issuer=issuer, kind="signature", form=detail.form))
        if detail.data:
            data, known_as = detail.data, detail.id
            seals.append(opened_seal(data, issuer=issuer, kind="encrypted", item_id=known_as, form=detail.form))
        if detail.id in known and detail.id is not None and not detail.text:
            sealed.setdefault(detail.id, []).extend(seals)
        elif detail.data and not detail.text and parts and not parts[-1].seals and seals[0].kind == "encrypted":
            parts[-1] = Reasoning(text=parts[-1].text, style=parts[-1].style, seals=tuple(seals))
        elif detail.text or seals:
            parts.append(
                Reasoning(
                    text=detail.text,
                    style="summary" if detail.style == "summary" else "full",
                    redacted=not detail.text and any(seal.kind == "redacted" for seal in seals),
                    seals=tuple(seals),
                )
            )
    return parts, sealed


def google_signature(extra: Any) -> str | None:
    """The blob in a call's `extra_content`, if there is one."""
    google = extra.get("google") if type(extra) is dict else None
    blob = google.get("thought_signature") if type(google) is dict else None
    return blob if type(blob) is str and blob else None


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    return value if type(value) is str else ""
