"""Response headers about a call, each with a bound.

Common proxies accept 4 or 8 KiB of headers in total, including the host's cookies. The gateway's headers stay below 2
KiB with the longest request id. They can contain clients' text: characters that a header cannot contain become `?`.
"""

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from llmproxy_asgi.facts import Step

MAX_MODEL = 200
"""Bytes of `x-llmproxy-model`."""
MAX_WARNINGS = 700
"""Bytes of `x-llmproxy-warnings`."""
MAX_EXPLAIN = 600
"""Bytes of `x-llmproxy-explain`."""
OTHERS = "dropped:others"
"""The last warning, if not all of them fit."""

_CACHED = 256
"""Cached headers of each kind: most calls have one of a few."""
_JSON = msgspec.json.Encoder()

Headers = list[tuple[bytes, bytes]]


def model_headers(model: str, warnings: Sequence[str]) -> Headers:
    """Return the headers for the upstream's model name and for warnings."""
    headers = [_model_header(model)]
    if warnings:
        headers.append((b"x-llmproxy-warnings", header_text(_join_warnings(warnings))))
    return headers


def attempt_headers(attempts: int, steps: Sequence[Step] | None) -> Headers:
    """Return the headers for the number of attempts and, unless `steps` is None, for the steps of the call."""
    headers = [_attempts_header(attempts)]
    if steps is not None:
        headers.append((b"x-llmproxy-explain", header_text(_steps_json(steps))))
    return headers


def header_text(text: str) -> bytes:
    """Encode text as a header's value."""
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode("ascii")


@lru_cache(_CACHED)
def _model_header(model: str) -> tuple[bytes, bytes]:
    return b"x-llmproxy-model", header_text(model)[:MAX_MODEL]


@lru_cache(_CACHED)
def _attempts_header(attempts: int) -> tuple[bytes, bytes]:
    return b"x-llmproxy-attempts", str(attempts).encode()


def _join_warnings(warnings: Sequence[str]) -> str:
    text = ", ".join(warnings)
    if len(text) <= MAX_WARNINGS:
        return text
    kept = text[: MAX_WARNINGS - len(OTHERS) - 1].rpartition(", ")[0]
    return f"{kept}, {OTHERS}" if kept else OTHERS


def _steps_json(steps: Sequence[Step]) -> str:
    """Return the steps as JSON: the first ones, the number of those that did not fit, and the last one."""
    texts = [_JSON.encode(step).decode() for step in steps]
    text = f"[{','.join(texts)}]"
    if len(text) <= MAX_EXPLAIN:
        return text
    room = MAX_EXPLAIN - len('[{"omitted":999999},]')
    last = texts[-1:] if len(texts[-1]) <= room else []
    room -= sum(map(len, last))
    first: list[str] = []
    for step in texts[:-1]:
        room -= len(step) + 1
        if room < 0:
            break
        first.append(step)
    omitted = f'{{"omitted":{len(texts) - len(first) - len(last)}}}'
    return f"[{','.join([*first, omitted, *last])}]"
