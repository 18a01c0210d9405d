"""Every error of ours, in one tree; each class knows its status and whether another attempt may help.

::

    GatewayError
    ├── CallerError                    refused before any upstream was asked; never retried
    │   ├── BadRequest             400   names the field in `param`
    │   │   └── Unsupported        400   no target can express what was asked
    │   ├── Unauthenticated        401   nobody, or a wrong key
    │   ├── Forbidden              403   somebody, but not allowed this
    │   ├── ModelNotFound          404   unknown, or not this caller's (the same answer for both)
    │   ├── NotFound               404   no such path or object
    │   ├── MethodNotAllowed       405
    │   ├── BodyTimeout            408   the body came too slowly
    │   ├── BodyTooLarge           413
    │   ├── WrongMediaType         415
    │   └── RateLimited            429   over a limit of ours; `retry_after` says when it will not be
    ├── Unavailable                503   nothing can serve this now (draining, no target left)
    ├── UpstreamError                    one attempt failed; `retryable` and `failover` say what may help
    │   ├── UpstreamRefused        4xx   the upstream's own refusal of this request, status kept
    │   │   └── UpstreamModelUnsuitable 4xx another model may take it: too long for this one, or this one is not there
    │   ├── UpstreamAuthFailed     502   the operator's credential was refused
    │   ├── UpstreamRateLimited    429   with the wait it asked for
    │   ├── UpstreamQuotaExceeded  429   the operator's quota is exceeded; waiting will not help soon
    │   ├── UpstreamOverloaded     503   (529 in the Messages protocol)
    │   ├── UpstreamFailed         502   its own 5xx
    │   ├── UpstreamUnreachable    502   the connection broke
    │   │   └── UpstreamNotConnected 502 there was none: refused, or its name has no address
    │   ├── UpstreamTLSError       502   its certificate does not prove who it is
    │   ├── SocketsExhausted       503   this process has no socket left to ask with; says nothing of the upstream
    │   ├── UpstreamTimeout        504   it timed out, by its own account
    │   │   ├── UpstreamConnectTimeout 504 no connection in time
    │   │   └── UpstreamTooSlow    504   one of our clocks ran out while it was at work
    │   └── UpstreamProtocolError  502   what it sent breaks its protocol
    ├── InternalError              500   a bug of ours, and only that
    ├── ConfigError                      the configuration is wrong; carries every finding with its place
    └── MisuseError                      the host program called us wrongly; tells what to do instead
        └── UnknownArgument              with a keyword that nothing takes; a TypeError, too

`disconnect.ClientDisconnected` is not part of it: there is no caller left to answer.

Messages are written for the person who called. They never hold a credential, an upstream's address or
an upstream's raw body. This module knows no protocol: how an error looks on the wire is its translator's.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeAlias

About: TypeAlias = Literal["model", "credential", "connection"]
"""What an upstream's failure is about, and so what is left alone for a while after it."""


class ErrorKind(StrEnum):
    """The canonical causes that every protocol has a word for."""

    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH = "context_length"
    UNSUPPORTED = "unsupported"
    AUTHENTICATION = "authentication"
    FORBIDDEN = "forbidden"
    BILLING = "billing"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    METHOD = "method_not_allowed"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    MEDIA_TYPE = "media_type"
    UNPROCESSABLE = "unprocessable"
    RATE_LIMIT = "rate_limit"
    QUOTA = "quota"
    CLIENT_TIMEOUT = "client_timeout"
    UPSTREAM = "upstream"
    UPSTREAM_AUTH = "upstream_auth"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


class GatewayError(Exception):
    """Anything that ends a call other than well.

    Args:
        message: For the caller; one or two sentences, no secrets.
        param: The path of the request's field that is at fault, in the caller's spelling (``messages[2].content``).
        code: The vendor's or our own machine-readable word, finer than the kind.
        retry_after: Seconds to wait before another try makes sense.
        status: Overrides the class's HTTP status.
        kind: Overrides the class's canonical cause.
    """

    status: int = 500
    kind: ErrorKind = ErrorKind.INTERNAL
    retryable: ClassVar[bool] = False
    """Whether the same target may do better at once or after a wait."""
    failover: ClassVar[bool] = False
    """Whether another target may do better."""
    reported = False
    """Whether a fact about the call that it ended has been recorded."""
    native: Mapping[str, Any] | None = None
    """What callers of one protocol alone are told: an upstream's own error object, the event that ends their stream."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        kind: ErrorKind | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after
        if status is not None:
            self.status = status
        if kind is not None:
            self.kind = kind


class CallerError(GatewayError):
    """The call was refused before any upstream was asked."""

    status = 400
    kind = ErrorKind.BAD_REQUEST


class BadRequest(CallerError):
    """What was sent cannot be read, or breaks its protocol."""


class Unsupported(BadRequest):
    """No target can express what was asked, and leaving it out would make the answer wrong."""

    kind = ErrorKind.UNSUPPORTED

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="unsupported_by_upstream")


class Unauthenticated(CallerError):
    """Nobody is known to be calling, or the key is wrong."""

    status = 401
    kind = ErrorKind.AUTHENTICATION


class Forbidden(CallerError):
    """The caller is known and may not do this."""

    status = 403
    kind = ErrorKind.FORBIDDEN


class ModelNotFound(CallerError):
    """The model is unknown, or not this caller's."""

    status = 404
    kind = ErrorKind.MODEL_NOT_FOUND

    def __init__(self, model: str) -> None:
        shown = model if len(model) <= 200 else model[:200] + "..."
        unknown = f"The model {shown!r} does not exist or you do not have access to it."
        unnamed = "The request names no model (model): send one of the names that /v1/models lists."
        super().__init__(unknown if model else unnamed, param="model", code="model_not_found")


class NotFound(CallerError):
    """No such path or object."""

    status = 404
    kind = ErrorKind.NOT_FOUND


class MethodNotAllowed(CallerError):
    """The path exists, but not for this method."""

    status = 405
    kind = ErrorKind.METHOD

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class BodyTimeout(CallerError):
    """The request's body did not arrive in time."""

    status = 408
    kind = ErrorKind.CLIENT_TIMEOUT


class BodyTooLarge(CallerError):
    """The request's body is over the limit; it was not read whole."""

    status = 413
    kind = ErrorKind.TOO_LARGE


class WrongMediaType(CallerError):
    """The body is not JSON, or is compressed in a way that cannot be read.

    Args:
        message: As for every error.
        accept_encoding: The compressions that can be read, where that is what is wrong (RFC 9110, 12.5.3).
    """

    status = 415
    kind = ErrorKind.MEDIA_TYPE

    def __init__(self, message: str, *, accept_encoding: str | None = None) -> None:
        super().__init__(message)
        self.accept_encoding = accept_encoding


class RateLimited(CallerError):
    """The call is over a limit that this gateway's operator set; nothing was sent anywhere.

    Args:
        message: As for every error.
        retry_after: Seconds until it would be let in, if nobody else came before.
    """

    status = 429
    kind = ErrorKind.RATE_LIMIT

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, code="rate_limit_exceeded", retry_after=retry_after)


class Unavailable(GatewayError):
    """Nothing can serve this call now."""

    status = 503
    kind = ErrorKind.UNAVAILABLE


class UpstreamError(GatewayError):
    """One attempt failed.

    Args:
        native: The upstream's own error object, for callers that speak the same protocol.
        protocol: The protocol `native` is written in.
        upstream_status: What the upstream answered, where it answered at all.
        upstream_request_id: The upstream's own id of the call, for the log.
        reason: Why, for the operator: one short line (`ECONNREFUSED host:port`, a status with the vendor's words).
            It names addresses, so callers never read it.
        provider: The name of the provider, set by the executor.
    """

    status = 502
    kind = ErrorKind.UPSTREAM
    retryable = True
    failover = True
    about: About = "model"
    """What it says something about: one model by one credential, the whole credential, or the upstream as a whole."""
    blames_upstream: ClassVar[bool] = True
    """Whether the failure counts against the credential and the upstream it was made with."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        kind: ErrorKind | None = None,
        native: Mapping[str, Any] | None = None,
        protocol: str | None = None,
        upstream_status: int | None = None,
        upstream_request_id: str | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after=retry_after, status=status, kind=kind)
        self.native = native
        self.reason = reason
        self.protocol = protocol
        self.upstream_status = upstream_status
        self.upstream_request_id = upstream_request_id
        self.provider: str | None = None


class UpstreamRefused(UpstreamError):
    """The upstream refused this request (400, 404, 409, 413, 422); its status and reason are kept."""

    status = 400
    kind = ErrorKind.BAD_REQUEST
    retryable = False
    failover = False


class UpstreamModelUnsuitable(UpstreamRefused):
    """A refusal that another model may not repeat: the request is too long for this one, or this one is not there."""

    failover = True


class UpstreamAuthFailed(UpstreamError):
    """The operator's credential was refused; callers are told so without any name."""

    kind = ErrorKind.UPSTREAM_AUTH
    retryable = False
    about: About = "credential"


class UpstreamRateLimited(UpstreamError):
    """The upstream asked for a wait: for one model, unless its code or headers say that it limits the account."""

    status = 429
    kind = ErrorKind.RATE_LIMIT


class UpstreamQuotaExceeded(UpstreamError):
    """The operator's quota at the upstream is exceeded; another target may do better, waiting will not."""

    status = 429
    kind = ErrorKind.QUOTA
    retryable = False
    about: About = "credential"


class UpstreamOverloaded(UpstreamError):
    """The upstream says that it has too much to do."""

    status = 503
    kind = ErrorKind.OVERLOADED


class UpstreamFailed(UpstreamError):
    """The upstream's own failure (its 5xx, or an error event in its stream)."""


class UpstreamUnreachable(UpstreamError):
    """The connection broke before or during the answer, or there was none."""


class UpstreamNotConnected(UpstreamUnreachable):
    """No connection could be made: refused, unreachable, or the name has no address. Nothing was sent."""

    about: About = "connection"


class UpstreamTLSError(UpstreamError):
    """The upstream's certificate does not prove that it is who we meant to call; nothing was sent to it."""

    retryable = False
    about: About = "connection"


class SocketsExhausted(UpstreamError):
    """This process could open no socket (`EMFILE`, `ENFILE`, `ENOBUFS`): our fault, not the upstream's."""

    status = 503
    kind = ErrorKind.UNAVAILABLE
    blames_upstream = False


class UpstreamTimeout(UpstreamError):
    """The upstream timed out, by its own account."""

    status = 504
    kind = ErrorKind.TIMEOUT


class UpstreamConnectTimeout(UpstreamTimeout):
    """No connection within the connect timeout. Nothing was sent."""

    about: About = "connection"


class UpstreamTooSlow(UpstreamTimeout):
    """The first-byte, idle or total timeout ended an attempt that the upstream was working on, and may bill.

    The same target isn't tried again: it would be paid for twice, and takes as long the second time.
    """

    retryable = False


class UpstreamProtocolError(UpstreamError):
    """What the upstream sent cannot be read by its protocol's rules."""


class InternalError(GatewayError):
    """A bug of ours; the details are in the log, never in the answer."""


class ConfigError(GatewayError):
    """The configuration cannot be used.

    `findings` holds one line per mistake: place (file and line where there is a file), field, what is wrong.
    """

    def __init__(self, findings: list[str]) -> None:
        super().__init__("The configuration is not usable:\n" + "\n".join(f"  {line}" for line in findings))
        self.findings = tuple(findings)


class MisuseError(GatewayError):
    """The host program called us in a way that cannot work; the message says what to do instead."""


class UnknownArgument(MisuseError, TypeError):
    """The host program passed a keyword that nothing here takes; the message suggests the nearest one."""
