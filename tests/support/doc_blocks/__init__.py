"""The fenced code blocks of a Markdown file, so that what the documentation shows can be run.

Reads fences of backticks and of tildes, indented ones too (a block inside a list). It neither
renders Markdown nor judges a block: what is done with one is up to the test.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\r\n]*?)[ \t]*$")


class UnclosedFenceError(ValueError):
    """A code block that runs to the end of its file."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    `info` is what stands behind the opening fence (`python run`), `line` the number, from 1, of the
    first line of `text` in its file.
    """

    text: str
    info: str
    line: int

    @property
    def language(self) -> str:
        """The first word of `info`, in lower case; empty if there is none."""
        return self.info.split(maxsplit=1)[0].lower() if self.info else ""

    @property
    def flags(self) -> frozenset[str]:
        """The words of `info` behind the language."""
        return frozenset(self.info.split()[1:])


def blocks(path: Path, language: str | None = None) -> list[Block]:
    """The blocks of a file in order, only those of one language if it is named.

    Raises:
        UnclosedFenceError: a fence is opened and never closed.
    """
    found = []
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        opening = _OPENING.match(line)
        # A fence of backticks holds none in its info; this one is code within a sentence.
        if opening is None or (opening["fence"][0] == "`" and "`" in opening["info"]):
            continue
        closing = re.compile(rf"^[ \t]*{re.escape(opening['fence'][0])}{{{len(opening['fence'])},}}[ \t]*$")
        body = []
        for _, inner in lines:
            if closing.match(inner):
                break
            body.append(inner)
        else:
            message = f"{path.name}:{number}: this code block is never closed"
            raise UnclosedFenceError(message)
        text = textwrap.dedent("".join(f"{inner}\n" for inner in body))
        found.append(Block(text=text, info=opening["info"], line=number + 1))
    return [block for block in found if language is None or block.language == language.lower()]
