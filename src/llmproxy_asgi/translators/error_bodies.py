"""The error that an upstream's body tells, in whichever of the shapes that servers use.

The vendors' own shape is an object under `error`. Compatible servers, frameworks and the proxies before them answer in
others: FastAPI's `detail`, lists under `errors`, a bare `message`, Apigee's `fault`, AWS's `__type`, OAuth's
`error_description` (RFC 6749, 5.2), a problem's `title` and `detail` (RFC 9457), plain text, a page of HTML. This
module finds the object or makes one out of the words; what it means is each protocol's to say. Words that are made are
bounded.
"""

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

ErrorObject = Mapping[str, Any]

_LONGEST = 1000
"""Characters of a reason that is made out of a body."""
_READ = 64 * 1024
"""Bytes of text or markup that are looked at."""
_MOST = 3
"""The maximum of list entries that an error message includes."""
_DEEPEST = 4
_KEYS = (
    *("message", "msg", "Message", "faultstring", "error_description", "error_message", "errorMessage", "error_msg"),
    *("detail", "details", "error", "errors", "fault", "description", "reason", "title", "__type"),
)
"""Where the words of an error may stand, the most telling first."""
_OBJECTS = ("error", "fault")
"""Members that hold the object of an error."""
_CODES = ("code", "errorcode", "error_code", "errorCode", "errorType", "__type", "error")
"""Where a word for programs may stand, the most telling first."""
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
_PLACES = frozenset({"body", "query", "path", "header", "cookie"})
"""How FastAPI begins the place of a fault."""
_UNSEEN = frozenset({"script", "style", "title"})
"""Elements whose text is no words of a page; a title is, where there are no others."""


def error_of_body(status: int, body: bytes) -> ErrorObject | None:
    """Return the error's object with a `message`; None where the body says nothing.

    Text and markup are read of a refusal only: what a broken server or a proxy before it writes beside a status of 500
    and more says nothing of the request.
    """
    try:
        return error_of(msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf")))
    except RecursionError:
        return None
    except ValueError:
        return _error_of_text(body) if status < 500 else None


def _error_of_text(body: bytes) -> ErrorObject | None:
    text = body[:_READ].decode("utf-8", errors="replace").strip().removeprefix("\ufeff")
    if text.startswith(("data:", "event:")):
        return _of_event(text)
    words = _bounded(_without_markup(text) if text.startswith("<") else text)
    return {"message": words} if any(character.isalnum() for character in words) else None


def error_of(found: Any) -> ErrorObject | None:
    """Return the object of an error that is JSON; None where it says nothing.

    A vendor's own object is returned as it is if it has a `message`.
    """
    if isinstance(found, list) and found and not _is_validation(found):
        found = found[0]
    outer = found if isinstance(found, dict) else {}
    inner = next((each for key in _OBJECTS if isinstance(each := outer.get(key), dict)), None)
    native = outer if inner is None else inner
    if isinstance(native.get("message"), str) and native["message"].strip():
        return {**native, "code": code} if "__type" in native and (code := _code(native)) else native
    words, param = _words(found, _DEEPEST)
    if not words:
        return inner or None
    more: dict[str, Any] = dict(inner) if inner is not None else {k: native[k] for k in _COMPANIONS if k in native}
    if inner is None and ":" in str(more.get("type")):
        del more["type"]  # a problem's type is an address
    if "code" not in more and (code := _code(native)) and code != words:
        more["code"] = code
    if param is not None and not isinstance(more.get("param"), str):
        more["param"] = param
    return {**more, "message": _bounded(words)}


_COMPANIONS = ("type", "code", "param", "status")
"""What stands beside the words of an error that is no object of its own."""


def _code(error: Mapping[str, Any]) -> str | None:
    """Return the code in an error of another format than the vendors'."""
    detail = error.get("detail")
    places = (error, detail) if isinstance(detail, dict) else (error,)
    for key in _CODES:
        for place in places:
            word = place.get(key)
            if isinstance(word, str) and _CODE.fullmatch(word := word.rpartition("#")[2]):
                return word
    return None


def _words(found: Any, depth: int) -> tuple[str, str | None]:
    """Return the text within a value, and the request's field that it is about."""
    if isinstance(found, str):
        return found.strip(), None
    if not depth:
        return "", None
    if isinstance(found, list):
        return _list_message(found, depth)
    if not isinstance(found, dict):
        return "", None
    if isinstance(found.get("loc"), list):
        return _of_validation(found)
    for key in _KEYS:
        words, param = _words(found.get(key), depth - 1)
        if words:
            return words, param
    # A map of fields to what is wrong with each, as ASP.NET and Rails have it.
    messages = [(key, _words(value, depth - 1)[0]) for key, value in found.items() if isinstance(value, list)]
    named = [(key, words) for key, words in messages if words]
    return "; ".join(f"{key}: {words}" for key, words in named[:_MOST]), named[0][0] if named else None


def _list_message(entries: list[Any], depth: int) -> tuple[str, str | None]:
    """Return the text of the first entries, and the field of the first."""
    found = [(words, param) for words, param in (_words(entry, depth - 1) for entry in entries[:_MOST]) if words]
    return "; ".join(words for words, _ in found), found[0][1] if found else None


def _is_validation(found: list[Any]) -> bool:
    return isinstance(found[0], dict) and isinstance(found[0].get("loc"), list)


def _of_validation(entry: Mapping[str, Any]) -> tuple[str, str | None]:
    """One of FastAPI's faults; never what it says that it was given."""
    param = _path(entry["loc"])
    said = entry.get("msg") or entry.get("type")
    words = said if isinstance(said, str) else "is wrong"
    return (f"{param}: {words}" if param else words), param or None


def _path(steps: Iterable[Any]) -> str:
    path = ""
    for number, step in enumerate(steps):
        if isinstance(step, int) and not isinstance(step, bool):
            path += f"[{step}]"
        elif isinstance(step, str) and not (number == 0 and step in _PLACES):
            path += f".{step}" if path else step
    return path[:200]


def _error_of_event(data: str) -> ErrorObject | None:
    try:
        return error_of(msgspec.json.decode(data))
    except (ValueError, RecursionError):
        return {"message": _bounded(data)} if data else None


def _of_event(text: str) -> ErrorObject | None:
    """Return the error in the first data of an event stream."""
    for line in text.splitlines():
        field, _, value = line.partition(":")
        if field == "data":
            return _error_of_event(value.strip())
    return None


def _without_markup(text: str) -> str:
    """Return the text of a page, without tags, scripts and styles; its title if it has no other."""
    said: list[str] = []
    titles: list[str] = []
    within = ""
    first, *rest = text.split("<")
    said.append(first)
    for piece in rest:
        tag, closed, words = piece.partition(">")
        name = tag.strip("/ \t\r\n").split(maxsplit=1)[0].lower() if tag.strip("/ \t\r\n") else ""
        if within:
            within = "" if tag.startswith("/") and name == within else within
            if not within:
                said.append(words)
            continue
        if not closed or tag.startswith("!--"):
            continue
        if name in _UNSEEN and not tag.startswith("/"):
            within = name
            if name == "title":
                titles.append(words)
            continue
        said.append(words)
    found = " ".join(" ".join(said).split())
    return html.unescape(found or " ".join(titles))


def _bounded(text: str) -> str:
    """Return the text on one line, without control characters, and not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * _LONGEST]).split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."
