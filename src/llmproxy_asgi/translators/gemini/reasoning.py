"""Thoughts and their signatures.

Google seals calls and texts with a `thoughtSignature`; its own pass as they are. State of another issuer is wrapped
(see `seals.py`), which is legal as protobuf bytes, and hangs on the next part that is no thought: on the call that it
led to, if there is one. Coming back, it belongs to the thought before it again. Google's state that was wrapped because
its route is another provider's stays on its part.
"""

import re

from llmproxy_asgi.conversation import Part, Reasoning, Seal
from llmproxy_asgi.translators.gemini.schema import ISSUER, STAND_IN
from llmproxy_asgi.translators.media import standard_base64
from llmproxy_asgi.translators.seals import unwrap, wrap

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_STAND_INS = frozenset({STAND_IN, "context_engineering_is_the_way_to_go"})


def signature_of(seal: Seal) -> str:
    """What a client gets as `thoughtSignature`: always base64, or its reader breaks."""
    native = seal.issuer == ISSUER and seal.kind == "signature" and is_base64(seal.data)
    return seal.data if native else wrap(seal)


def is_base64(data: str) -> bool:
    """Whether this can be the bytes of a protobuf field."""
    return _BASE64.fullmatch(data) is not None and len(data) % 4 == 0


def decode_signature(text: str) -> Seal | None:
    """A signature that a client sent back; None where it stands for none. Clients may change the alphabet."""
    if not text or text.rstrip("=").replace("/", "_").replace("+", "-") in _STAND_INS:
        return None
    return unwrap(text) or Seal(issuer=ISSUER, kind="signature", data=standard_base64(text))


def is_of_part(seal: Seal) -> bool:
    """Whether a seal belongs to the very part it came on, as Google's do, and not to the thought before it."""
    return seal.issuer.startswith(ISSUER)


def give_back_to_thought(parts: list[Part], seal: Seal) -> None:
    """Put a seal on the thought that these parts end with, or on a new one behind them where none waits for it."""
    last = parts[-1] if parts else None
    if isinstance(last, Reasoning) and not last.seals and seal.kind != "redacted":
        parts[-1] = Reasoning(text=last.text, style=last.style, seals=(seal,))
    else:
        parts.append(Reasoning(redacted=seal.kind == "redacted", seals=(seal,)))
