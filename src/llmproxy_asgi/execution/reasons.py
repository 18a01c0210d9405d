"""What came of an attempt that failed, for two readers: callers, without secrets, and operators, in one short line.

Both read what the upstream said, so both pass the provider's mask here, before the error leaves the attempt. In an
operator's line also the caller's own text is masked, because logs hold no prompts.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec

from llmproxy_asgi.errors import GatewayError, UpstreamAuthFailed, UpstreamError, UpstreamRefused
from llmproxy_asgi.masking import MASKED, Mask
from llmproxy_asgi.translators.error_bodies import ErrorObject, error_of_body
from llmproxy_asgi.translators.openai.errors import FAILED_EVENT
from llmproxy_asgi.transport import Address, UpstreamResponse
from llmproxy_asgi.transport.failures import shortened

LONGEST_REASON = 300
_LARGEST_COMPARED = 1024 * 1024
"""Bytes of a request that a reason is compared with; of larger ones a reason keeps status and code alone."""
_LARGEST_PAGE = 16 * 1024
_TITLE = re.compile(rb"(?is)<title[^>]{0,200}>([^<]{0,400})")
_TAG = re.compile(r"<[^<>]{0,400}>")
_QUOTED = re.compile(r"'([^']{2,})'|\"([^\"]{2,})\"|`([^`]{2,})`")
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_WORD = re.compile(r"[A-Z]?[a-z]+")
"""A word of the language, which alone tells nothing of a prompt."""
_AROUND = ".,:;!?()[]{}'\"`"
_SHORTEST_ECHO = 4
_SAYS = ("message", "msg", "detail", "description", "error", "title", "reason")
_BESIDE_ERROR = ("message", "error_description")
_CODES = ("code", "type", "status", "error_code")
_MODELS_WORDS = frozenset({"output", "instructions", "input", "tools"})


def answered(answer: UpstreamResponse, url: Address, body: bytes) -> str:
    """The reason of an answer that is none: its status, and what it says of itself.

    Args:
        answer: Its status and headers.
        url: What was asked for.
        body: As much of it as was read.
    """
    status = answer.status
    location = answer.header("location")
    if 300 <= status < 400 and location:
        return f"{status} redirects to {_target(url, location)}"
    code, words = _said(body)
    if not words and status >= 300 and (error := _otherwise_said(body)) is not None:
        code, words = _code(error) or code, shortened(str(error["message"]))
    if code or words:
        return f"{status} {': '.join(each for each in (code, words) if each)}"
    media_type = (answer.header("content-type") or "no content type").partition(";")[0].strip()
    return f"{status} with {shortened(media_type, 60)}{_page(status, body)} (asked {url.host_port}{_path(url)})"


def disclosed(error: GatewayError, mask: Mask, *, sent: bytes, model: str) -> GatewayError:
    """The error as it may leave the attempt: every field masked, and with a reason for the operator.

    Returns:
        The same error; another one where its words show that it is about the credential, whatever its status.

    Args:
        error: How the attempt failed.
        mask: The provider's.
        sent: The body of the request.
        model: The upstream's name of the model, which a reason may name.
    """
    if type(error) is not UpstreamAuthFailed and isinstance(error, UpstreamRefused) and _quotes(error, mask, sent):
        error = _about_credential(error)
    if isinstance(error, UpstreamError):
        reason = mask.text(error.reason or _reason_of(error))
        error.reason = shortened(_without_callers_text(reason, sent, model), LONGEST_REASON)
        if error.upstream_request_id is not None:
            error.upstream_request_id = mask.text(error.upstream_request_id)
    error.message = mask.text(error.message)
    error.args = (error.message, *error.args[1:])
    error.param = None if error.param is None else mask.text(error.param)
    error.code = None if error.code is None else mask.text(error.code)
    if error.native is not None:
        error.native = _native(error.native, mask)
    return error


def _native(native: Mapping[str, Any], mask: Mask) -> Mapping[str, Any]:
    """An upstream's error object; the model's words in an event that holds the answer so far stay as they were sent."""
    event = native.get(FAILED_EVENT)
    answer = event.get("response") if isinstance(event, dict) else None
    if not isinstance(event, dict) or not isinstance(answer, dict):
        return dict(mask.value(native))
    told = {key: value for key, value in answer.items() if key not in _MODELS_WORDS}
    words = {key: value for key, value in answer.items() if key in _MODELS_WORDS}
    around = {key: value for key, value in event.items() if key != "response"}
    error = {key: value for key, value in native.items() if key != FAILED_EVENT}
    whole = {**mask.value(told), **mask.known_value(words)}
    order = {key: whole[key] for key in answer if key in whole}
    return {**mask.value(error), FAILED_EVENT: {**mask.value(around), "response": {**order, **whole}}}


def _quotes(error: UpstreamError, mask: Mask, sent: bytes) -> bool:
    """Whether a refusal quotes the credential: a vendor without a code for it says in this way what it is about."""
    return any(mask.quotes_credential(text, sent=sent) for text in (error.message, error.code) if text)


def _about_credential(error: UpstreamError) -> UpstreamAuthFailed:
    found = UpstreamAuthFailed(
        "The upstream refused the gateway's credential.",
        upstream_status=error.upstream_status,
        upstream_request_id=error.upstream_request_id,
        reason=error.reason or _reason_of(error),
    )
    found.provider = error.provider
    return found


def _reason_of(error: UpstreamError) -> str:
    """The reason of an error that came without one: in a stream, or in an answer that began well."""
    said = error.native.get("message") if error.native else None
    words = said if isinstance(said, str) and said else error.message
    code = error.code or (str(error.native.get("type") or "") if error.native else "")
    status = "" if error.upstream_status is None or error.upstream_status < 300 else f"{error.upstream_status} "
    return f"{status}{code}: {words}" if code and code not in words else f"{status}{words}"


def _target(url: Address, location: str) -> str:
    """Where a redirect leads: origin and path, never a query, which may hold a token."""
    try:
        parts = urlsplit(urljoin(str(url), location[:2000]))
        port = "" if parts.port is None else f":{parts.port}"
        return shortened(f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}")
    except ValueError:
        return "a location that cannot be read"


def _path(url: Address) -> str:
    return url.raw_path.decode("ascii").partition("?")[0]


def _said(body: bytes) -> tuple[str, str]:
    """The vendor's code and words, in whatever shape its JSON has."""
    try:
        found = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return "", ""
    code = ""
    for _ in range(4):
        if isinstance(found, list):
            found = found[0] if found else None
        if isinstance(found, str):
            return code, shortened(found)
        if not isinstance(found, dict):
            break
        code = _code(found) or code
        inner = next((found[key] for key in ("error", "errors", "detail") if found.get(key)), None)
        if not isinstance(inner, dict | list | str):
            words = next((found[key] for key in _SAYS if isinstance(found.get(key), str)), "")
            return code, shortened(words)
        said = next((found[key] for key in _BESIDE_ERROR if isinstance(found.get(key), str)), None)
        if isinstance(inner, str) and said is not None:
            return code or shortened(inner, 60), shortened(said)
        found = inner
    return code, ""


def _otherwise_said(body: bytes) -> ErrorObject | None:
    """The error in a shape that no vendor of models uses: a firewall's, a cloud's."""
    error = error_of_body(500, body)
    return error if error is not None and isinstance(error.get("message"), str) else None


def _code(found: Mapping[str, Any]) -> str:
    """The finest word of an error's object: Google's reason, else its code or type."""
    details = found.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("reason"), str):
            return shortened(detail["reason"], 60)
    words = (found.get(key) for key in _CODES)
    return next((shortened(word, 60) for word in words if isinstance(word, str) and word), "")


def _page(status: int, body: bytes) -> str:
    """What a page says of itself: its title, or the first words of an error's text; never a word of an answer."""
    if not body.strip():
        return ", an empty body"
    title = _TITLE.search(body[:_LARGEST_PAGE])
    if title and title[1].strip():
        text = title[1]
    elif status < 300 or body.lstrip()[:1] in (b"{", b"["):
        return ", of another shape"
    else:
        text = body[:2000]
    return f": {shortened(_TAG.sub(' ', text.decode('utf-8', 'replace')), 120)}"


def _without_callers_text(reason: str, sent: bytes, model: str) -> str:
    """The reason without what the caller wrote: what is quoted from the request, and what repeats some of its words."""
    if len(sent) > _LARGEST_COMPARED:
        return reason.partition(": ")[0]

    def unquoted(found: re.Match[str]) -> str:
        text = found[found.lastindex or 0]
        return f"{found[0][0]}{MASKED}{found[0][0]}" if _is_callers(text, sent, model) else found[0]

    reason = _QUOTED.sub(unquoted, reason[: 4 * LONGEST_REASON])
    words = reason.split(" ")
    echoed = [False] * len(words)
    for at in range(len(words) - 1):
        pair = f"{words[at]} {words[at + 1]}"
        if len(pair) >= 8 and _occurs(pair, sent):
            echoed[at] = echoed[at + 1] = True
    for at, word in enumerate(words):
        bare = word.strip(_AROUND)
        if len(bare) >= _SHORTEST_ECHO and not _WORD.fullmatch(bare) and _is_callers(bare, sent, model):
            echoed[at] = True
    kept: list[str] = []
    for word, is_echo in zip(words, echoed, strict=True):
        if not is_echo:
            kept.append(word)
        elif not kept or kept[-1] != MASKED:
            kept.append(MASKED)
    return " ".join(kept)


def _is_callers(text: str, sent: bytes, model: str) -> bool:
    """Whether it is the caller's own: it stands in the request, and is neither the model nor a word of the protocol."""
    return text != model and _occurs(text, sent) and not _is_member(text, sent)


def _occurs(text: str, sent: bytes) -> bool:
    written = msgspec.json.encode(text)[1:-1]
    return written in sent or (not text.isascii() and text.encode("ascii", "backslashreplace") in sent)


def _is_member(text: str, sent: bytes) -> bool:
    """Whether it is the name of one of the request's fields, or of a kind that its protocol knows."""
    if not _NAME.fullmatch(text):
        return False
    word = re.escape(b'"%b"' % text.encode())
    kind = rb'"(?:type|role|format|detail|effort)"\s{0,8}:\s{0,8}' + word
    return re.search(word + rb"\s{0,8}:|" + kind, sent) is not None
