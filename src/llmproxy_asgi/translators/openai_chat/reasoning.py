"""Reasoning in Chat Completions: three undocumented fields that the important clients support.

`reasoning_content` is for people. `reasoning_details` is for programs, which send it back: entries with an integer
`index`, the readable text by part, and the upstream's sealed state. Google's endpoint has the state of a call in
`tool_calls[].extra_content.google.thought_signature`.

Seals of other issuers are wrapped for callers and unwrapped in requests. Data that is not wrapped belongs to the
issuer that the decoder names.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.openai.mappings import NATIVE_ISSUER
from llmproxy_asgi.translators.seals import unwrap, wrap

GOOGLE_ISSUER = "gemini"
_FORMS_OF_OPEN_MODELS = (None, "unknown")
"""Formats of unsealed reasoning; other formats name the issuer of the state."""


def encode_seal(seal: ir.Seal) -> str:
    """Encode a seal's data for callers."""
    return seal.data if seal.issuer == NATIVE_ISSUER else wrap(seal)


def call_extras(seals: Iterable[ir.Seal]) -> dict[str, Any] | None:
    """Encode the `extra_content` of a call with a seal of Google."""
    for seal in seals:
        if seal.issuer == GOOGLE_ISSUER:
            return {"google": {"thought_signature": seal.data}}
        if seal.issuer.startswith(GOOGLE_ISSUER):
            return {"google": {"thought_signature": wrap(seal)}}
    return None


def seal_entry(
    seal: ir.Seal, number: int, *, continues: str | None = None, call_id: str | None = None
) -> dict[str, Any]:
    """Encode an entry of `reasoning_details` for a seal.

    Args:
        seal: The seal.
        number: The entry's index; equal to the index of the entry that it continues.
        continues: `text` or `summary` to seal a written entry of that kind.
        call_id: The call that the seal belongs to.
    """
    if continues is not None:
        return {"index": number, "type": f"reasoning.{continues}", "signature": encode_seal(seal)}
    if seal.kind == "signature" and call_id is None:
        return {"index": number, "type": "reasoning.text", "text": "", "signature": encode_seal(seal)}
    entry: dict[str, Any] = {"index": number, "type": "reasoning.encrypted", "data": encode_seal(seal)}
    known = call_id or (seal.item_id if seal.issuer == NATIVE_ISSUER else None)
    if known:
        entry["id"] = known
    return entry


def encode_details(
    parts: Sequence[ir.Reasoning], calls: Iterable[tuple[str, Sequence[ir.Seal]]]
) -> list[dict[str, Any]]:
    """Encode the `reasoning_details` of a complete message: its reasoning, then the seals of its calls."""
    entries: list[dict[str, Any]] = []
    for part in parts:
        field = "summary" if part.style == "summary" else "text"
        opened = bool(part.text)
        if opened:
            entries.append({"index": len(entries), "type": f"reasoning.{field}", field: part.text})
        for seal in part.seals:
            if opened and seal.kind == "signature" and "signature" not in entries[-1]:
                entries[-1]["signature"] = encode_seal(seal)
            else:
                entries.append(seal_entry(seal, len(entries)))
                opened = False
    for call_id, seals in calls:
        entries += [seal_entry(seal, len(entries) + n, call_id=call_id) for n, seal in enumerate(seals)]
    return entries


def decode_seal(
    blob: str,
    *,
    issuer: str,
    kind: str,
    item_id: str | None = None,
    model: str | None = None,
    form: str | None = None,
) -> ir.Seal:
    """Decode a seal: unwrap it, or assign unwrapped data to the issuer."""
    found = unwrap(blob)
    if found is not None:
        return found
    return ir.Seal(
        issuer=issuer,
        kind="encrypted" if kind == "encrypted" else "signature",
        data=blob,
        item_id=item_id,
        model=model,
        format=form,
    )


class Detail:
    """The readable fields of an entry of `reasoning_details`."""

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
    """Return the entries that are objects."""
    return [Detail(entry) for entry in found if type(entry) is dict] if type(found) is list else []


def decode_details(
    found: Any, *, issuer: str, call_ids: Iterable[str] = ()
) -> tuple[list[ir.Reasoning], dict[str, list[ir.Seal]]]:
    """Decode the reasoning of a complete message, and the seals of its calls by call id."""
    known = frozenset(call_ids)
    parts: list[ir.Reasoning] = []
    sealed: dict[str, list[ir.Seal]] = {}
    for detail in read_details(found):
        seals: list[ir.Seal] = []
        if detail.signature:
            seals.append(decode_seal(detail.signature, issuer=issuer, kind="signature", form=detail.form))
        if detail.data:
            data, known_as = detail.data, detail.id
            seals.append(decode_seal(data, issuer=issuer, kind="encrypted", item_id=known_as, form=detail.form))
        if detail.id in known and detail.id is not None and not detail.text:
            sealed.setdefault(detail.id, []).extend(seals)
        elif detail.data and not detail.text and parts and not parts[-1].seals and seals[0].kind == "encrypted":
            parts[-1] = ir.Reasoning(text=parts[-1].text, style=parts[-1].style, seals=tuple(seals))
        elif detail.text or seals:
            parts.append(
                ir.Reasoning(
                    text=detail.text,
                    style="summary" if detail.style == "summary" else "full",
                    redacted=not detail.text and any(seal.kind == "redacted" for seal in seals),
                    seals=tuple(seals),
                )
            )
    return parts, sealed


def google_signature(extra: Any) -> str | None:
    """Return the signature in a call's `extra_content`, if there is one."""
    google = extra.get("google") if type(extra) is dict else None
    blob = google.get("thought_signature") if type(google) is dict else None
    return blob if type(blob) is str and blob else None


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    return value if type(value) is str else ""
