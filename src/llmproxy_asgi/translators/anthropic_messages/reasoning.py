"""Thinking blocks and the state in them.

Anthropic's own signatures and redacted blobs pass as they are. State of another issuer is wrapped (see `seals.py`), so
that Anthropic's clients, who send every block back as it came, keep it between turns. Thinking that nobody signed gets
a wrapped seal without content: it marks the text as ours, so that it is never presented to Anthropic as its own.
"""

import msgspec

from llmproxy_asgi.conversation import JSONObject, Reasoning, Seal
from llmproxy_asgi.translators.anthropic_messages.schema import ISSUER
from llmproxy_asgi.translators.seals import unwrap, wrap

_UNSIGNED = Seal(issuer="none", kind="signature", data="")
UNSIGNED = wrap(_UNSIGNED)
"""The signature of thinking that its maker did not sign."""


def decode_thinking(text: str, signature: str) -> Reasoning:
    """A `thinking` block of a caller's."""
    return Reasoning(text=text, seals=_seals(signature, "signature"))


def decode_redacted(data: str) -> Reasoning:
    """A `redacted_thinking` block of a caller's: Anthropic's, or another issuer's state without readable text."""
    seals = _seals(data, "redacted")
    return Reasoning(redacted=any(seal.kind == "redacted" for seal in seals), seals=seals)


def _seals(data: str, kind: str) -> tuple[Seal, ...]:
    if not data:
        return ()
    seal = unwrap(data) or Seal(issuer=ISSUER, kind="redacted" if kind == "redacted" else "signature", data=data)
    return (seal,) if seal.data else ()


def signature_of(seal: Seal | None) -> str:
    """What a client gets as the signature of a thinking block."""
    if seal is None:
        return UNSIGNED
    return seal.data if seal.issuer == ISSUER and seal.kind == "signature" else wrap(seal)


def redacted_block(seal: Seal) -> JSONObject:
    """State without readable text."""
    data = seal.data if seal.issuer == ISSUER and seal.kind == "redacted" else wrap(seal)
    return {"type": "redacted_thinking", "data": data}


def needs_thinking_block(text: str, seals: tuple[Seal, ...]) -> bool:
    """Whether reasoning is written as `thinking`: it has words, or Anthropic signed that it shows none."""
    return bool(text) or any(seal.issuer == ISSUER and seal.kind == "signature" for seal in seals[:1])


def encode_reasoning(part: Reasoning) -> list[JSONObject]:
    """The blocks of one reasoning part for a client; none where it has neither words nor state."""
    first, rest = part.seals[:1], part.seals[1:]
    blocks: list[JSONObject] = []
    if needs_thinking_block(part.text, part.seals) and not part.redacted:
        signature = signature_of(first[0] if first else None)
        blocks.append({"type": "thinking", "thinking": part.text, "signature": signature})
    else:
        rest = part.seals
    return [*blocks, *(redacted_block(seal) for seal in rest)]


def for_call(seal: Seal, call_id: str) -> JSONObject:
    """State that hangs on a call: a block before it that remembers whose it is."""
    return redacted_block(msgspec.structs.replace(seal, item_id=seal.item_id or call_id))
