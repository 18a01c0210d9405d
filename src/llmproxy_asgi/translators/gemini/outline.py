"""The outline of Google's requests; every field has two valid spellings: camel case and snake case.

Source: the types of Google's Python SDK google-genai 3.4.0, read 2026-12-01.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators.gemini.options import OPTIONS
from llmproxy_asgi.translators.gemini.proto import camel, find_items, snake
from llmproxy_asgi.translators.outline import Counted, Outline
from llmproxy_asgi.wire.json_body import decode


def both_spellings(*names: str) -> list[str]:
    """Return names that are given in camel case in both spellings."""
    return [spelling for name in names for spelling in (name, snake(name))]


def refuse_both_spellings(fields: Collection[str], *, within: str = "") -> None:
    """Refuse a field that is present in both spellings, because servers differ in which one they use.

    Args:
        fields: The members of an object.
        within: The object's path.

    Raises:
        BadRequest: A field is present in both spellings.
    """
    for name in fields:
        if "_" in name and (other := camel(name)) != name and other in fields:
            path = f"{within}{name}"
            raise BadRequest(f"{path} and {other} are one field: send it once.", param=path, code="invalid_value")


def refuse_both_spellings_within(raw: Mapping[str, msgspec.Raw]) -> None:
    """Refuse fields in both spellings within a request's options, which are decoded only if they contain `_`.

    Names of a schema's properties are not checked: the caller chooses them.

    Raises:
        BadRequest: A field is present in both spellings.
    """
    for name in _OPTIONS:
        for key, value in find_items(raw, name):
            if b"_" in bytes(value):
                with suppress(
                    msgspec.DecodeError, UnicodeDecodeError, RecursionError
                ):  # the upstream reports the error
                    _refuse_nested(decode(value), key)


def _refuse_nested(found: Any, path: str) -> None:
    if isinstance(found, list):
        for number, each in enumerate(found):
            _refuse_nested(each, f"{path}[{number}]")
    elif isinstance(found, dict):
        refuse_both_spellings(found.keys(), within=f"{path}.")
        for key, each in found.items():
            if camel(key) not in _SCHEMAS:
                _refuse_nested(each, f"{path}.{key}")


_OPTIONS = ("generationConfig", "toolConfig")
_SCHEMAS = frozenset({"responseSchema", "responseJsonSchema", "schema"})
"""Options whose members the caller names."""


OUTLINE = Outline(
    OPTIONS.known.union(both_spellings("safetySettings", "cachedContent", "labels", "store", "generateContentRequest")),
    Counted("contents", "messages"),
    Counted("tools", "tools", within=("functionDeclarations", "function_declarations")),
)
