"""Reject references to objects stored at the vendor: files, containers, caches, vector stores.

Several callers share a credential, so such an id may belong to any of them; it is rejected with its path. The state of
conversations is ours, so those ids pass. Only ids are searched for here; each protocol lists its own. References pass
where the operator allows it (`Capabilities.stored`), and for the host's own calls, which have no bytes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.outline import fold
from llmproxy_asgi.wire.json_body import contains, decode

ReferenceKeys = Callable[[Mapping[str, Any]], Sequence[str] | None]
"""Returns the keys of an object that refer to a stored object (`""`: the object itself does); None: do not search it.
Called for every object in the searched value."""

_ESCAPED_LETTER = re.compile(rb"\\u(?:00[4-7]|0131|017[fF]|212[aA])")
"""An escaped letter or underscore, or an escape that folds to a letter: JSON writers do not need them, and they hide a
word from a search in bytes."""
_BACKSLASH = ord("\\")
_FOLDING_LETTERS = ("\u017f".encode(), "\u212a".encode(), "\u0131".encode())
# No two repetitions share a character, and every match begins at a quote: one pass, whatever the text.
_FOLDING_NAME = re.compile(rb"\"[A-Za-z_]*+(?:\xc5\xbf|\xe2\x84\xaa|\xc4\xb1)[A-Za-z_\x80-\xff]*+\"\s*:")
_LONGEST = 64
"""Characters at most in a name that may fold to a known one."""


def may_hide_names(data: bytes) -> bool:
    """Whether JSON has escaped or folding letters, so that a search in its bytes may miss a known name."""
    # `b"..." in data` first tries to convert the left side to a number; that failure costs more than the search.
    if _BACKSLASH in data and data.find(b"\\u") >= 0 and contains(data, _ESCAPED_LETTER, _LONGEST):
        return True
    return (
        not data.isascii()
        and any(letter in data for letter in _FOLDING_LETTERS)
        and _FOLDING_NAME.search(data) is not None
    )


class ReferencePattern:
    """A pattern that finds references to stored objects in the bytes of a value.

    Args:
        hint: Alternatives of a regular expression, each beginning with a letter and of at most 60 letters; every value
            with a reference has a string that matches one in any case.
        names: All members that `reference_keys` reads.
        reference_keys: See `ReferenceKeys`.
    """

    def __init__(self, hint: str, names: Iterable[str], reference_keys: ReferenceKeys) -> None:
        letters = "".join({each[0] for each in hint.split("|")})
        # With the quote outside the group that ignores case, the search skips from quote to quote, and the first letter
        # excludes most strings.
        self._hint = re.compile(f'"(?=[{letters}{letters.upper()}])(?i:{hint})"'.encode())
        self._names = frozenset(names)
        self._folded = {fold(name): name for name in self._names}
        self.reference_keys = reference_keys

    def may_match(self, value: msgspec.Raw) -> bool:
        """Whether a value must be decoded: it matches the hint, or may hide a match."""
        data = bytes(value)
        return contains(data, self._hint, _LONGEST) or may_hide_names(data)

    def as_loosely_read(self, value: Any) -> Any:
        """Return a value as a server with loose name matching reads it; the same object if no name has a variant."""
        if isinstance(value, list):
            read = [self.as_loosely_read(each) for each in value]
            return read if any(new is not old for new, old in zip(read, value, strict=True)) else value
        if not isinstance(value, dict):
            return value
        # A variant overrides the exact name: the value as sent is searched, too.
        names = sorted(value, key=lambda name: self._canonical(name) != name)
        fields = {self._canonical(name): self.as_loosely_read(value[name]) for name in names}
        same = fields.keys() == value.keys() and all(fields[name] is each for name, each in value.items())
        return value if same else fields

    def _canonical(self, name: str) -> str:
        return name if name in self._names or len(name) > _LONGEST else self._folded.get(fold(name), name)


def reject_vendor_ids(values: Mapping[str, msgspec.Raw], pattern: ReferencePattern, *, within: Iterable[str]) -> None:
    """Reject a request that would pass through with references to stored objects.

    Args:
        values: Its top-level members.
        pattern: Finds the references.
        within: The members to search.

    Raises:
        Unsupported: It has a reference, in any spelling; `param` is its path.
        BadRequest: A member cannot be decoded here, but might be there.
    """
    for key in within:
        value = values.get(key)
        if value is None or not pattern.may_match(value):
            continue
        try:
            read = decode(value)
            loosely = pattern.as_loosely_read(read)
            path = _find_path(read, key, pattern.reference_keys)
            if path is None and loosely is not read:
                path = _find_path(loosely, key, pattern.reference_keys)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"{key} cannot be read: {error}.", param=key, code="invalid_value") from None
        if path is not None:
            raise refusals.vendor_reference(path)


def _find_path(found: Any, path: str, reference_keys: ReferenceKeys) -> str | None:
    if isinstance(found, list):
        return next(
            (
                found_path
                for n, each in enumerate(found)
                if (found_path := _find_path(each, f"{path}[{n}]", reference_keys))
            ),
            None,
        )
    if not isinstance(found, dict):
        return None
    keys = reference_keys(found)
    if keys is None:
        return None
    if keys:
        return f"{path}.{keys[0]}" if keys[0] else path
    return next(
        (
            found_path
            for key, each in found.items()
            if (found_path := _find_path(each, f"{path}.{key}", reference_keys))
        ),
        None,
    )
