"""The tree of all errors of the gateway; each class has a status and tells whether another attempt may help.

::

    GatewayError
    ├── CallerError                    refused before any request to an upstream; never retried
    │   ├── BadRequest             400   names the field in `param`
    │   │   └── Unsupported        400   no target supports a part of the request
    │   ├── Unauthenticated        401   no caller, or a wrong key
    │   ├── Forbidden              403   an authenticated caller who may not do this
    │   ├── ModelNotFound          404   unknown, or not allowed for this caller (the same message for both)
    │   ├── NotFound               404   no such path or object
    │   ├── MethodNotAllowed       405
    │   ├── BodyTimeout            408   the body arrived too slowly
    │   ├── BodyTooLarge           413
    │   ├── WrongMediaType         415
    │   └── RateLimited            429   over a limit of the gateway; `retry_after` says when to try again
    ├── Unavailable                503   no target can serve this now (draining, none left)
    ├── UpstreamError                    one attempt failed; `retryable` and `failover` say what may help
    │   ├── UpstreamRefused        4xx   the upstream refused this request; its status is kept
    │   │   └── UpstreamModelUnsuitable 4xx only this model refuses: too long for it, or it does not exist
    │   ├── UpstreamAuthFailed     502   the operator's credential was refused
    │   ├── UpstreamRateLimited    429   with the upstream's wait
    │   ├── UpstreamQuotaExceeded  429   the operator's quota is exceeded; waiting does not help soon
    │   ├── UpstreamOverloaded     503   (529 in the Messages protocol)
    │   ├── UpstreamFailed         502   the upstream's 5xx
    │   ├── UpstreamUnreachable    502   the connection broke
    │   │   └── UpstreamNotConnected 502 it could not be made: refused, or the name has no address
    │   ├── UpstreamTLSError       502   its certificate is not trusted
    │   ├── SocketsExhausted       503   this process has no socket left; the upstream is not to blame
    │   ├── UpstreamTimeout        504   the upstream reports a timeout
    │   │   ├── UpstreamConnectTimeout 504 no connection in time
    │   │   └── UpstreamTooSlow    504   a timeout of the gateway ended it while it was processed
    │   └── UpstreamProtocolError  502   the response violates the protocol
    ├── InternalError              500   a bug in the gateway, and nothing else
    ├── ConfigError                      the configuration is invalid; contains all findings with their locations
    └── MisuseError                      the host program used the gateway incorrectly; says what to do instead
        └── UnknownArgument              with an unknown keyword; a TypeError, too

`disconnect.ClientDisconnected` is not part of it: no caller is left to receive an error.

Messages are written for callers. They never contain a credential, an upstream's address or an upstream's raw body. This
module knows no protocol: each protocol's translator encodes errors.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeAlias

About: TypeAlias = Literal["model", "credential", "connection"]
"""The subject of an upstream's failure, which cools down after it."""


class ErrorKind(StrEnum):
    """The canonical causes of errors, which every protocol maps to its own."""

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
    """The base class of all errors that end a call.

    Args:
        message: For the caller; one or two sentences, no secrets.
        param: The path of the invalid field in the caller's request (``messages[2].content``).
        code: The vendor's or our own machine-readable code, more specific than the kind.
        retry_after: Seconds to wait before trying again.
        status: Overrides the class's HTTP status.
        kind: Overrides the class's canonical cause.
    """

    status: int = 500
    kind: ErrorKind = ErrorKind.INTERNAL
    retryable: ClassVar[bool] = False
    """Whether another attempt on the same target may succeed, now or after a wait."""
    failover: ClassVar[bool] = False
    """Whether another target may succeed."""
    reported = False
    """Whether a fact about the call that it ended has been recorded."""
    native: Mapping[str, Any] | None = None
    """An error for callers of one protocol only: an upstream's error object, or the event that ends a stream."""

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
    """The call was refused before any request to an upstream."""

    status = 400
    kind = ErrorKind.BAD_REQUEST


class BadRequest(CallerError):
    """The request is malformed, or violates its protocol."""


class Unsupported(BadRequest):
    """No target supports a part of the request, and leaving it out would make the response wrong."""

    kind = ErrorKind.UNSUPPORTED

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="unsupported_by_upstream")


class Unauthenticated(CallerError):
    """The caller is not authenticated, or the key is wrong."""

    status = 401
    kind = ErrorKind.AUTHENTICATION


class Forbidden(CallerError):
    """The caller is authenticated, but may not do this."""

    status = 403
    kind = ErrorKind.FORBIDDEN


class ModelNotFound(CallerError):
    """The model is unknown, or this caller may not use it."""

    status = 404
    kind = ErrorKind.MODEL_NOT_FOUND

    def __init__(self, model: str) -> None:
        shown = model if len(model) <= 200 else model[:200] + "..."
        unknown = f"The model {shown!r} does not exist or you do not have access to it."
        unnamed = "The request names no model (model): send one of the names that /v1/models lists."
        super().__init__(unknown if model else unnamed, param="model", code="model_not_found")


class NotFound(CallerError):
    """The path or object does not exist."""

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
    """The request's body exceeds the limit; it was not read completely."""

    status = 413
    kind = ErrorKind.TOO_LARGE


class WrongMediaType(CallerError):
    """The body is not JSON, or has an unsupported compression.

    Args:
        message: As for every error.
        accept_encoding: The supported encodings, if the compression is unsupported (RFC 9110, 12.5.3).
    """

    status = 415
    kind = ErrorKind.MEDIA_TYPE

    def __init__(self, message: str, *, accept_encoding: str | None = None) -> None:
        super().__init__(message)
        self.accept_encoding = accept_encoding


class RateLimited(CallerError):
    """The call exceeds a limit of this gateway's configuration; nothing was sent to an upstream.

    Args:
        message: As for every error.
        retry_after: Seconds until it would be admitted if no other call came before.
    """

    status = 429
    kind = ErrorKind.RATE_LIMIT

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, code="rate_limit_exceeded", retry_after=retry_after)


class Unavailable(GatewayError):
    """No target can serve this call now."""

    status = 503
    kind = ErrorKind.UNAVAILABLE


class UpstreamError(GatewayError):
    """One attempt failed.

    Args:
        native: The upstream's own error object, for callers of the same protocol.
        protocol: The protocol of `native`.
        upstream_status: The status of the upstream's response, if there was one.
        upstream_request_id: The upstream's own id of the call, for the log.
        reason: The reason for the operator: one short line (`ECONNREFUSED host:port`, a status with the vendor's
            message). It contains addresses, so it is never sent to callers.
        provider: The name of the provider, set by the executor.
    """

    status = 502
    kind = ErrorKind.UPSTREAM
    retryable = True
    failover = True
    about: About = "model"
    """The subject of the failure: one model with one credential, the whole credential, or the whole upstream."""
    blames_upstream: ClassVar[bool] = True
    """Whether the failure counts against the attempt's credential and upstream."""

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
    """The upstream refused this model only: the request is too long for it, or it does not exist."""

    failover = True


class UpstreamAuthFailed(UpstreamError):
    """The operator's credential was refused; the message to callers contains no name."""

    kind = ErrorKind.UPSTREAM_AUTH
    retryable = False
    about: About = "credential"


class UpstreamRateLimited(UpstreamError):
    """The upstream limits the rate: of one model, unless its code or headers show that it limits the account."""

    status = 429
    kind = ErrorKind.RATE_LIMIT


class UpstreamQuotaExceeded(UpstreamError):
    """The operator's quota at the upstream is exceeded; another target may succeed, waiting does not help."""

    status = 429
    kind = ErrorKind.QUOTA
    retryable = False
    about: About = "credential"


class UpstreamOverloaded(UpstreamError):
    """The upstream reports that it is overloaded."""

    status = 503
    kind = ErrorKind.OVERLOADED


class UpstreamFailed(UpstreamError):
    """The upstream failed (5xx, or an error event in its stream)."""


class UpstreamUnreachable(UpstreamError):
    """The connection broke before or during the response, or could not be made."""


class UpstreamNotConnected(UpstreamUnreachable):
    """No connection could be made: refused, unreachable, or the name has no address. Nothing was sent."""

    about: About = "connection"


class UpstreamTLSError(UpstreamError):
    """The upstream's certificate is not trusted; nothing was sent to it."""

    retryable = False
    about: About = "connection"


class SocketsExhausted(UpstreamError):
    """This process could not open a socket (`EMFILE`, `ENFILE`, `ENOBUFS`); the upstream is not to blame."""

    status = 503
    kind = ErrorKind.UNAVAILABLE
    blames_upstream = False


class UpstreamTimeout(UpstreamError):
    """The upstream reports that it timed out."""

    status = 504
    kind = ErrorKind.TIMEOUT


class UpstreamConnectTimeout(UpstreamTimeout):
    """No connection within the connect timeout. Nothing was sent."""

    about: About = "connection"


class UpstreamTooSlow(UpstreamTimeout):
    """The first-byte, idle or total timeout ended an attempt that the upstream had begun to process, and may bill.

    The same target isn't tried again: the call would be billed twice, and would take as long again.
    """

    retryable = False


class UpstreamProtocolError(UpstreamError):
    """The upstream's response violates its protocol."""


class InternalError(GatewayError):
    """A bug in the gateway; the details are in the log, never in the response."""


class ConfigError(GatewayError):
    """The configuration is invalid.

    `findings` holds one line per mistake: its location (file and line if there is a file), the field, what is wrong.
    """

    def __init__(self, findings: list[str]) -> None:
        super().__init__("The configuration is not usable:\n" + "\n".join(f"  {line}" for line in findings))
        self.findings = tuple(findings)


class MisuseError(GatewayError):
    """The host program used the gateway incorrectly; the message says what to do instead."""


class UnknownArgument(MisuseError, TypeError):
    """The host program passed an unknown keyword; the message suggests the most similar one."""
