"""A Flask application with the gateway at `/llm`; what WSGI servers serve here."""

import asyncio
import os
import signal
import threading
from typing import Any

from flask import Flask, Response, jsonify

import llmproxy_flask
from llmproxy_asgi import LLMProxy
from llmproxy_asgi.wsgi import _process
from support.servers.host import CONFIG, NOTES, state

proxy = LLMProxy(CONFIG, observers=[NOTES])
app = Flask(__name__)
extension = llmproxy_flask.LLMProxy(app, proxy=proxy, identify=lambda _: "somebody")

if os.environ.get("SERVED_DRAINS"):  # as docs/operation.md shows it
    before = signal.getsignal(signal.SIGTERM)

    def ending(number: int, frame: Any) -> None:
        threading.Thread(target=asyncio.run, args=(proxy.drain(),)).start()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, ending)


@app.get("/state")
def show() -> Response:
    home = _process._loop_thread
    return jsonify(state(proxy, None if home is None else home._loop))
