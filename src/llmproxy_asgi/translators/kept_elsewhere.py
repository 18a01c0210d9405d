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
from llmproxy_asgi.translators.outline import fold
from llmproxy_asgi.wire.json_body import decode

Named = Callable[[Mapping[str, Any]], Sequence[str] | None]
"""Which keys of an object name something that the vendor keeps (`""`: the object does so itself); None: whatever stands
in it is only told again. Asked of every object within what is searched."""

_ESCAPED_LETTER = re.compile(rb"\\u(?:00[4-7]|0131|017[fF]|212[aA])")
"""An escaped letter or underscore, or one that folds to a letter: no writer of JSON needs the former, and both hide a
word from a search in bytes."""
_FOLDING_LETTERS = ("\u017f".encode(), "\u212a".encode(), "\u0131".encode())
# No two repetitions share a character, and every match begins at a quote: one pass, whatever the text.
_FOLDING_NAME = re.compile(rb"\"[A-Za-z_]*+(?:\xc5\xbf|\xe2\x84\xaa|\xc4\xb1)[A-Za-z_\x80-\xff]*+\"\s*:")
_LONGEST = 64
"""Characters of a name that may fold to a known one."""


def unshared(path: str) -> Unsupported:
    """The refusal of a field."""
    return Unsupported(f"{path}: what the upstream keeps is not shared between callers; send it whole.", param=path)


def may_hide_names(data: bytes) -> bool:
    """Whether JSON has letters that may stand for those of a known name, so that a search in its bytes misses one."""
    if b"\\u" in data and _ESCAPED_LETTER.search(data) is not None:
        return True
    return (
        not data.isascii()
        and any(letter in data for letter in _FOLDING_LETTERS)
        and _FOLDING_NAME.search(data) is not None
    )


class Naming:
    """How the bytes of a value are searched for what names something that a vendor keeps.

    Args:
        hint: Words one of which stands in every value that names something, as regular expressions.
        names: Every member that is looked at, as `named` spells it.
        named: See `Named`.
    """

    def __init__(self, hint: str, names: Iterable[str], named: Named) -> None:
        self._hint = re.compile(f'"(?:{hint})"'.encode(), re.IGNORECASE)
        self._names = frozenset(names)
        self._folded = {fold(name): name for name in self._names}
        self.named = named

    def may_name(self, value: msgspec.Raw) -> bool:
        """Whether a value must be taken apart: it holds one of the words, or letters that may stand for some."""
        if self._hint.search(value) is not None:
            return True
        return may_hide_names(bytes(value))

    def as_loosely_read(self, value: Any) -> Any:
        """A value as a server reads it that matches names loosely; the very same where none has a second spelling."""
        if isinstance(value, list):
            read = [self.as_loosely_read(each) for each in value]
            return read if any(new is not old for new, old in zip(read, value, strict=True)) else value
        if not isinstance(value, dict):
            return value
        # A second spelling counts whatever stands beside it: the first one is looked at as it is.
        names = sorted(value, key=lambda name: self._meant(name) != name)
        fields = {self._meant(name): self.as_loosely_read(value[name]) for name in names}
        same = fields.keys() == value.keys() and all(fields[name] is each for name, each in value.items())
        return value if same else fields

    def _meant(self, name: str) -> str:
        return name if name in self._names or len(name) > _LONGEST else self._folded.get(fold(name), name)


def refuse_named(values: Mapping[str, msgspec.Raw], naming: Naming, *, within: Iterable[str]) -> None:
    """Refuse a request whose bytes would be passed on.

    Args:
        values: Its top level.
        naming: What is looked for.
        within: Where names may stand.

    Raises:
        Unsupported: It names something, in whatever spelling; `param` says where.
        BadRequest: It may do so in what cannot be read here, but maybe there.
    """
    for key in within:
        value = values.get(key)
        if value is None or not naming.may_name(value):
            continue
        try:
            read = decode(value)
            loosely = naming.as_loosely_read(read)
            path = _place(read, key, naming.named)
            if path is None and loosely is not read:
                path = _place(loosely, key, naming.named)
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
