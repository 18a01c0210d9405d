"""Base64 in its protocol forms: alphabets, data URLs, and the type of an image by its first bytes."""

from base64 import b64decode, b64encode
from collections.abc import Sequence

from llmproxy_asgi.translators.fields import Node

IMAGE_MARKS: tuple[tuple[str, str], ...] = (
    ("/9j/", "image/jpeg"),
    ("iVBORw0KGgo", "image/png"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
)
"""The first base64 characters of an image, and its media type."""


def image_type(data: str, declared: str | None) -> str:
    """Return an image's media type by its first bytes, else the declared one."""
    return next((media for mark, media in IMAGE_MARKS if data.startswith(mark)), declared or "image/png")


def standard_base64(data: str) -> str:
    """Return base64 in the standard alphabet, padded; such text is returned unchanged."""
    if "-" in data or "_" in data:
        data = data.replace("-", "+").replace("_", "/")
    return data if len(data) % 4 == 0 else data.rstrip("=") + "=" * (-len(data.rstrip("=")) % 4)


def data_url(node: Node) -> tuple[str | None, str | None]:
    """Return media type and base64 text of a data URL; (None, None) for any other URL."""
    text = node.text()
    if text[:5].lower() != "data:":
        return None, None
    head, comma, data = text.partition(",")
    words = head[5:].lower().split(";")
    if not comma or words[-1].strip() != "base64":
        node.fail("a data URL must hold base64.")
    return words[0].strip() or None, standard_base64(data)


def decoded_text(data: str) -> str | None:
    """Return the text encoded as base64; None where it is not base64."""
    try:
        return b64decode(data).decode("utf-8", errors="replace")
    except ValueError:
        return None


def joined_base64(pieces: Sequence[str]) -> str:
    """Join base64 pieces that were cut anywhere, or encoded (and padded) one by one.

    Raises:
        ValueError: A padded piece is not base64.
    """
    filled = [piece for piece in pieces if piece]
    if not any("=" in piece for piece in filled[:-1]):
        return "".join(filled)
    return b64encode(b"".join(b64decode(piece, validate=True) for piece in filled)).decode()
