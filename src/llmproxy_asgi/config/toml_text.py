"""A TOML reader on the standard library that records the lines of keys.

`tomllib` reports no lines, so they are found by searching for headers and keys once the text is known to be valid. A
key in an unusual notation gets its table's line.
"""

import re
import tomllib
from collections.abc import Iterator
from datetime import date, datetime, time

from llmproxy_asgi.config.document import MAX_DEPTH, MAX_VALUES, Document, Path, Unreadable

_WHERE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_QUOTED = re.compile(r"'[^']{2,}'")
_PART = re.compile(r"""\s*(?:([A-Za-z0-9_-]+)|"([^"\\]*)"|'([^']*)')\s*""")
_HEADER = re.compile(r"\s*(\[\[?)(.*?)\]\]?\s*(?:#.*)?")
_TOO_BIG = "holds a whole number of more than 64 bits"
_MANY_DIGITS = re.compile(r"[0-9][0-9_]{4000,}")
_MULTILINE_QUOTES = ('"""', "'''")


def read_toml(text: str) -> Document:
    """Read a TOML document; dates and times become text.

    Raises:
        Unreadable: It is not valid TOML, nests too deep, or holds too many values.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(text, str(error)) from None
    except ValueError:  # Python itself refuses to read thousands of digits
        digits = _MANY_DIGITS.search(text)
        raise Unreadable(_TOO_BIG, None if digits is None else text.count("\n", 0, digits.start()) + 1) from None
    except RecursionError:
        raise Unreadable(f"nests deeper than {MAX_DEPTH} levels") from None
    kept = {key: _plain(value, 1) for key, value in values.items()}
    if _counted(kept) > MAX_VALUES:
        raise Unreadable(f"holds more than {MAX_VALUES} values")
    lines = _find_lines(text, kept)
    for path in _too_big(kept, ()):
        known = [path[:length] for length in range(len(path), 0, -1) if path[:length] in lines]
        raise Unreadable(_TOO_BIG, lines[known[0]] if known else None)
    return Document(kept, lines)


def _too_big(value: object, path: Path) -> Iterator[Path]:
    """Yield the paths of integers beyond TOML's range."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _too_big(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _too_big(item, (*path, index))


def _unreadable(text: str, message: str) -> Unreadable:
    place = _WHERE.search(message)
    problem = "is not valid TOML: " + _QUOTED.sub("...", _WHERE.sub("", message))
    if place is None:
        return Unreadable(problem)
    return Unreadable(problem, int(place[1]) if place[1] else text.count("\n") + 1)


def _plain(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise Unreadable(f"nests deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    return value.isoformat() if isinstance(value, (date, datetime, time)) else value


def _counted(value: object) -> int:
    """Count the values, in the same way as the other readers."""
    if isinstance(value, dict):
        return 1 + sum(map(_counted, value.values()))
    return 1 + sum(map(_counted, value)) if isinstance(value, list) else 1


def _find_lines(text: str, values: dict[str, object]) -> dict[Path, int]:
    lines: dict[Path, int] = {}
    table: Path = ()
    counts: dict[Path, int] = {}
    quote = ""
    for number, line in enumerate(text.split("\n"), 1):
        if quote:
            quote = "" if quote in line else quote
            continue
        header = _HEADER.fullmatch(line)
        if header is not None:
            table = _table(_parts(header[2]), counts, is_array=header[1] == "[[")
            _record_line(lines, table, number, values)
        elif "=" in line:
            _record_line(lines, (*table, *_parts(line)), number, values)
        quote = next((mark for mark in _MULTILINE_QUOTES if line.count(mark) % 2), "")
    return lines


def _parts(text: str) -> Path:
    """Return the parts of the dotted key at the beginning of a text."""
    parts: list[str] = []
    at = 0
    while (found := _PART.match(text, at)) is not None:
        parts.append(next(group for group in found.groups() if group is not None))
        at = found.end()
        if text[at : at + 1] != ".":
            break
        at += 1
    return tuple(parts)


def _table(parts: Path, counts: dict[Path, int], *, is_array: bool) -> Path:
    """Return a header's path, with the index of each array of tables in it."""
    path: Path = ()
    for position, part in enumerate(parts):
        path = (*path, part)
        if is_array and position == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _record_line(lines: dict[Path, int], path: Path, number: int, values: dict[str, object]) -> None:
    """Record the line of a path and of the tables that it creates, if the path exists."""
    if not _exists(values, path):
        return
    for length in range(1, len(path) + 1):
        lines.setdefault(path[:length], number)


def _exists(values: object, path: Path) -> bool:
    for step in path:
        if isinstance(step, int):
            if not isinstance(values, list) or step >= len(values):
                return False
            values = values[step]
        else:
            if not isinstance(values, dict) or step not in values:
                return False
            values = values[step]
    return True
