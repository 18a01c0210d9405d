"""Reasoning state of one vendor, carried through the protocol of another.

A vendor's reasoning state is a blob that only its issuer can open. A caller who speaks another protocol gets it
wrapped: base64 text that is legal as an Anthropic signature, as OpenAI's encrypted content and as protobuf bytes.
Callers echo such blobs untouched, so any caller keeps any upstream's state between turns.

A wrapped seal is not signed. A forged one can only reach the issuer that it names, who checks its own state; so
nothing here trusts the content, and nothing here opens it. No seal is ever turned into visible text.
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable

import msgspec

from llmproxy_asgi.conversation import Seal
from llmproxy_asgi.translators.base import Upstream

_MARK = b"llmproxy1"
_SIGN = b64encode(_MARK).decode()  # nine bytes are twelve letters without padding, so they start every wrapped text
WRAPPED = _SIGN.encode()
"""How every wrapped seal begins, for a search in bytes."""
_URL_SAFE = str.maketrans("-_", "+/")
_LEVEL = 6

MAX_SIZE = 4 * 1024 * 1024
"""Bytes of a wrapped seal's JSON; nothing larger is unwrapped. A bomb stops here."""


def wrap(seal: Seal) -> str:
    """The seal as standard base64. Deterministic: the same seal gives the same text in every turn."""
    content = msgspec.json.encode(seal, order="sorted")
    return b64encode(_MARK + zlib.compress(content, _LEVEL)).decode()


def unwrap(text: str) -> Seal | None:
    """The seal that `wrap` wrapped, or None where `text` is not one of ours. Never raises, whatever the text.

    Callers who keep blobs as bytes may write them back in the URL-safe alphabet or without padding; both are read.
    """
    if not text.startswith(_SIGN) or len(text) > 2 * MAX_SIZE:
        return None
    letters = text.translate(_URL_SAFE).rstrip("=")
    try:
        packed = b64decode(letters + "=" * (-len(letters) % 4), validate=True)[len(_MARK) :]
        inflate = zlib.decompressobj()
        content = inflate.decompress(packed, MAX_SIZE + 1)
        if len(content) > MAX_SIZE or not inflate.eof or inflate.unused_data:
            return None
        return msgspec.json.decode(content, type=Seal)
    except (ValueError, zlib.error, RecursionError):
        return None


def usable(seal: Seal, upstream: Upstream) -> bool:
    """Whether this upstream can open the seal.

    The issuer decides. Signatures are bound to their model as well, where both models are known; encrypted and
    redacted state moves between the models of one issuer.
    """
    if seal.issuer != upstream.issuer:
        return False
    return not (seal.kind == "signature" and seal.model and upstream.model and seal.model != upstream.model)


def keep(seals: Iterable[Seal], upstream: Upstream) -> tuple[tuple[Seal, ...], int]:
    """The seals that this upstream can open, and how many others there were."""
    offered = tuple(seals)
    kept = tuple(seal for seal in offered if usable(seal, upstream))
    return kept, len(offered) - len(kept)
