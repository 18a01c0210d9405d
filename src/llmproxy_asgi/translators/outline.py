"""The outline of a protocol's requests: the names at the top level of a body, and the lists there that are counted.

A name that differs from a known one only in case, or in letters that fold to the same (`Model`, `\u017ftore`, full
width), is refused: servers that match names loosely would read it as the known one, after this gateway has decided by
another.
"""

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from llmproxy_asgi.errors import BadRequest
from llmproxy_asgi.wire.json_body import DEFAULT_BOUNDS, Bounds, MalformedBody, Opened, elements, open_object

Bound: TypeAlias = Literal["messages", "tools"]

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DIGITS = b"0123456789"
_LONGEST = 64
"""Characters of a name that may fold to a known one; folding never makes one shorter."""


class Counted(msgspec.Struct, frozen=True):
    """A list at the top level and the maximum of its elements."""

    field: str
    bound: Bound
    within: tuple[str, ...] = ()
    """Members of each element whose own elements count in its place, where it has one."""
    least: int = 0
    """The number that is always accepted, however low the bound is."""


class Outline:
    """The top level of one protocol's requests.

    Args:
        names: Every known name.
        counted: The lists whose elements are counted.
        values: The number of JSON values that is always accepted, however low the bound is.
    """

    __slots__ = ("_counted", "_folded", "_names", "_values")

    def __init__(self, names: Iterable[str], *counted: Counted, values: int = 0) -> None:
        self._names = frozenset(names)
        self._folded = {fold(name): name for name in sorted(self._names)}
        self._counted = counted
        self._values = values

    def open(self, body: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> Opened:
        """Return the top-level values of a request's body, unparsed.

        Raises:
            BadRequest: Not a JSON object, not UTF-8, more than the bounds allow, or a name in a second spelling.
        """
        if bounds.values < self._values:
            bounds = msgspec.structs.replace(bounds, values=self._values)
        try:
            opened = open_object(body, bounds)
        except MalformedBody as error:
            raise BadRequest(str(error), code="invalid_json") from None
        self.check(opened, bounds)
        return opened

    def check(self, opened: Opened, bounds: Bounds) -> None:
        """Refuse a second spelling of a known name, and too many elements of a counted list.

        Raises:
            BadRequest: As `open`.
        """
        raw, values = opened
        self.check_names(raw.keys())
        # No list has more elements than the body has values.
        if values <= bounds.messages and values <= bounds.tools:
            return
        for counted in self._counted:
            most = max(getattr(bounds, counted.bound), counted.least)
            if values > most and (given := raw.get(counted.field)) is not None:
                check_count(counted.field, _count(given, counted.within, most), most, counted.bound)

    def check_names(self, names: Collection[str], *, within: str = "") -> None:
        """Refuse a second spelling of a known name.

        Args:
            names: The members of an object.
            within: The object's path.

        Raises:
            BadRequest: One is.
        """
        if self._names.issuperset(names):
            return
        for name in names:
            meant = self._folded.get(fold(name)) if name not in self._names and len(name) <= _LONGEST else None
            if meant is not None:
                text = f"{within}{name!r} is a second spelling of a known field: write {meant!r}."
                raise BadRequest(text, param=f"{within}{name}", code="invalid_value")


def fold(name: str) -> str:
    """Return a name as the most lenient servers compare it: without regard to case, width and ligatures."""
    if name.isascii():
        return name.lower()
    # In some languages' standard libraries letters are first made large, and then the dotless i is an i.
    return unicodedata.normalize("NFKC", name).upper().casefold().replace("\u0307", "")


def check_count(field: str, came: int, most: int, bound: Bound) -> None:
    """Refuse a list that is too long.

    Raises:
        BadRequest: It is.
    """
    if came > most:
        raise BadRequest(
            f"Too many {bound} ({field}): at most {most} are allowed (limits.{bound}), and {came} were sent.",
            param=field,
            code="array_above_max_length",
        )


def _count(given: msgspec.Raw, within: tuple[str, ...], most: int) -> int:
    """Return the number of elements; 0 for a value that is no list (refused elsewhere) or a list of numbers alone."""
    data = bytes(given)
    if data.count(b",") < most:  # no list has more elements than commas and one
        return 0
    try:
        found = elements(given)
    except msgspec.MsgspecError:
        return 0
    if memoryview(found[0])[0] in _DIGITS:  # the ids of one text's tokens
        return 0
    if len(found) > most or not any(name.encode() in data for name in within):
        return len(found)
    return sum(max((_inner(each, name) for name in within), default=1) or 1 for each in found)


def _inner(element: msgspec.Raw, name: str) -> int:
    try:
        members: Mapping[str, msgspec.Raw] = _MEMBERS.decode(element)
        return len(elements(members[name])) if name in members else 0
    except msgspec.MsgspecError:
        return 0
