"""The headers that an answer carries about its call, each within a bound.

Common proxies take 4 or 8 KiB of headers in sum, the host's own cookies included. All of ours, with the longest request
id, stay below 2 KiB. Names in them can be callers' text: what a header cannot carry is shown as a question mark.
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
"""The last warning, where not all of them fit."""

_REMEMBERED = 256
"""Headers of each kind that are made once: most calls have one of a few."""
_JSON = msgspec.json.Encoder()

Headers = list[tuple[bytes, bytes]]


def model_headers(model: str, warnings: Sequence[str]) -> Headers:
    """Return the upstream's name of the model, and what was lost or approximated."""
    headers = [_model_header(model)]
    if warnings:
        headers.append((b"x-llmproxy-warnings", header_text(_joined(warnings))))
    return headers


def attempt_headers(attempts: int, steps: Sequence[Step] | None) -> Headers:
    """Return how many requests went to upstreams and, unless `steps` is None, what was tried and why."""
    headers = [_attempts_header(attempts)]
    if steps is not None:
        headers.append((b"x-llmproxy-explain", header_text(_explained(steps))))
    return headers


def header_text(text: str) -> bytes:
    """Return the text as a header's value."""
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode("ascii")


@lru_cache(_REMEMBERED)
def _model_header(model: str) -> tuple[bytes, bytes]:
    return b"x-llmproxy-model", header_text(model)[:MAX_MODEL]


@lru_cache(_REMEMBERED)
def _attempts_header(attempts: int) -> tuple[bytes, bytes]:
    return b"x-llmproxy-attempts", str(attempts).encode()


def _joined(warnings: Sequence[str]) -> str:
    text = ", ".join(warnings)
    if len(text) <= MAX_WARNINGS:
        return text
    kept = text[: MAX_WARNINGS - len(OTHERS) - 1].rpartition(", ")[0]
    return f"{kept}, {OTHERS}" if kept else OTHERS


def _explained(steps: Sequence[Step]) -> str:
    """Return the steps as JSON: the first ones and the last, with the number of those that did not fit in between."""
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
