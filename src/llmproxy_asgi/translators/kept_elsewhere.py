"""What a request names that its vendor keeps: files, containers, caches, vector stores.

Behind a credential that several people share such a name may be anybody's, so it is refused by its path; state of a
conversation we serve ourselves. Only names are looked for here; which there are is each protocol's to say. What a
vendor keeps is passed on where the operator says so (`Capabilities.stored`), and to the host's own program, which
calls without any bytes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from llmproxy_asgi.errors import BadRequest, Unsupported

Named = Callable[[Mapping[str, Any]], Sequence[str] | None]
"""Which keys of an object name something that the vendor keeps (`""`: the object does so itself); None: whatever stands
in it is only told again. Asked of every object within what is searched."""

_ODD_SPELLING = re.compile(rb"\\u00[4-7]")
"""An escaped letter or underscore: no writer of JSON needs that, and it hides a word from a search in bytes."""


def unshared(path: str) -> Unsupported:
    """The refusal of a field."""
    return Unsupported(f"{path}: what the upstream keeps is not shared between callers; send it whole.", param=path)


def refuse_named(
    values: Mapping[str, msgspec.Raw], *, hint: re.Pattern[bytes], within: Iterable[str], named: Named
) -> None:
    """Refuse a request whose bytes would be passed on.

    Args:
        values: Its top level.
        hint: Hits in every value that may name something in plain letters; what neither it hits in, nor has escaped
            letters, is never taken apart.
        within: Where names may stand.
        named: See `Named`.

    Raises:
        Unsupported: It names something; `param` says where.
        BadRequest: It may do so in what cannot be read here, but maybe there.
    """
    for key in within:
        value = values.get(key)
        if value is None or (hint.search(value) is None and not _has_odd_spelling(value)):
            continue
        try:
            path = _place(msgspec.json.decode(value), key, named)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"{key} cannot be read: {error}.", param=key, code="invalid_value") from None
        if path is not None:
            raise unshared(path)


def _place(found: Any, path: str, named: Named) -> str | None:
    if isinstance(found, list):
        return next((place for n, each in enumerate(found) if (place := _place(each, f"{path}[{n}]", named))), None)
    if not isinstance(found, dict):
        return None
    keys = named(found)
    if keys is None:
        return None
    if keys:
        return f"{path}.{keys[0]}" if keys[0] else path
    return next((place for key, each in found.items() if (place := _place(each, f"{path}.{key}", named))), None)


def _has_odd_spelling(value: msgspec.Raw) -> bool:
    return b"\\u00" in bytes(value) and _ODD_SPELLING.search(value) is not None  # the former is far the cheaper one
