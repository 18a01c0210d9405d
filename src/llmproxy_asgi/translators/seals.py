"""Reasoning state of one vendor, carried through the protocol of another.

A vendor's reasoning state is a blob that only its issuer can open. A caller who speaks another protocol gets it
wrapped: base64 text that is legal as an Anthropic signature, as OpenAI's encrypted content and as protobuf bytes.
Callers echo such blobs untouched, so any caller keeps any upstream's state between turns.

A wrapped seal is not signed. A forged one can only reach the issuer that it names, who checks its own state; so
nothing here trusts the content, and nothing here opens it. No seal is ever turned into visible text.
"""

from collections.abc import Iterable

from llmproxy_asgi.conversation import Seal
from llmproxy_asgi.translators.base import Upstream


def wrap(seal: Seal) -> str:
    """The seal as standard base64. Deterministic: the same seal gives the same text in every turn."""
    raise NotImplementedError


def unwrap(text: str) -> Seal | None:
    """The seal that `wrap` wrapped, or None where `text` is not one of ours. Never raises, whatever the text."""
    raise NotImplementedError


def usable(seal: Seal, upstream: Upstream) -> bool:
    """Whether this upstream can open the seal: its issuer matches, and a signature's model where both are known."""
    raise NotImplementedError


def keep(seals: Iterable[Seal], upstream: Upstream) -> tuple[tuple[Seal, ...], int]:
    """The seals that this upstream can open, and how many others there were."""
    raise NotImplementedError
