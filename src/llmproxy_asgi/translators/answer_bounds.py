"""Bound the JSON values of a complete answer, counted on its bytes before any is decoded.

Texts and media are long and hold few values. Only log probabilities and vectors are legitimately made of millions, and
each protocol has one place for them, whose entries are read one by one. So that place is left out of the count: its
entries are bounded instead.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

from msgspec import MsgspecError, Raw

from llmproxy_asgi.errors import UpstreamProtocolError
from llmproxy_asgi.translators.raw_json import split_object
from llmproxy_asgi.wire.json_body import Bounds, OverBounds, count_separators, count_values, elements

SMALL = 2**20
"""Maximum bytes of an answer that is not counted: it decodes quickly, however many values it holds."""
MOST_VALUES = 400_000
"""Maximum values of one answer beside those entries; no model writes as many tokens at once."""
MOST_ENTRIES = 600_000
"""Maximum of vectors, or of tokens with log probabilities, in one answer."""
MOST_IN_ENTRY = 100_000
"""Maximum values of one such entry."""

_ALL = Bounds(values=MOST_VALUES, json_depth=MOST_VALUES)
_ENTRY = Bounds(values=MOST_IN_ENTRY, json_depth=MOST_IN_ENTRY)
_EACH = "*"
_ARRAY, _OBJECT = b"[{"
_LEAST_MEMBER = len(b'"":,')
_BYTES_OF_HIDDEN = 8
"""Bytes of white space that count as one value."""


def refuse_crowded(body: bytes, many: Sequence[str]) -> None:
    """Refuse an answer that holds too many values.

    Args:
        body: The complete answer, JSON or not.
        many: The path to the entries that may be many: names of members, `*` for every member or element.

    Raises:
        UpstreamProtocolError: There are too many, wherever they are.
    """
    if len(body) > SMALL and is_crowded(body, many):
        raise UpstreamProtocolError(
            f"The upstream's answer holds too many JSON values: at most {MOST_VALUES} are taken"
            + (f" beside {'.'.join(many)}." if many else ".")
        )


def event_check(*places: Sequence[str]) -> Callable[[bytes], bool]:
    """Return the check of a protocol's events, as a splitter of streams takes it: see `is_crowded`."""
    return lambda event: is_crowded(event, *places)


def is_crowded(data: bytes, *places: Sequence[str]) -> bool:
    """Return whether an answer, or an event of a stream, holds too many values.

    Args:
        data: The answer or the event, JSON or not.
        places: The paths to entries that may be many, as for `refuse_crowded`; one of them holds.
    """
    try:
        count_values(data, _ALL)
    except OverBounds:
        return not any(many and _is_in_place(data, many) for many in places)
    return False


def _is_in_place(body: bytes, many: Sequence[str]) -> bool:
    """Whether an answer holds so many values only where it may."""
    found: Counter[int] = Counter()
    for counted in count_separators(body):
        found += counted
        # What is cut apart below becomes an object each, so these are counted before.
        if sum(found[depth] for depth in range(1, len(many))) > MOST_VALUES or found[len(many)] > MOST_ENTRIES:
            return False
    try:
        return _beside(Raw(body.strip()), many) <= MOST_VALUES
    except (OverBounds, MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _beside(value: Raw, many: Sequence[str]) -> int:
    """How many values there are beside the entries, never too low."""
    view = memoryview(value)
    if not many:
        if len(view) > MOST_IN_ENTRY:  # a shorter one cannot hold more values
            count_values(bytes(value), _ENTRY)
        return 0
    named: Iterable[tuple[str, Raw]]
    if view[0] == _OBJECT:
        inside = split_object(value)
        # A repeated member hides the ones before it, which a reader reads all the same.
        seen = sum(map(len, inside)) + sum(len(memoryview(each)) for each in inside.values())
        found = len(inside) + max(0, len(view) - seen - _LEAST_MEMBER * len(inside)) // _BYTES_OF_HIDDEN
        named = inside.items()
    elif view[0] == _ARRAY:
        entries = elements(value)
        found = len(entries) if len(many) > 1 else 0
        named = zip(repeat(_EACH), entries)
    else:
        return 1
    step, *rest = many
    for name, each in named:
        found += _beside(each, rest) if step in (name, _EACH) else count_values(bytes(each), _ALL)
        if found > MOST_VALUES:
            break
    return found
