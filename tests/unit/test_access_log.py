"""Keys in requests do not reach the access logs of servers."""

import logging
import logging.config
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config as GunicornConfig  # type: ignore[import-untyped]
from gunicorn.glogging import Logger as GunicornLogger  # type: ignore[import-untyped]
from hypercorn.logging import AccessLogAtoms
from typing_extensions import override
from uvicorn.logging import AccessFormatter
from werkzeug.serving import WSGIRequestHandler

from llmproxy_asgi import MaskKeys

PATH = "/v1beta/models/m:generateContent"
SECRET = "AIza-a-key-of-somebody"
FORMAT = logging.Formatter("%(message)s")


class Kept(logging.Handler):
    """Keeps what a logger writes, as it is formatted."""

    def __init__(self, formatter: logging.Formatter = FORMAT) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def logger(name: str, formatter: logging.Formatter = FORMAT) -> tuple[logging.Logger, Kept]:
    made = logging.getLogger(f"tests.{name}")
    made.setLevel(logging.INFO)
    made.propagate = False
    kept = Kept(formatter)
    made.handlers[:] = [kept]
    made.filters[:] = [MaskKeys()]
    return made, kept


def test_uvicorn() -> None:
    """Its formatter takes the arguments of a record apart, and still can."""
    log, kept = logger("uvicorn.access", AccessFormatter("%(client_addr)s %(request_line)s %(status_code)s"))
    log.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "POST", f"{PATH}?key={SECRET}&alt=sse", "1.1", 200)
    assert kept.lines == [f"127.0.0.1:5 POST {PATH}?key=***&alt=sse HTTP/1.1 200 OK"]


def test_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records hold the request line, the query and the referer, and headers that are not there are still a dash."""
    config = GunicornConfig()
    config.set("accesslog", "-")
    config.set("access_log_format", "%(r)s|%(q)s|%(f)s|%(s)s|%({x-nothing}i)s")
    theirs = GunicornLogger(config)
    log, kept = logger("gunicorn.access")
    monkeypatch.setattr(theirs, "access_log", log)
    environ = {
        "REQUEST_METHOD": "POST",
        "RAW_URI": f"{PATH}?key={SECRET}",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": PATH,
        "QUERY_STRING": f"key={SECRET}",
        "HTTP_REFERER": f"https://app.example/?api_key={SECRET}",
    }
    request: Any = SimpleNamespace(headers=[])
    response: Any = SimpleNamespace(status="200 OK", sent=5, headers=[])
    theirs.access(response, request, environ, SimpleNamespace(seconds=0, microseconds=1))
    assert kept.lines == [f"POST {PATH}?key=*** HTTP/1.1|key=***|https://app.example/?api_key=***|200|-"]


def test_hypercorn() -> None:
    """Its records are dicts of a kind of its own."""
    request: Any = {
        "type": "http", "method": "POST", "path": PATH, "query_string": f"key={SECRET}".encode(), "scheme": "https",
        "http_version": "2", "headers": [], "client": ("127.0.0.1", 5), "raw_path": PATH.encode(),
    }  # fmt: skip
    atoms = AccessLogAtoms(request, {"status": 200, "headers": []}, 0.1)
    log, kept = logger("hypercorn.access")
    log.info("%(R)s|%(q)s|%({x-nothing}i)s", atoms)
    assert kept.lines == [f"POST {PATH}?key=*** 2|key=***|-"]


def test_granian() -> None:
    """Its records hold the query beside the path."""
    log, kept = logger("granian.access")
    log.info("%(path)s?%(query_string)s", {"path": PATH, "query_string": f"alt=sse&key={SECRET}"})
    assert kept.lines == [f"{PATH}?alt=sse&key=***"]


def test_werkzeug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its development server hands the request line over as an argument."""
    log, kept = logger("werkzeug")
    monkeypatch.setattr("werkzeug._internal._logger", log)
    handler = WSGIRequestHandler.__new__(WSGIRequestHandler)
    handler.client_address = ("127.0.0.1", 5)
    handler.command, handler.path, handler.request_version = "POST", f"{PATH}?key={SECRET}", "HTTP/1.1"
    handler.log_request(200, 5)
    assert f"{PATH}?key=*** HTTP/1.1" in kept.lines[0]
    assert SECRET not in kept.lines[0]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("/x?key=abc", "/x?key=***"),
        ("/x?alt=sse&key=abc&key=def HTTP/1.1", "/x?alt=sse&key=***&key=*** HTTP/1.1"),
        ("/x?%6Bey=abc", "/x?%6Bey=***"),
        ("/x?KEY=abc&Api_Key=d&access_token=e", "/x?KEY=***&Api_Key=***&access_token=***"),
        ("key=abc", "key=***"),
        ('"GET /x?key=abc" 200', '"GET /x?key=***" 200'),
        ("/x?monkey=abc&keys=d&key=", "/x?monkey=abc&keys=d&key="),
        ("/x/key=abc", "/x/key=abc"),
        ("Bearer llmp_0123-ab_c.", "Bearer ***."),
        ("/x?q=llmp_abc&z=1", "/x?q=***&z=1"),
        ("nothing=here", "nothing=here"),
        ("", ""),
    ],
)
def test_only_keys_are_masked(text: str, masked: str) -> None:
    """By the parameter's name, however it is spelled, or by our prefix; in messages as in arguments."""
    for message, arguments in ((text, ()), ("%s", (text,)), ("%(a)s", ({"a": text},))):
        record = logging.LogRecord("any", logging.INFO, "", 1, message, arguments, None)
        assert MaskKeys().filter(record)
        assert record.getMessage() == masked


def test_what_is_no_text_is_left_alone() -> None:
    """Numbers and objects pass, and a record is never dropped."""
    record = logging.LogRecord("any", logging.INFO, "", 1, "%s %d", (None, 5), None)
    assert MaskKeys().filter(record)
    assert record.getMessage() == "None 5"
    other: Any = object()
    assert MaskKeys().filter(logging.LogRecord("any", logging.INFO, "", 1, other, None, None))


def test_a_logging_configuration_can_name_it() -> None:
    """`dictConfig`, as uvicorn's and gunicorn's settings take it, finds it under its public name."""
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"mask_keys": {"()": "llmproxy_asgi.MaskKeys"}},
        "loggers": {"a.test.of.masks": {"filters": ["mask_keys"]}},
    }
    logging.config.dictConfig(config)
    assert isinstance(logging.getLogger("a.test.of.masks").filters[0], MaskKeys)
