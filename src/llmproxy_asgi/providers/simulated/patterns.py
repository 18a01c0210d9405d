r"""A text that fits a regular expression, best effort.

Reads literals, `.`, classes like `[a-z0-9_]`, `\d \w \s` and their opposites, groups, alternatives, quantifiers and
anchors; always takes the shortest way through. Look-arounds and back references are passed over. Nothing is matched, so
no expression can make it slow: a caller writes the expression.
"""

import string

_DIGITS = string.digits
_WORD = string.ascii_letters + _DIGITS + "_"
_PRINTABLE = _WORD + "-. /:,@+#%&=?!"
_KINDS = {
    "d": _DIGITS,
    "w": _WORD,
    "s": " ",
    "D": "".join(char for char in _PRINTABLE if char not in _DIGITS),
    "W": "".join(char for char in _PRINTABLE if char not in _WORD),
    "S": _PRINTABLE.replace(" ", ""),
    "t": "\t",
    "n": "\n",
    "r": "\r",
}
_ANCHORS = frozenset("bBAZz")
MOST = 10_000
"""Characters of a text that is made here."""
_LONGEST = 256
"""Characters of an expression. Each of them moves all that follow it."""
_DEEPEST = 40


def text_for(pattern: str, *, least: int = 0) -> str | None:
    """A text that the expression describes, at least `least` long where a repetition allows it.

    None where the expression is beyond what is read here.
    """
    if len(pattern) > _LONGEST:
        return None
    try:
        reader = _Reader(pattern)
        made = reader.alternatives(0)
        if reader.rest or len(made) > MOST:
            return None
        made = _longer(pattern, made, least)
        made.encode()  # half a character cannot be sent
    except (_Beyond, IndexError, ValueError):
        return None
    return made


def _longer(pattern: str, made: str, least: int) -> str:
    if len(made) >= least:
        return made
    reader = _Reader(pattern, extra=least - len(made))
    return reader.alternatives(0)


class _Beyond(Exception):
    """The expression holds what is not read here."""


class _Reader:
    """Walks an expression once and writes a text on its way.

    Args:
        pattern: The expression.
        extra: How much longer than needed the first open repetition is made.
    """

    def __init__(self, pattern: str, *, extra: int = 0) -> None:
        self.rest = pattern
        self._extra = min(extra, MOST)

    def alternatives(self, depth: int) -> str:
        """The first of some alternatives; the others are read and forgotten."""
        if depth > _DEEPEST:
            raise _Beyond
        first = self._sequence(depth)
        while self.rest.startswith("|"):
            self.rest = self.rest[1:]
            self._sequence(depth)
        return first

    def _sequence(self, depth: int) -> str:
        made: list[str] = []
        size = 0
        while self.rest and self.rest[0] not in "|)":
            piece = self._atom(depth)
            low, is_open = self._quantifier()
            if is_open and len(piece) == 1 and self._extra:
                low, self._extra = low + self._extra, 0
            size += len(piece) * low
            if size > MOST:
                raise _Beyond
            made.append(piece * low)
        return "".join(made)

    def _atom(self, depth: int) -> str:
        char, self.rest = self.rest[0], self.rest[1:]
        match char:
            case "^" | "$":
                return ""
            case ".":
                return "a"
            case "[":
                return self._class()
            case "(":
                return self._group(depth)
            case "\\":
                return self._escape()[:1]
            case "*" | "+" | "?":
                raise _Beyond
            case _:
                return char

    def _group(self, depth: int) -> str:
        silent = False
        if self.rest.startswith("?"):
            head = next((head for head in ("?:", "?=", "?!", "?<=", "?<!") if self.rest.startswith(head)), None)
            if head is None:
                name, _, self.rest = self.rest.partition(">")
                if not name.startswith(("?P<", "?<")):
                    raise _Beyond
            else:
                self.rest = self.rest.removeprefix(head)
                silent = head != "?:"
        made = self.alternatives(depth + 1)
        if not self.rest.startswith(")"):
            raise _Beyond
        self.rest = self.rest[1:]
        return "" if silent else made

    def _escape(self) -> str:
        """The characters that an escape stands for; none for an anchor."""
        char, self.rest = self.rest[0], self.rest[1:]
        if char in _ANCHORS:
            return ""
        if char in "xu":
            size = 2 if char == "x" else 4
            code, self.rest = self.rest[:size], self.rest[size:]
            return chr(int(code, 16))
        if char.isdigit() or char in "pPk":
            raise _Beyond
        return _KINDS.get(char, char)

    def _class(self) -> str:
        negated = self.rest.startswith("^")
        if negated:
            self.rest = self.rest[1:]
        members: list[str] = []
        first = True
        while first or not self.rest.startswith("]"):
            first = False
            low = self._member()
            if self.rest.startswith("-") and self.rest[1] != "]" and len(low) == 1:
                self.rest = self.rest[1:]
                high = self._member()
                low = "".join(map(chr, range(ord(low), min(ord(high), ord(low) + 255) + 1)))
            members.append(low)
        self.rest = self.rest[1:]
        chosen = "".join(members)
        if negated:
            return [char for char in "a" + _PRINTABLE + "\t" if char not in chosen][0]  # noqa: RUF015 - IndexError: none
        # A letter reads better than the digit or sign that comes first.
        return "a" if "a" in chosen else chosen[0]

    def _member(self) -> str:
        char, self.rest = self.rest[0], self.rest[1:]
        return self._escape() if char == "\\" else char

    def _quantifier(self) -> tuple[int, bool]:
        """How often at least, and whether more is allowed."""
        low, is_open = 1, False
        if self.rest[:1] in {"*", "+", "?"}:
            sign, self.rest = self.rest[0], self.rest[1:]
            low, is_open = (1 if sign == "+" else 0), sign != "?"
        elif self.rest.startswith("{") and "}" in self.rest:
            bounds, _, rest = self.rest[1:].partition("}")
            least, comma, most = bounds.partition(",")
            if least.isascii() and least.isdigit():
                low, is_open = int(least), bool(comma) and least != most
                self.rest = rest
        if self.rest[:1] in {"?", "+"} and (is_open or low != 1):
            self.rest = self.rest[1:]  # lazy or possessive: the same texts
        return low, is_open
