"""Estimate a request's tokens where no upstream counts them: a rule of thumb, rounded up, not a tokenizer.

Everything that a model would read is counted: instructions, turns, calls and results, tools, the wanted form of the
answer, images, audio, video and documents. State that only its vendor can open is not: it is not read as tokens.

Text is weighed by its UTF-8 bytes: letters and blanks 0.23 tokens each, digits 0.4, other ASCII 0.55; characters of
two bytes 0.5, of three bytes (Chinese, Japanese, Korean, Thai...) 1, of four bytes (emoji) 2. An image's size is read
from its first bytes and weighed by the upstream's vendor's published rule; what is given by address alone is taken for
a large one. The same request always gives the same number, in time that grows with its length alone.
"""

import re
import string
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.images import image_size

_PER_REQUEST = 3
_PER_MESSAGE = 4
_PER_TOOL = 8
_PER_CALL = 8

# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_WORDS = (string.ascii_letters + string.whitespace).encode()
_DIGITS = string.digits.encode()
_INNER = bytes(range(0x80, 0xC0))
"""Every byte of a character but its first."""
_TWO, _THREE = bytes(range(0xC0, 0xE0)), bytes(range(0xE0, 0xF0))
_FOUR = bytes(range(0xF0, 0x100))
_ASCII_REST = bytes(set(range(0x80)) - set(_WORDS) - set(_DIGITS))
_HUNDREDTHS = ((_DIGITS, 40), (_ASCII_REST, 55), (_TWO, 50), (_THREE, 100), (_FOUR, 200))
_WORD_HUNDREDTHS = 23


def weigh(data: bytes) -> int:
    """Hundredths of a token that a text is, by its UTF-8 bytes."""
    inner = 0 if data.isascii() else len(data) - len(data.translate(None, _INNER))
    rest = data.translate(None, _WORDS + _INNER)
    weight = _WORD_HUNDREDTHS * (len(data) - inner - len(rest))
    for kind, hundredths in _HUNDREDTHS:
        if not rest:
            break
        left = rest.translate(None, kind)
        weight += hundredths * (len(rest) - len(left))
        rest = left
    return weight


# ── images, audio, video and documents ────────────────────────────────────────────────────────────────────────────────

_LARGE_IMAGE = (1600, 1200)


def _anthropic_image(width: int, height: int, _detail: str | None) -> int:
    """Pixels by 750, after the long edge is brought down to 1568."""
    scale = min(1.0, 1568 / max(width, height))
    return min(1600, ceil(width * scale * height * scale / 750))


def _openai_image(width: int, height: int, detail: str | None) -> int:
    """85, and 170 for each tile of 512, after it is brought within 2048 and its short edge down to 768."""
    if detail == "low":
        return 85
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (min(width, height) * scale))
    return 85 + 170 * ceil(width * scale / 512) * ceil(height * scale / 512)


def _google_image(width: int, height: int, _detail: str | None) -> int:
    """258 where it is small, else 258 for each tile, whose edge is two thirds of the short edge, from 256 to 768."""
    if max(width, height) <= 384:
        return 258
    edge = min(768, max(256, int(min(width, height) / 1.5)))
    return min(258 * 3000, 258 * ceil(width / edge) * ceil(height / edge))


class _Vendor(msgspec.Struct, frozen=True, kw_only=True):
    image: Callable[[int, int, str | None], int]
    page: int
    """Tokens of one page of a document, including its image where the vendor reads it."""
    audio_second: int
    """Tokens of one second of audio."""


_OPENAI = _Vendor(image=_openai_image, page=1500, audio_second=10)
_VENDORS: Mapping[str, _Vendor] = {
    "anthropic-messages": _Vendor(image=_anthropic_image, page=3000, audio_second=10),
    "gemini": _Vendor(image=_google_image, page=258, audio_second=32),
}
_VIDEO_SECOND = 300
_VIDEO_BYTE_RATE = 250_000
"""Bytes assumed for one second of video."""
_AUDIO_BYTE_RATE = 16_000
"""Bytes assumed for one second of audio whose header gives no byte rate."""
_PAGE = re.compile(rb"/Type\s*/Page(?!s)")
_PAGE_SIZE = 60_000
"""Bytes assumed for one page of a document whose pages cannot be counted."""
_PAGES_BY_LINK = 10
_SECONDS_BY_LINK = 60


def estimate(request: ir.Request, protocol: str) -> int:
    """Estimate the tokens of a request's input.

    Args:
        request: Read whole.
        protocol: The upstream's protocol, whose vendor's rule for images applies.
    """
    tally = _Tally(_VENDORS.get(protocol, _OPENAI))
    tally.add(_PER_REQUEST)
    for message in request.messages:
        tally.message(message)
    for tool in request.tools:
        tally.tool(tool)
    if request.output.schema is not None:
        tally.json(request.output.schema)
    return tally.tokens


class _Tally:
    def __init__(self, vendor: _Vendor) -> None:
        self._vendor = vendor
        self._hundredths = 0

    @property
    def tokens(self) -> int:
        return -(-self._hundredths // 100)

    def add(self, tokens: int) -> None:
        self._hundredths += 100 * tokens

    def text(self, *texts: str | None) -> None:
        for text in texts:
            if text:
                self._hundredths += weigh(text.encode("utf-8", "surrogatepass"))

    def json(self, value: Any) -> None:
        self._hundredths += weigh(msgspec.json.encode(value))

    def message(self, message: ir.Message) -> None:
        self.add(_PER_MESSAGE)
        self.text(message.name)
        self._parts(message.parts)

    def tool(self, tool: ir.Tool) -> None:
        self.add(_PER_TOOL)
        self.text(tool.name, tool.description, tool.namespace)
        for described in (tool.parameters, tool.settings):
            if described:
                self.json(described)
        if tool.grammar is not None:
            self.text(tool.grammar.definition)

    def _parts(self, parts: Iterable[ir.Part]) -> None:
        for part in parts:
            match part:
                case ir.Text(text=text) | ir.Reasoning(text=text) | ir.Refusal(text=text):
                    self.text(text)
                case ir.ToolCall(name=name, arguments=arguments) | ir.ServerToolCall(tool=name, arguments=arguments):
                    self.add(_PER_CALL)
                    self.text(name, arguments)
                case ir.ToolResult(content=content):
                    self.add(_PER_CALL)
                    self._parts(content)
                case ir.ServerToolResult(hits=hits, content=opaque):
                    for hit in hits:
                        self.text(hit.url, hit.title, hit.text)
                    self._parts(opaque)
                case ir.Media():
                    self._media(part)
                case ir.Opaque(data=data):
                    self.json(data)

    def _media(self, media: ir.Media) -> None:
        source = media.source
        self.text(media.name, media.title, media.context)
        if isinstance(source, ir.PlainText):
            self.text(source.text)
            return
        data = source.data if isinstance(source, ir.InlineData) else None
        match media.kind:
            case "image":
                width, height = (image_size(data) if data is not None else None) or _LARGE_IMAGE
                self.add(self._vendor.image(width, height, media.detail))
            case "audio":
                self.add(ceil(self._vendor.audio_second * _seconds(data)))
            case "video":
                seconds = _SECONDS_BY_LINK if data is None else len(data) * 3 / 4 / _VIDEO_BYTE_RATE
                self.add(ceil(_VIDEO_SECOND * seconds))
            case "document":
                self._document(data, media.media_type or "application/pdf")

    def _document(self, data: str | None, media_type: str) -> None:
        if data is None:
            self.add(_PAGES_BY_LINK * self._vendor.page)
            return
        content = _decoded(data)
        if media_type.startswith("text/"):
            self._hundredths += weigh(content)
        else:
            pages = sum(1 for _ in _PAGE.finditer(content)) or ceil(len(content) / _PAGE_SIZE)
            self.add(self._vendor.page * max(1, pages))


def _seconds(data: str | None) -> float:
    if data is None:
        return _SECONDS_BY_LINK
    head = _decoded(data[:64])
    byte_rate = int.from_bytes(head[28:32], "little") if head[:4] == b"RIFF" and head[8:12] == b"WAVE" else 0
    return len(data) * 3 / 4 / (byte_rate or _AUDIO_BYTE_RATE)


def _decoded(data: str) -> bytes:
    try:
        return b64decode(data)
    except ValueError:
        return data.encode("utf-8", "surrogatepass")  # no base64 after all: weighed as what it is
