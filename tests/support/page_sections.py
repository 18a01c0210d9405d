"""A part of a page that a program writes, between marks; the text outside of them is written by hand.

::

    <!-- begin: faults -->
    ...
    <!-- end: faults -->
"""


def part(text: str, name: str) -> str:
    """What stands between the marks of a part.

    Raises:
        LookupError: The page has no such part.
    """
    before, after = _ends(text, name)
    return text[before:after]


def with_part(text: str, name: str, body: str) -> str:
    """The page with another `body` between the marks of a part.

    Raises:
        LookupError: The page has no such part.
    """
    before, after = _ends(text, name)
    return f"{text[:before]}\n{body.strip()}\n\n{text[after:]}"


def _ends(text: str, name: str) -> tuple[int, int]:
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise LookupError(f"the page has no part {name!r} between marks of its own")
    return text.index(begin) + len(begin), text.index(end)
