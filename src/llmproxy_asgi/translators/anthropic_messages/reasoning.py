"""Decode and encode thinking blocks and the state in them.

Anthropic's own signatures and redacted data pass unchanged. State of another issuer is wrapped (see `seals.py`), so
that Anthropic's clients, which send every block back unchanged, keep it between requests. Unsigned thinking gets a
wrapped empty seal: it marks the text as the gateway's, so that it is never sent to Anthropic as Anthropic's own.
"""

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages.schema import ISSUER
from llmproxy_asgi.translators.seals import unwrap, wrap

_UNSIGNED = ir.Seal(issuer="none", kind="signature", data="")
UNSIGNED = wrap(_UNSIGNED)
"""The signature of thinking that its upstream did not sign."""


def decode_thinking(text: str, signature: str) -> ir.Reasoning:
    """Decode a caller's `thinking` block."""
    return ir.Reasoning(text=text, seals=_seals(signature, "signature"))


def decode_redacted(data: str) -> ir.Reasoning:
    """Decode a caller's `redacted_thinking` block: Anthropic's, or another issuer's state without readable text."""
    seals = _seals(data, "redacted")
    return ir.Reasoning(redacted=any(seal.kind == "redacted" for seal in seals), seals=seals)


def _seals(data: str, kind: str) -> tuple[ir.Seal, ...]:
    if not data:
        return ()
    seal = unwrap(data) or ir.Seal(issuer=ISSUER, kind="redacted" if kind == "redacted" else "signature", data=data)
    return (seal,) if seal.data else ()


def encode_signature(seal: ir.Seal | None) -> str:
    """Encode a seal as the signature of a thinking block for a client."""
    if seal is None:
        return UNSIGNED
    return seal.data if seal.issuer == ISSUER and seal.kind == "signature" else wrap(seal)


def redacted_block(seal: ir.Seal) -> JSONObject:
    """Encode a seal as a `redacted_thinking` block."""
    data = seal.data if seal.issuer == ISSUER and seal.kind == "redacted" else wrap(seal)
    return {"type": "redacted_thinking", "data": data}


def needs_thinking_block(text: str, seals: tuple[ir.Seal, ...]) -> bool:
    """Return whether reasoning becomes a `thinking` block: it has text, or Anthropic's signature for empty text."""
    return bool(text) or any(seal.issuer == ISSUER and seal.kind == "signature" for seal in seals[:1])


def encode_reasoning(part: ir.Reasoning) -> list[JSONObject]:
    """Encode one reasoning part into blocks for a client; none without text and state."""
    first, rest = part.seals[:1], part.seals[1:]
    blocks: list[JSONObject] = []
    if needs_thinking_block(part.text, part.seals) and not part.redacted:
        signature = encode_signature(first[0] if first else None)
        blocks.append({"type": "thinking", "thinking": part.text, "signature": signature})
    else:
        rest = part.seals
    return [*blocks, *(redacted_block(seal) for seal in rest)]


def redacted_block_for_call(seal: ir.Seal, call_id: str) -> JSONObject:
    """Encode state of a call as a block that precedes the call and names it."""
    return redacted_block(msgspec.structs.replace(seal, item_id=seal.item_id or call_id))
