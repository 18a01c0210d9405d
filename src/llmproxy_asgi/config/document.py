"""A parsed configuration text: plain values, and the line of each.

The readers in this package (`yaml.py`, `json_text.py`, `toml_text.py`) return documents. This module does not interpret
the values.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeAlias

import msgspec

Path: TypeAlias = tuple[str | int, ...]
"""The path of a value: `("providers", "openai", "models", 2, "name")`."""

Tree: TypeAlias = dict[str, object]

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_VALUES = 100_000
"""The most values of a document, with aliases expanded."""

MAX_HINTS = 50
"""The most hints computed for one configuration."""
_MAX_HINT_LENGTH = 100
_MAX_CANDIDATES = 1000
_hints_left: ContextVar[list[None] | None] = ContextVar("hints_left", default=None)


class Document(msgspec.Struct, frozen=True):
    """The values of a text.

    Args:
        values: Nested dict, list, str, int, float, bool and None.
        lines: The line, from 1, of each key or list item, where it is known.
    """

    values: Tree
    lines: dict[Path, int] = msgspec.field(default_factory=dict)


class Unreadable(ValueError):
    """A text is not valid in its language, or uses features that are refused. The message quotes none of its values.

    Args:
        problem: What is wrong.
        line: The line, from 1; None if it is unknown.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


def join_surrogates(text: str, line: int) -> str:
    """Join the surrogate pairs of a text into characters.

    Raises:
        Unreadable: There is a lone surrogate, which cannot be encoded.
    """
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise Unreadable("has a text with half a character in it (a lone surrogate)", line) from None


def format_path(path: Iterable[str | int]) -> str:
    """Format a path for messages: `providers.openai.models[2].name`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{_shown(step)}" if text else _shown(step)
    return text


def _shown(key: str) -> str:
    """Format a key on one line, cut and escaped."""
    kept = key if len(key) <= 80 else key[:80] + "..."
    return kept if kept.isprintable() else repr(kept)[1:-1]


@contextmanager
def limited_hints() -> Iterator[None]:
    """Compute at most `MAX_HINTS` hints within: each compares texts, and a file may have thousands of mistakes."""
    before = _hints_left.set([None] * MAX_HINTS)
    try:
        yield
    finally:
        _hints_left.reset(before)


def hint(given: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to a message; letter case, hyphens and underscores are ignored. Empty: none."""
    left = _hints_left.get()
    if left is not None:
        if not left:
            return ""
        left.pop()
    if len(given) > _MAX_HINT_LENGTH:
        return ""
    import difflib  # needed for misspelled names only

    folded = {_folded(name): name for name in islice(known, _MAX_CANDIDATES)}
    near = difflib.get_close_matches(_folded(given), folded, n=1, cutoff=0.65)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def _folded(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
