"""Errors of failed attempts for two readers: callers, without secrets, and operators, in one short line.

Both contain the upstream's text, so both pass the provider's mask here, before the error leaves the attempt. The
operator's line also masks the caller's text, because logs contain no prompts.
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

MAX_REASON = 300
_MAX_COMPARED = 1024 * 1024
"""Bytes of a request that a reason is compared with; for larger ones it keeps only status and code."""
_MAX_PAGE = 16 * 1024
_TITLE = re.compile(rb"(?is)<title[^>]{0,200}>([^<]{0,400})")
_TAG = re.compile(r"<[^<>]{0,400}>")
_QUOTED = re.compile(r"'([^']{2,})'|\"([^\"]{2,})\"|`([^`]{2,})`")
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_WORD = re.compile(r"[A-Z]?[a-z]+")
"""An ordinary word, which alone reveals nothing of a prompt."""
_PUNCTUATION = ".,:;!?()[]{}'\"`"
_MIN_ECHO = 4
_MESSAGE_KEYS = ("message", "msg", "detail", "description", "error", "title", "reason")
_KEYS_BESIDE_ERROR = ("message", "error_description")
_CODE_KEYS = ("code", "type", "status", "error_code")
_MODEL_OUTPUT = frozenset({"output", "instructions", "input", "tools"})


def describe_response(answer: UpstreamResponse, url: Address, body: bytes) -> str:
    """Describe a response that is an error: its status, and its code and message.

    Args:
        answer: The status and headers.
        url: The requested address.
        body: The part of the body that was read.
    """
    status = answer.status
    location = answer.header("location")
    if 300 <= status < 400 and location:
        return f"{status} redirects to {_target(url, location)}"
    code, message = _code_and_message(body)
    if not message and status >= 300 and (error := _infrastructure_error(body)) is not None:
        code, message = _code(error) or code, shortened(str(error["message"]))
    if code or message:
        return f"{status} {': '.join(each for each in (code, message) if each)}"
    media_type = (answer.header("content-type") or "no content type").partition(";")[0].strip()
    return f"{status} with {shortened(media_type, 60)}{_page(status, body)} (asked {url.host_port}{_path(url)})"


def redact_error(error: GatewayError, mask: Mask, *, sent: bytes, model: str) -> GatewayError:
    """Mask every field of an attempt's error, and add a reason for the operator.

    Returns:
        The same error; another one if its text shows that it is about the credential, whatever its status.

    Args:
        error: The failure of the attempt.
        mask: The provider's mask.
        sent: The body of the request.
        model: The upstream's name of the model, which a reason may contain.
    """
    if type(error) is not UpstreamAuthFailed and isinstance(error, UpstreamRefused) and _quotes(error, mask, sent):
        error = _about_credential(error)
    if isinstance(error, UpstreamError):
        reason = mask.text(error.reason or _reason_of(error))
        error.reason = shortened(_without_callers_text(reason, sent, model), MAX_REASON)
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
    """Return an upstream's error object masked; the model's output in a partial response stays unchanged."""
    event = native.get(FAILED_EVENT)
    answer = event.get("response") if isinstance(event, dict) else None
    if not isinstance(event, dict) or not isinstance(answer, dict):
        return dict(mask.value(native))
    metadata = {key: value for key, value in answer.items() if key not in _MODEL_OUTPUT}
    output = {key: value for key, value in answer.items() if key in _MODEL_OUTPUT}
    around = {key: value for key, value in event.items() if key != "response"}
    error = {key: value for key, value in native.items() if key != FAILED_EVENT}
    whole = {**mask.value(metadata), **mask.known_value(output)}
    order = {key: whole[key] for key in answer if key in whole}
    return {**mask.value(error), FAILED_EVENT: {**mask.value(around), "response": {**order, **whole}}}


def _quotes(error: UpstreamError, mask: Mask, sent: bytes) -> bool:
    """Return whether a refusal quotes the credential, as vendors without an error code for it do."""
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
    """Return the reason of an error without one: in a stream, or in a response with a good status."""
    native = error.native.get("message") if error.native else None
    message = native if isinstance(native, str) and native else error.message
    code = error.code or (str(error.native.get("type") or "") if error.native else "")
    status = "" if error.upstream_status is None or error.upstream_status < 300 else f"{error.upstream_status} "
    return f"{status}{code}: {message}" if code and code not in message else f"{status}{message}"


def _target(url: Address, location: str) -> str:
    """Return the target of a redirect: origin and path, never a query, which may contain a token."""
    try:
        parts = urlsplit(urljoin(str(url), location[:2000]))
        port = "" if parts.port is None else f":{parts.port}"
        return shortened(f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}")
    except ValueError:
        return "a location that cannot be read"


def _path(url: Address) -> str:
    return url.raw_path.decode("ascii").partition("?")[0]


def _code_and_message(body: bytes) -> tuple[str, str]:
    """Return the vendor's code and message, whatever the shape of its JSON."""
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
            message = next((found[key] for key in _MESSAGE_KEYS if isinstance(found.get(key), str)), "")
            return code, shortened(message)
        message = next((found[key] for key in _KEYS_BESIDE_ERROR if isinstance(found.get(key), str)), None)
        if isinstance(inner, str) and message is not None:
            return code or shortened(inner, 60), shortened(message)
        found = inner
    return code, ""


def _infrastructure_error(body: bytes) -> ErrorObject | None:
    """Return an error in a shape that no vendor of models uses: of a firewall or a cloud."""
    error = error_of_body(500, body)
    return error if error is not None and isinstance(error.get("message"), str) else None


def _code(found: Mapping[str, Any]) -> str:
    """Return the most specific code of an error object: Google's reason, else its code or type."""
    details = found.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("reason"), str):
            return shortened(detail["reason"], 60)
    codes = (found.get(key) for key in _CODE_KEYS)
    return next((shortened(code, 60) for code in codes if isinstance(code, str) and code), "")


def _page(status: int, body: bytes) -> str:
    """Describe a page: its title, or the first words of an error; never text of a successful response."""
    if not body.strip():
        return ", an empty body"
    title = _TITLE.search(body[:_MAX_PAGE])
    if title and title[1].strip():
        text = title[1]
    elif status < 300 or body.lstrip()[:1] in (b"{", b"["):
        return ", of another shape"
    else:
        text = body[:2000]
    return f": {shortened(_TAG.sub(' ', text.decode('utf-8', 'replace')), 120)}"


def _without_callers_text(reason: str, sent: bytes, model: str) -> str:
    """Return the reason without the caller's text: quotes from the request, and repetitions of its words."""
    if len(sent) > _MAX_COMPARED:
        return reason.partition(": ")[0]

    def unquoted(found: re.Match[str]) -> str:
        text = found[found.lastindex or 0]
        return f"{found[0][0]}{MASKED}{found[0][0]}" if _is_from_request(text, sent, model) else found[0]

    reason = _QUOTED.sub(unquoted, reason[: 4 * MAX_REASON])
    words = reason.split(" ")
    echoed = [False] * len(words)
    for at in range(len(words) - 1):
        pair = f"{words[at]} {words[at + 1]}"
        if len(pair) >= 8 and _is_in_request(pair, sent):
            echoed[at] = echoed[at + 1] = True
    for at, word in enumerate(words):
        bare = word.strip(_PUNCTUATION)
        if len(bare) >= _MIN_ECHO and not _WORD.fullmatch(bare) and _is_from_request(bare, sent, model):
            echoed[at] = True
    kept: list[str] = []
    for word, is_echo in zip(words, echoed, strict=True):
        if not is_echo:
            kept.append(word)
        elif not kept or kept[-1] != MASKED:
            kept.append(MASKED)
    return " ".join(kept)


def _is_from_request(text: str, sent: bytes, model: str) -> bool:
    """Return whether a text is the caller's: in the request, and neither the model nor part of the protocol."""
    return text != model and _is_in_request(text, sent) and not _is_field_or_kind(text, sent)


def _is_in_request(text: str, sent: bytes) -> bool:
    written = msgspec.json.encode(text)[1:-1]
    return written in sent or (not text.isascii() and text.encode("ascii", "backslashreplace") in sent)


def _is_field_or_kind(text: str, sent: bytes) -> bool:
    """Return whether a text is the name of a field of the request, or of a kind of its protocol."""
    if not _NAME.fullmatch(text):
        return False
    word = re.escape(b'"%b"' % text.encode())
    kind = rb'"(?:type|role|format|detail|effort)"\s{0,8}:\s{0,8}' + word
    return re.search(word + rb"\s{0,8}:|" + kind, sent) is not None
