"""Decode and encode thought signatures.

Google seals calls and texts with a `thoughtSignature`; its own signatures pass unchanged. State of another issuer is
wrapped (see `seals.py`), which is valid as protobuf bytes, and put on the next part that is not a thought: on the call
that it led to, if there is one. In requests it moves back to the thought before that part. Google's state that was
wrapped because its route belongs to another provider stays on its part.
"""

import re

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.gemini.schema import ISSUER, PLACEHOLDER_SIGNATURE
from llmproxy_asgi.translators.media import standard_base64
from llmproxy_asgi.translators.seals import unwrap, wrap

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_PLACEHOLDERS = frozenset({PLACEHOLDER_SIGNATURE, "context_engineering_is_the_way_to_go"})


def encode_signature(seal: ir.Seal) -> str:
    """Encode a seal as a client's `thoughtSignature`: always base64, because clients fail on anything else."""
    native = seal.issuer == ISSUER and seal.kind == "signature" and is_base64(seal.data)
    return seal.data if native else wrap(seal)


def is_base64(data: str) -> bool:
    """Return whether a text is standard base64, as for a bytes field of protobuf."""
    return _BASE64.fullmatch(data) is not None and len(data) % 4 == 0


def decode_signature(text: str) -> ir.Seal | None:
    """Decode a client's signature; None for a placeholder. Clients may change the base64 alphabet."""
    if not text or text.rstrip("=").replace("/", "_").replace("+", "-") in _PLACEHOLDERS:
        return None
    return unwrap(text) or ir.Seal(issuer=ISSUER, kind="signature", data=standard_base64(text))


def is_part_seal(seal: ir.Seal) -> bool:
    """Return whether a seal belongs to its own part, as Google's do, not to the thought before it."""
    return seal.issuer.startswith(ISSUER)


def attach_to_reasoning(parts: list[ir.Part], seal: ir.Seal) -> None:
    """Attach a seal to the reasoning at the end of these parts if that has none, else to a new one after them."""
    last = parts[-1] if parts else None
    if isinstance(last, ir.Reasoning) and not last.seals and seal.kind != "redacted":
        parts[-1] = ir.Reasoning(text=last.text, style=last.style, seals=(seal,))
    else:
        parts.append(ir.Reasoning(redacted=seal.kind == "redacted", seals=(seal,)))
