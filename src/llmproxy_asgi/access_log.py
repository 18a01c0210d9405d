"""Keep keys out of the access logs of servers.

Gemini's clients may send their key in the query (`?key=`). The gateway logs no query, but servers write the request
line into their access logs. This module configures no logging: a host adds the filter to its server's logger.
"""

import logging
import re
from urllib.parse import unquote

from typing_extensions import override

_PARAMETER = re.compile(r"(?:(?<=[?&])|^)([^?&=\s]{1,64})=([^&#\s\"']+)")
_GATEWAY_KEY = re.compile(r"llmp_[A-Za-z0-9_-]+")
_SECRET = frozenset({"key", "api_key", "api-key", "apikey", "access_token"})
_MASK = "***"


class MaskKeys(logging.Filter):
    """A logging filter that masks keys in requests: values of `?key=` and similar, and words that begin with `llmp_`.

    It supports the records of uvicorn, gunicorn, hypercorn, granian and werkzeug, drops no record, and changes nothing
    else in them: `logging.getLogger("uvicorn.access").addFilter(MaskKeys())`.
    """

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the keys in a record's message and arguments; never drop one."""
        if isinstance(record.msg, str):
            record.msg = _masked(record.msg)
        arguments = record.args
        if isinstance(arguments, tuple):
            record.args = tuple(_masked(each) if isinstance(each, str) else each for each in arguments)
        elif isinstance(arguments, dict):  # gunicorn's and hypercorn's are dicts of their own kinds, which format
            for name, value in arguments.items():
                if isinstance(value, str):
                    arguments[name] = _masked(value)
        return True


def _masked(text: str) -> str:
    if "llmp_" in text:
        text = _GATEWAY_KEY.sub(_MASK, text)
    return _PARAMETER.sub(_mask_parameter, text) if "=" in text else text


def _mask_parameter(found: re.Match[str]) -> str:
    name = found[1]
    return f"{name}={_MASK}" if unquote(name).lower() in _SECRET else found[0]
