"""Reasoning state of one vendor, carried through the protocol of another.

A vendor's reasoning state is a blob that only its issuer can open. A client of another protocol gets it
wrapped: base64 text that is legal as an Anthropic signature, as OpenAI's encrypted content and as protobuf bytes.
Clients return such blobs unchanged, so any client keeps any upstream's state between turns.

A wrapped seal is not signed. A forged one can only reach the issuer that it names, which checks its own state; so
this module neither trusts nor opens the content. No seal ever becomes visible text.
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.base import Upstream

_MARK = b"llmproxy1"
_SIGN = b64encode(
    _MARK
).decode()  # nine bytes encode to twelve characters without padding, so they begin every wrapped text
WRAPPED = _SIGN.encode()
"""The first bytes of every wrapped seal, for searches in bodies."""
_URL_SAFE = str.maketrans("-_", "+/")
_LEVEL = 6

MAX_SIZE = 4 * 1024 * 1024
"""Maximum bytes of a wrapped seal's JSON: the bound on decompression."""


def wrap(seal: ir.Seal) -> str:
    """Return the seal as standard base64. Deterministic: equal seals give equal texts in every turn."""
    content = msgspec.json.encode(seal, order="sorted")
    return b64encode(_MARK + zlib.compress(content, _LEVEL)).decode()


def unwrap(text: str) -> ir.Seal | None:
    """Return the seal in a text made by `wrap`; None for any other text. Never raises.

    Clients that store blobs as bytes may return them in the URL-safe alphabet or without padding; both are accepted.
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
        return msgspec.json.decode(content, type=ir.Seal)
    except (ValueError, zlib.error, RecursionError):
        return None


def usable(seal: ir.Seal, upstream: Upstream) -> bool:
    """Return whether this upstream can open the seal.

    The issuer decides. Signatures are bound to their model as well, where both models are known; encrypted and
    redacted state moves between the models of one issuer.
    """
    if seal.issuer != upstream.issuer:
        return False
    return not (seal.kind == "signature" and seal.model and upstream.model and seal.model != upstream.model)


def keep(seals: Iterable[ir.Seal], upstream: Upstream) -> tuple[tuple[ir.Seal, ...], int]:
    """Return the seals that this upstream can open, and the number of others."""
    offered = tuple(seals)
    kept = tuple(seal for seal in offered if usable(seal, upstream))
    return kept, len(offered) - len(kept)
