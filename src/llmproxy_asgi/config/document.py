"""A configuration text that has been read: plain values, and the line on which each stands.

The readers beside this module (`yaml.py`, `json_text.py`, `toml_text.py`) make documents. What the values mean is not
known here.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeAlias

import msgspec

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands: `("providers", "openai", "models", 2, "name")`."""

Tree: TypeAlias = dict[str, object]

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_VALUES = 100_000
"""How many values a document may unfold to; aliases make a short text long."""

MOST_HINTS = 50
"""How many guesses at what was meant are made for one configuration."""
_LONGEST_GUESSED = 100
_MOST_CANDIDATES = 1000
_hints_left: ContextVar[list[None] | None] = ContextVar("hints_left", default=None)


class Document(msgspec.Struct, frozen=True):
    """What a text holds.

    Args:
        values: Made of dict, list, str, int, float, bool and None.
        lines: The line, from 1, on which each key or list item stands, as far as it is known.
    """

    values: Tree
    lines: dict[Path, int] = msgspec.field(default_factory=dict)


class Unreadable(ValueError):
    """A text is not of its language, or holds what we refuse to read. The message quotes nothing of the text's values.

    Args:
        problem: What is wrong.
        line: Where, from 1; None if there is no such place.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


def whole(text: str, line: int) -> str:
    """The text, with the two halves that JSON writes some characters in put together.

    Raises:
        Unreadable: There is only one of the halves, which nothing could ever print or send.
    """
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise Unreadable("has a text with half a character in it (a lone surrogate)", line) from None


def spell(path: Iterable[str | int]) -> str:
    """A path as people write it: `providers.openai.models[2].name`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{_shown(step)}" if text else _shown(step)
    return text


def _shown(key: str) -> str:
    """A key on one line, however it is made."""
    kept = key if len(key) <= 80 else key[:80] + "..."
    return kept if kept.isprintable() else repr(kept)[1:-1]


@contextmanager
def limited_hints() -> Iterator[None]:
    """Make no more than `MOST_HINTS` guesses within: each compares texts, and mistakes may come by the thousand."""
    before = _hints_left.set([None] * MOST_HINTS)
    try:
        yield
    finally:
        _hints_left.reset(before)


def hint(given: str, known: Iterable[str]) -> str:
    """A guess at what was meant, to end a sentence with; case and the way to join words do not count."""
    left = _hints_left.get()
    if left is not None:
        if not left:
            return ""
        left.pop()
    if len(given) > _LONGEST_GUESSED:
        return ""
    import difflib  # for those who have misspelled something

    folded = {_folded(name): name for name in islice(known, _MOST_CANDIDATES)}
    near = difflib.get_close_matches(_folded(given), folded, n=1, cutoff=0.65)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
