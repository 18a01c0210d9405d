"""Mask secrets in findings: known ones, and texts that look like keys, wherever they were pasted."""

import re
from collections.abc import Iterable

MASK = "***"

_BEGINNINGS = r"sk|pk|rk|llmp|gsk|xai|hf|ghp|gho|ghs|github_pat|glpat|r8|pplx|nvapi|AIza|ya29|AKIA|ASIA|eyJ"
_KEY_LIKE = re.compile(
    rf"""
    \bBearer\s+[^\s'\":,]+
    | (?<![A-Za-z0-9]) (?: (?:{_BEGINNINGS})[-_.] | AIza | AKIA | ASIA | eyJ ) [A-Za-z0-9_.+/=-]{{8,}}
    | (?<![A-Za-z0-9]) (?=[A-Za-z]*[0-9]) (?=[0-9]*[A-Za-z]) [A-Za-z0-9]{{20,}} (?![A-Za-z0-9])
    | \b [0-9a-fA-F]{{8}} (?:-[0-9a-fA-F]{{4}}){{3}} -[0-9a-fA-F]{{12}} \b
    """,
    re.VERBOSE,
)
"""A known prefix, or a long mix of letters and digits, which is neither a word nor a model's name."""


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace every secret in a text by `***`.

    Args:
        text: A message.
        secrets: Known secrets of any form.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _KEY_LIKE.sub(MASK, text)
