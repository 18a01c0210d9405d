r"""Generate a text that matches a regular expression, best effort.

Supports literals, `.`, classes like `[a-z0-9_]`, `\d \w \s` and their opposites, groups, alternatives, quantifiers and
anchors, and generates a short match. Look-arounds and back references are ignored. Nothing is matched, so no expression
can make it slow: callers write the expressions.
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
MAX_LENGTH = 10_000
"""Characters of the longest text that is generated."""
_MAX_PATTERN = 256
"""Characters of the longest expression. The time to read one grows with the square of its length."""
_MAX_DEPTH = 40


def text_for(pattern: str, *, minimum: int = 0) -> str | None:
    """Return a text that matches, at least `minimum` characters long if a repetition allows it.

    None if the expression is not supported.
    """
    if len(pattern) > _MAX_PATTERN:
        return None
    try:
        reader = _Reader(pattern)
        text = reader.alternatives(0)
        if reader.rest or len(text) > MAX_LENGTH:
            return None
        text = _longer(pattern, text, minimum)
        text.encode()  # a lone surrogate cannot be encoded
    except (_Unsupported, IndexError, ValueError):
        return None
    return text


def _longer(pattern: str, text: str, minimum: int) -> str:
    if len(text) >= minimum:
        return text
    reader = _Reader(pattern, extra=minimum - len(text))
    return reader.alternatives(0)


class _Unsupported(Exception):
    """The expression is not supported."""


class _Reader:
    """Reads an expression once and generates a text.

    Args:
        pattern: The expression.
        extra: Additional repetitions for the first repetition without an upper bound.
    """

    def __init__(self, pattern: str, *, extra: int = 0) -> None:
        self.rest = pattern
        self._extra = min(extra, MAX_LENGTH)

    def alternatives(self, depth: int) -> str:
        """Return the text of the first alternative; the others are read and discarded."""
        if depth > _MAX_DEPTH:
            raise _Unsupported
        first = self._sequence(depth)
        while self.rest.startswith("|"):
            self.rest = self.rest[1:]
            self._sequence(depth)
        return first

    def _sequence(self, depth: int) -> str:
        text: list[str] = []
        size = 0
        while self.rest and self.rest[0] not in "|)":
            piece = self._atom(depth)
            low, is_open = self._quantifier()
            if is_open and len(piece) == 1 and self._extra:
                low, self._extra = low + self._extra, 0
            size += len(piece) * low
            if size > MAX_LENGTH:
                raise _Unsupported
            text.append(piece * low)
        return "".join(text)

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
                raise _Unsupported
            case _:
                return char

    def _group(self, depth: int) -> str:
        is_assertion = False
        if self.rest.startswith("?"):
            head = next((head for head in ("?:", "?=", "?!", "?<=", "?<!") if self.rest.startswith(head)), None)
            if head is None:
                name, _, self.rest = self.rest.partition(">")
                if not name.startswith(("?P<", "?<")):
                    raise _Unsupported
            else:
                self.rest = self.rest.removeprefix(head)
                is_assertion = head != "?:"
        text = self.alternatives(depth + 1)
        if not self.rest.startswith(")"):
            raise _Unsupported
        self.rest = self.rest[1:]
        return "" if is_assertion else text

    def _escape(self) -> str:
        """Return the characters of an escape; none for an anchor."""
        char, self.rest = self.rest[0], self.rest[1:]
        if char in _ANCHORS:
            return ""
        if char in "xu":
            size = 2 if char == "x" else 4
            code, self.rest = self.rest[:size], self.rest[size:]
            return chr(int(code, 16))
        if char.isdigit() or char in "pPk":
            raise _Unsupported
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
        # A letter is more readable than the digit or sign that comes first.
        return "a" if "a" in chosen else chosen[0]

    def _member(self) -> str:
        char, self.rest = self.rest[0], self.rest[1:]
        return self._escape() if char == "\\" else char

    def _quantifier(self) -> tuple[int, bool]:
        """Return the least number of repetitions, and whether more are allowed."""
        low, is_open = 1, False
        if self.rest[:1] in {"*", "+", "?"}:
            sign, self.rest = self.rest[0], self.rest[1:]
            low, is_open = (1 if sign == "+" else 0), sign != "?"
        elif self.rest.startswith("{") and "}" in self.rest:
            bounds, _, rest = self.rest[1:].partition("}")
            minimum, comma, maximum = bounds.partition(",")
            if minimum.isascii() and minimum.isdigit():
                low, is_open = int(minimum), bool(comma) and minimum != maximum
                self.rest = rest
        if self.rest[:1] in {"?", "+"} and (is_open or low != 1):
            self.rest = self.rest[1:]  # lazy or possessive: the same texts
        return low, is_open
