"""Pages of models as vendors list them: OpenAI's and Anthropic's `data`, Google's `models`, or a bare list.

From the vendors' references, read 2026-12-01: OpenAI sends one page; Anthropic sends `has_more` and `last_id`; Google
sends `nextPageToken`, and names that begin with `models/`. Together and others send only the list.
"""

from typing import Any

import msgspec

from llmproxy_asgi.errors import UpstreamProtocolError

_MAX_NAME = 512
_METHODS = frozenset({"generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents"})
"""The methods of Google's models that the gateway can call."""


class Page(msgspec.Struct, frozen=True):
    """Names, and the start of the next page; empty: this is the last page."""

    names: tuple[str, ...]
    after: str = ""


def read_page(body: bytes) -> Page:
    """Read a page of models; entries that are no models are left out.

    Raises:
        UpstreamProtocolError: The body is no list of models.
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
    return name if 0 < len(name) <= _MAX_NAME and name.isprintable() else ""
