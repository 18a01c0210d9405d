"""Bodies of every shape and size, and a gateway in a process of its own whose longest step of the loop is measured.

What is measured between two turns of the loop is the processor time of the whole process, in whichever thread: a thread
that holds the interpreter keeps the loop waiting all the same. Other programs do not count.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx2

from support.pairs import CHAT, GEMINI, MESSAGES, RESPONSES
from support.pairs.harness import PATHS

MIB = 2**20
TICK = 0.001

_SERVE = """
import asyncio, json, resource, socket, sys, time
import uvicorn
from llmproxy_asgi import LLMProxy

app = LLMProxy(json.loads(sys.argv[1]))
longest = [0.0]

async def watch():
    since = time.process_time()
    while True:
        await asyncio.sleep(0.001)
        now = time.process_time()
        longest[0] = max(longest[0], now - since)
        since = now

async def measured(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/longest":
        said = json.dumps({"seconds": longest[0], "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
        await send({"type": "http.response.body", "body": said})
        longest[0] = 0.0
        return
    if scope["type"] == "http" and not hasattr(measured, "task"):
        measured.task = asyncio.get_running_loop().create_task(watch())
    await app(scope, receive, send)

config = uvicorn.Config(measured, log_level="error", lifespan="off")
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[2]))])
"""


class Measured:
    """A gateway on a real uvicorn."""

    def __init__(self, base: str) -> None:
        self._client = httpx2.Client(base_url=base, timeout=120, trust_env=False)

    def post(self, path: str, body: bytes) -> int:
        """The status of one request."""
        return self._client.post(path, content=body, headers={"content-type": "application/json"}).status_code

    def longest(self) -> float:
        """Processor seconds of the longest step since this was last asked."""
        seconds: float = self._asked()["seconds"]
        return seconds

    def peak(self) -> int:
        """The largest size of its memory so far, in bytes."""
        return int(self._asked()["rss"]) * 1024

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _asked(self) -> Any:
        return self._client.get("/longest").json()


@contextmanager
def measured(config: Mapping[str, Any]) -> Iterator[Measured]:
    """Serve a configuration in a process of its own."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        command = [sys.executable, "-c", _SERVE, json.dumps(config), str(listener.fileno())]
        started = subprocess.Popen(command, pass_fds=[listener.fileno()])
        harness = Measured(f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        harness.longest()
        yield harness
    finally:
        harness.close()
        started.terminate()
        started.wait(20)


# ── protocols ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Wire(NamedTuple):
    """How a protocol writes a request: templates, each with one place for what fills it."""

    conversation: bytes
    message: bytes
    text: bytes
    """A message's content that is one JSON string."""
    part: bytes
    image: bytes
    call: bytes
    """A call with these arguments, and its result."""
    result: bytes
    """A call, and its result with this text."""
    tools: bytes
    tool: bytes
    """A tool of this number, with this description and schema."""
    head: bytes = b""
    arguments_as_text: bool = False

    def asked(self, messages: bytes) -> bytes:
        """The fields of a request with these messages."""
        return self.head + self.conversation % messages

    def said(self, content: bytes) -> bytes:
        """The fields of a request with one message."""
        return self.asked(self.message % content)

    def called(self, arguments: bytes) -> bytes:
        """The fields of a request whose conversation holds a call with these arguments, a JSON object."""
        return self.asked(self.message % (self.text % b'"x"') + b"," + self.call % self.written(arguments))

    def written(self, arguments: bytes) -> bytes:
        """The arguments of a call, as a JSON string where the protocol has them so."""
        if not self.arguments_as_text:
            return arguments
        return b'"' + arguments.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'

    def equipped(self, tools: Iterable[bytes]) -> bytes:
        """The fields of a request with tools."""
        return self.said(self.text % b'"x"') + b"," + self.tools % b",".join(tools)


_SCHEMA = b'{"type":"object","properties":{"a":{"type":"string"}}}'
WIRES = {
    CHAT: Wire(
        conversation=b'"messages":[%b]',
        message=b'{"role":"user","content":%b}',
        text=b"%b",
        part=b'{"type":"text","text":%b}',
        image=b'{"type":"image_url","image_url":{"url":"data:image/png;base64,%b"}}',
        call=b'{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f",'
        b'"arguments":%b}}]},{"role":"tool","tool_call_id":"c1","content":"ok"}',
        result=b'{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f",'
        b'"arguments":"{}"}}]},{"role":"tool","tool_call_id":"c1","content":%b}',
        tools=b'"tools":[%b]',
        tool=b'{"type":"function","function":{"name":"f%d","description":%b,"parameters":%b}}',
        arguments_as_text=True,
    ),
    RESPONSES: Wire(
        conversation=b'"input":[%b]',
        message=b'{"role":"user","content":%b}',
        text=b"%b",
        part=b'{"type":"input_text","text":%b}',
        image=b'{"type":"input_image","image_url":"data:image/png;base64,%b"}',
        call=b'{"type":"function_call","call_id":"c1","name":"f","arguments":%b},'
        b'{"type":"function_call_output","call_id":"c1","output":"ok"}',
        result=b'{"type":"function_call","call_id":"c1","name":"f","arguments":"{}"},'
        b'{"type":"function_call_output","call_id":"c1","output":%b}',
        tools=b'"tools":[%b]',
        tool=b'{"type":"function","name":"f%d","description":%b,"parameters":%b,"strict":false}',
        arguments_as_text=True,
    ),
    MESSAGES: Wire(
        conversation=b'"messages":[%b]',
        message=b'{"role":"user","content":%b}',
        text=b"%b",
        part=b'{"type":"text","text":%b}',
        image=b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":"%b"}}',
        call=b'{"role":"assistant","content":[{"type":"tool_use","id":"c1","name":"f","input":%b}]},'
        b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":"ok"}]}',
        result=b'{"role":"assistant","content":[{"type":"tool_use","id":"c1","name":"f","input":{}}]},'
        b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":%b}]}',
        tools=b'"tools":[%b]',
        tool=b'{"name":"f%d","description":%b,"input_schema":%b}',
        head=b'"max_tokens":64,',
    ),
    GEMINI: Wire(
        conversation=b'"contents":[%b]',
        message=b'{"role":"user","parts":%b}',
        text=b'[{"text":%b}]',
        part=b'{"text":%b}',
        image=b'{"inlineData":{"mimeType":"image/png","data":"%b"}}',
        call=b'{"role":"model","parts":[{"functionCall":{"name":"f","args":%b}}]},'
        b'{"role":"user","parts":[{"functionResponse":{"name":"f","response":{"output":"ok"}}}]}',
        result=b'{"role":"model","parts":[{"functionCall":{"name":"f","args":{}}}]},'
        b'{"role":"user","parts":[{"functionResponse":{"name":"f","response":{"output":%b}}}]}',
        tools=b'"tools":[{"functionDeclarations":[%b]}]',
        tool=b'{"name":"f%d","description":%b,"parameters":%b}',
    ),
}


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Shape = Callable[[Wire, int], bytes]
"""The fields of a request of about so many bytes, without its braces and its model."""
Made = Callable[[int], bytes]
"""A JSON value of about so many bytes."""


def _text(unit: bytes) -> Made:
    return lambda size: b'"' + unit * (size // len(unit)) + b'"'


def _items(unit: bytes, size: int) -> bytes:
    return b",".join([unit] * (size // (len(unit) + 1)))


def _list(unit: bytes) -> Made:
    return lambda size: b"[" + _items(unit, size) + b"]"


def _members(name: str, value: bytes, most: int = 10**9) -> Made:
    """An object of distinct members; `name` has a place for a number of six digits."""
    length = len((name % 0).encode()) + len(value) + 4

    def made(size: int) -> bytes:
        numbers = range(min(size // length, most))
        return b"{" + b",".join(b'"%b":%b' % ((name % number).encode(), value) for number in numbers) + b"}"

    return made


def _first(made: Made, most: int) -> Made:
    """The longest of a shape that is within the bound on values."""
    return lambda size: made(min(size, most))


_TEXTS: dict[str, Made] = {
    "words": _text(b"A sentence of some words, and another. "),
    "escapes": _text(rb"\\\n\""),
    "escaped characters": _text(rb"\u4e2d"),
    "emoji": _text("😀".encode()),
}
_VALUES: dict[str, Made] = {
    "numbers": _list(b"1"),
    "numbers, at the limit": _first(_list(b"1"), 2 * 199_000),
    "fractions, at the limit": _first(_list(b"-1.2345678901e-10"), 18 * 199_000),
    "a number of many digits": lambda size: b"1" * size,
    "empty strings, at the limit": _first(_list(b'""'), 3 * 199_000),
    "small objects, at the limit": _first(_list(b'{"a":1}'), 8 * 66_000),
    "members, at the limit": _members("k%06d", b"1", 199_000),
    "arrays sixty deep": _list(b"[" * 60 + b"]" * 60),
    "arrays sixty deep, at the limit": _first(_list(b"[" * 58 + b"]" * 58), 3_200 * 117),
}
_ARGUMENTS: dict[str, Made] = {
    "words": _TEXTS["words"],
    "escapes": _TEXTS["escapes"],
    "halves of characters": _text(rb"\ud83d "),
    "numbers": _VALUES["numbers"],
    "numbers, at the limit": _VALUES["numbers, at the limit"],
    "empty strings": _list(b'""'),
    "empty arrays": _list(b"[]"),
    "members": _members("k%06d", b"1"),
    "members, at the limit": _VALUES["members, at the limit"],
    "arrays fifty deep, at the limit": _first(_list(b"[" * 50 + b"]" * 50), 3_900 * 101),
    "one array that never ends": lambda size: b"[" * size,
}


def _nested(levels: int) -> bytes:
    return b'{"type":"object","properties":{"a":' * levels + b'{"type":"string"}' + b"}}" * levels


def _schema(properties: Made) -> Shape:
    return lambda wire, size: wire.equipped(
        [wire.tool % (0, b'"x"', b'{"type":"object","properties":' + properties(size) + b"}")]
    )


def _with_field(made: Made, name: bytes = b"x") -> Shape:
    return lambda wire, size: wire.said(wire.text % b'"x"') + b',"' + name + b'":' + made(size)


def _fixed_text(made: Made) -> Shape:
    return lambda wire, size: wire.said(wire.text % made(size))


def _with_arguments(made: Made) -> Shape:
    def fields(wire: Wire, size: int) -> bytes:
        arguments = b'{"a":' + made(size) + b"}"
        came = len(wire.written(arguments))
        if came > size:  # escapes in a string make it longer
            arguments = b'{"a":' + made((size - 64) * size // came) + b"}"
        return wire.called(arguments)

    return fields


def _some_parts(text: bytes, most: int = 10**9) -> Shape:
    return lambda wire, size: wire.said(_first(_list(wire.part % text), most * (len(wire.part % text) + 1))(size))


def _some_messages(most: int = 10**9) -> Shape:
    def made(wire: Wire, size: int) -> bytes:
        unit = wire.message % (wire.text % b'"x"')
        return wire.asked(_items(unit, min(size, most * (len(unit) + 1))))

    return made


def _some_tools(most: int) -> Shape:
    """As many tools as fit, or so many whose descriptions fill the body."""

    def made(wire: Wire, size: int) -> bytes:
        count = min(size // len(wire.tool % (0, b'"x"', _SCHEMA)), most)
        words = b'"' + b"x" * max(1, size // count - len(wire.tool % (0, b'""', _SCHEMA))) + b'"'
        return wire.equipped(wire.tool % (number, words, _SCHEMA) for number in range(count))

    return made


def _other_names(most: int, last: bytes = b"") -> Shape:
    """Unknown fields whose names are not ASCII, which are compared as the loosest of servers would."""

    def made(wire: Wire, size: int) -> bytes:
        return wire.said(wire.text % b'"x"') + b"," + _members("ſİ%06d", b"1", most)(size)[1:-1] + last

    return made


SHAPES: dict[str, Shape] = {
    "messages of one letter": _some_messages(),
    "messages of one letter, at the limit": _some_messages(1_999),
    **{f"one text of {name}": _fixed_text(made) for name, made in _TEXTS.items()},
    "an inline image": lambda wire, size: wire.said(b"[" + wire.image % (b"iVBORw0K" * (size // 8)) + b"]"),
    "parts of one letter": _some_parts(b'"x"'),
    "parts of one letter, at the limit": _some_parts(b'"x"', 60_000),
    "parts of a KiB": _some_parts(b'"' + b"some words " * 93 + b'"'),
    "tools of one letter": _some_tools(10**9),
    "tools, at the limit": _some_tools(512),
    "a schema of many properties, at the limit": _schema(_members("k%06d", b'{"type":"string"}', 66_000)),
    "a schema of deep properties, at the limit": _schema(_members("k%06d", _nested(25), 1_300)),
    **{f"arguments of {name}": _with_arguments(made) for name, made in _ARGUMENTS.items()},
    "a tool result of words": lambda wire, size: wire.asked(
        wire.message % (wire.text % b'"x"') + b"," + wire.result % _TEXTS["words"](size)
    ),
    **{f"an unknown field of {name}": _with_field(made) for name, made in _VALUES.items()},
    "an unknown field of one array that never ends": _with_field(lambda size: b"[" * size),
    "names in other letters": _other_names(10**9),
    "names in other letters, at the limit": _other_names(199_000),
    "names in other letters, and a second spelling": _other_names(199_000, b',"Tools":[]'),
}


def request(client: str, model: str, shape: str, size: int) -> tuple[str, bytes]:
    """Path and body of a request of this shape."""
    fields = SHAPES[shape](WIRES[client], size - 400)
    if client == GEMINI:
        return f"/v1beta/models/{model}:generateContent", b"{" + fields + b"}"
    return PATHS[client], b'{"model":"%b",' % model.encode() + fields + b"}"
