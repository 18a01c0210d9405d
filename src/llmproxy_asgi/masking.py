"""Mask secrets in texts of upstreams: known ones, and texts that look like keys.

Vendors quote the request in their errors, and name the organisation or project of a key. A `Mask` replaces the secrets
of one provider, keys in the formats of vendors, bearer tokens, JSON web tokens, partly masked keys (``sk-ab***yz``) and
ids of organisations and projects by ``***``.

Every expression is linear in the text: repetitions are bounded, or no two of them can match the same character. Long
texts are cut before the search, so that no error blocks the event loop for long. Successful calls compile and run
nothing here. The module is imported early nevertheless: a process without file descriptors could not import it later.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

MASKED = "***"
MAX_TEXT = 8 * 1024
"""Characters kept of one text."""
_MAX_ERROR_TEXT = 32 * 1024
"""Characters kept of all texts of one error."""
_MAX_DEPTH = 32
_MIN_SECRET = 4
_MIN_VALUE = 8
"""Characters of the shortest configured value that is masked without being a credential; shorter ones are words."""
_PREFIX_LENGTH = 8
"""Characters by which a long secret is recognised even if its rest is cut off or masked."""

# A word of key characters, including the stars, dots and bullets with which vendors mask the middle of a key.
_WORD = re.compile(r"[A-Za-z0-9_\-*•….~]{6,}")
_REST = r"[A-Za-z0-9_\-*•….~]"
_KEYLIKE = rf"""(?<![A-Za-z0-9])(?:
        (?:sk|rk|pk)[-_]{_REST}{{4,}}
      | (?:AIza|ya29\.|GOCSPX-){_REST}{{6,}}
      | (?:xai-|gsk_|hf_|r8_|pplx-|nvapi-|csk-|fw_|tgp_v1_|llmp_|sess-|apikey_|wrkspc_|acct_){_REST}{{4,}}
      | (?:gh[opusr]_|github_pat_|glpat-|xox[abeprs]-){_REST}{{6,}}
      | (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9*]{{8,}}
      | eyJ[A-Za-z0-9_-]{{6,}}{_REST}*
      | (?:org-|user-|proj_)(?=[a-z]{{0,24}}[A-Z0-9*•…]|[a-z]{{16}}){_REST}{{6,}}
      | (?<![_-])[A-Za-z0-9_-]{{1,64}}(?:\*{{3}}|•{{3}}){_REST}*
      | (?<![*•])(?:\*{{4,}}+|•{{4,}}+)[A-Za-z0-9]{_REST}*
    )"""
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# Secrets that only their context identifies; the last group that matched is kept.
_CONTEXT = rf"""(?i:
        ((?<![a-z])(?:bearer|basic)\s{{1,3}})(?=\S{{0,80}}[\d*_])[^\s"',;<>]{{6,}}
      | ([?&](?:key|api[_-]?key|token|access_token|sig|signature|secret|password|code)=)[^&\s"'<>]+
      | ((?:api[ _-]?keys?|(?:access|auth)[ _-]?token|(?:secret|private)[ _-]?key|client[ _-]?secret|password)
         (?:\s(?:provided|given|used|is|was))?\s?["'`]?\s?[:=]\s{{0,3}}["'`]?)
        (?=[^\s"'`]{{0,80}}[\d*•…])[^\s"'`,;<>)]{{4,}}
      | ((?:key|token|credential)s?\s(?:that\s)?(?:end|start|begin)(?:s|ing|ning)\s(?:in|with)\s["'`]?)[^\s"'`,;<>)]+
      | ((?:organi[sz]ation|workspace|account|tenant|customer|subscription)s?[\s/_-]?(?:id)?["'`]?\s?[:=]?\s?["'`]?)
        (?:{_UUID}|\d{{6,}})
      | (projects?(?:[\s_]?(?:number|id))?["'`]?[\s/:=#]{{1,3}}["'`]?)\d{{6,}}
      | (projects/)[a-z0-9_:.-]{{4,64}}
      | (arn:aws[a-z-]{{0,16}}:)[^\s"'<>]+
      | (://)[^/\s@]{{1,256}}(?=@)
    )"""


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.VERBOSE)


class Mask:
    """Masks the secrets of one provider's requests, and texts that look like keys.

    Args:
        secrets: Credentials; also recognised if only their beginning is quoted.
        values: Other confidential values in requests (configured headers).
    """

    __slots__ = ("_exact", "_longest", "_secrets")

    def __init__(self, secrets: Iterable[str] = (), values: Iterable[str] = ()) -> None:
        self._secrets = tuple(dict.fromkeys(each for each in secrets if len(each) >= _MIN_SECRET))
        plain = [each for each in values if len(each) >= _MIN_VALUE]
        patterns = [(text, _as_pattern(text)) for text in (*self._secrets, *plain)]
        patterns += [(quote(text, safe=""), re.escape(quote(text, safe=""))) for text, _ in patterns]
        patterns.sort(key=lambda pair: len(pair[0]), reverse=True)
        heads = [
            re.escape(each[:_PREFIX_LENGTH]) + _REST + "*" for each in self._secrets if len(each) >= 2 * _PREFIX_LENGTH
        ]
        either = [*dict.fromkeys(pattern for _, pattern in patterns), *dict.fromkeys(heads)]
        self._exact = re.compile("|".join(either)) if either else None
        self._longest = max((len(text) for text, _ in patterns), default=0)

    def text(self, text: str) -> str:
        """Mask every secret in a text, cut to `MAX_TEXT`."""
        # Cut so that a secret that begins before the end is complete, and recognised.
        cut = self.known(text[: MAX_TEXT + self._longest])
        if len(text) > MAX_TEXT:
            cut = cut[:MAX_TEXT] + "..."
        return _compiled(_CONTEXT).sub(_keep_context, _WORD.sub(_mask_word, cut))

    def known(self, text: str) -> str:
        """Mask only the known secrets in a text of any length."""
        return text if self._exact is None else self._exact.sub(MASKED, text)

    def value(self, value: Any) -> Any:
        """Mask all texts and keys in a JSON value; texts beyond the bound, and values nested too deep, are replaced."""
        return _ValueMasker(self).value(value, 0)

    def known_value(self, value: Any, depth: int = 0) -> Any:
        """Mask only the known secrets in a JSON value."""
        if isinstance(value, str):
            return self.known(value)
        if depth >= _MAX_DEPTH:
            return MASKED
        if isinstance(value, Mapping):
            return {self.known(str(key)): self.known_value(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.known_value(item, depth + 1) for item in value]
        return value

    def quotes_credential(self, text: str, *, sent: bytes) -> bool:
        """Return whether a text quotes a credential: complete, or its two ends with a mask between (``sk-ab***yz``).

        A partly masked key that the request's body contains is an echo of the caller's text, and does not count.

        Args:
            text: The upstream's text.
            sent: The body of the request.
        """
        text = text[:MAX_TEXT]
        if any(secret in text and secret.encode() not in sent for secret in self._secrets):
            return True
        quoted = (found for found in _PARTIAL.finditer(text) if found[0].encode() not in sent)
        return any(
            len(secret) > len(found[1] + found[2]) and secret.startswith(found[1]) and secret.endswith(found[2])
            for found in quoted
            for secret in self._secrets
        )


_PARTIAL = re.compile(r"(?<![A-Za-z0-9_-])([A-Za-z0-9_-]{1,64})(?:\*{2,}|\.{3,}|…+|•{2,})([A-Za-z0-9_-]{1,64})")


class _ValueMasker:
    """Masks one value within a budget of text."""

    __slots__ = ("_mask", "_text_left")

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._text_left = _MAX_ERROR_TEXT

    def value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bool | int | float) or value is None:
            return value
        if depth >= _MAX_DEPTH or self._text_left <= 0:
            return MASKED
        if isinstance(value, Mapping):
            return {self._text(str(key)): self.value(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            self._text_left -= len(value)
            return [self.value(item, depth + 1) for item in value]
        return MASKED

    def _text(self, text: str) -> str:
        self._text_left -= min(len(text), MAX_TEXT)
        return self._mask.text(text) if self._text_left > 0 else MASKED


def _as_pattern(text: str) -> str:
    """Return a pattern for a text; a short text matches complete words only."""
    found = re.escape(text)
    return found if len(text) >= _MIN_VALUE else rf"(?<![A-Za-z0-9]){found}(?![A-Za-z0-9])"


def _mask_word(found: re.Match[str]) -> str:
    return _compiled(_KEYLIKE).sub(MASKED, found[0])


def _keep_context(found: re.Match[str]) -> str:
    return f"{found[found.lastindex or 0]}{MASKED}"
