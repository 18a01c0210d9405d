"""The example in the working directory, with a note of whom the gateway took each caller for.

A server serves `observed:app` instead of `app:app`. The recorded caller is the result of the one function that
decides: its caller's request id, and the principal it found, as a line each. Nothing else of the example is changed.
"""

import os
from typing import Any

from app import app  # type: ignore[import-not-found]  # found by where the server was started

from llmproxy_asgi.access.identify import Authenticator

__all__ = ["app"]

_authenticate = Authenticator.authenticate


async def authenticate(self: Authenticator, scope: Any, **options: Any) -> Any:
    caller = "nobody"
    try:
        grant = await _authenticate(self, scope, **options)
        caller = f"{grant.principal.tenant}/{grant.principal.id}"
    finally:
        asked = dict(scope["headers"]).get(b"x-request-id", b"-").decode()
        # One short write to a file opened for appending is not torn apart by that of another process.
        with open(os.environ["OBSERVED_CALLERS"], "a") as notes:  # noqa: ASYNC230, PTH123  a line in a test
            notes.write(f"{asked} {caller}\n")
    return grant


Authenticator.authenticate = authenticate  # type: ignore[method-assign]
