"""A page of models as vendors list them: OpenAI's and Anthropic's `data`, Google's `models`, or a bare list.

Shapes read from the vendors' references on 2026-12-01: OpenAI sends one page; Anthropic says `has_more` and `last_id`;
Google says `nextPageToken`, and names that begin with `models/`. Together and others send the list alone.
"""

from typing import Any

import msgspec

from llmproxy_asgi.errors import UpstreamProtocolError

_LONGEST = 512
_METHODS = frozenset({"generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents"})
"""What of Google's models can be served."""


class Page(msgspec.Struct, frozen=True):
    """Names, and where the next page begins; empty: this is the last one."""

    names: tuple[str, ...]
    after: str = ""


def read_page(body: bytes) -> Page:
    """The page that an upstream sent; what in it is no model is left out.

    Raises:
        UpstreamProtocolError: It is no list of models.
    """
    try:
        found = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        found = None
    if type(found) is list:
        return Page(_names(found))
    if type(found) is dict:
        if type(found.get("models")) is list:
            after = found.get("nextPageToken")
            return Page(_names(found["models"]), after if type(after) is str else "")
        if type(found.get("data")) is list:
            last = found.get("last_id") if found.get("has_more") is True else ""
            return Page(_names(found["data"]), last if type(last) is str else "")
    raise UpstreamProtocolError("The upstream's list of models cannot be read.")


def _names(entries: list[Any]) -> tuple[str, ...]:
    return tuple(name for name in map(_name, entries) if name)


def _name(entry: Any) -> str:
    if type(entry) is dict:
        methods = entry.get("supportedGenerationMethods")
        if type(methods) is list and _METHODS.isdisjoint(each for each in methods if type(each) is str):
            return ""
        entry = entry.get("id") or entry.get("name")
    if type(entry) is not str:
        return ""
    name = entry.removeprefix("models/")
    return name if 0 < len(name) <= _LONGEST and name.isprintable() else ""
