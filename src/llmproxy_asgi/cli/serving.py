"""The commands `serve` and `demo`: run the gateway without a host application."""

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from llmproxy_asgi.cli.config_io import DEFAULT_FILE, ConfigOption, fail, read_config

if TYPE_CHECKING:
    from llmproxy_asgi.cli.server import Address
    from llmproxy_asgi.config.schema import Config

DEMO = {
    "providers": {"simulated": {"delay": "20ms"}},
    "access": {"mode": "open"},
    "endpoints": {"ui": True},
}
"""The configuration of the demo; the delay makes streaming visible."""


class LogLevel(StrEnum):
    """Log levels."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


HostOption = Annotated[str, typer.Option(help="Address to listen at.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")]


def serve(  # noqa: PLR0917  each is an option of the command
    config: ConfigOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    prefix: Annotated[str, typer.Option(metavar="PATH", help="Serve below this path, like /llm.")] = "",
    workers: Annotated[int, typer.Option(min=1, max=256, help="How many processes serve.")] = 1,
    graceful: Annotated[
        str, typer.Option(metavar="DURATION", help="How long open calls may continue when the server stops.")
    ] = "30s",
    log_level: Annotated[LogLevel, typer.Option(help="How much is logged.")] = LogLevel.INFO,
    *,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request, with keys masked.")] = False,
    insecure_open: Annotated[
        bool, typer.Option("--insecure-open", help="Serve `access.mode: open` to other machines.")
    ] = False,
) -> None:
    """Serve a configuration by itself, without a host application.

    At SIGHUP it takes up its files again; what is wrong in them changes nothing. With `access.mode: open` only this
    machine may call, under the name localhost, unless `--insecure-open` is given.
    """
    from llmproxy_asgi.cli import server

    server.check_installed()
    where = _prefix(prefix)
    seconds = _seconds(graceful)
    plan = read_config(config)
    address = server.resolve(host, port)
    is_open = plan.access.mode == "open"
    if is_open and not address.is_loopback and not insecure_open:
        fail(
            f"access.mode is open, so everyone who reaches {host} could use your credentials. Listen at 127.0.0.1, "
            "list keys under access.keys with access.mode: keys, or confirm with --insecure-open."
        )
    from llmproxy_asgi.app import LLMProxy
    from llmproxy_asgi.cli import worker

    server.exit_cleanly()
    listener = server.listen(address)
    address = server.bound_address(listener)
    files = [os.path.abspath(path) for path in config or [DEFAULT_FILE]]  # noqa: PTH100  links stay what they are
    local_hosts, may_open = is_open and not insecure_open, is_open or insecure_open
    if workers == 1:
        _announce(plan, address, where)
        app = worker.serving(
            LLMProxy(plan), prefix=where, local_hosts=local_hosts, window=seconds, files=files, may_open=may_open
        )
        server.run(app, listener, graceful=seconds, log_level=log_level, access_log=access_log)
        return
    listener.close()  # it only tested whether the address is available; uvicorn binds for its workers
    _announce(plan, address, where)
    worker.instruct(files, prefix=where, local_hosts=local_hosts, window=seconds, may_open=may_open)
    server.run_workers(
        worker.FACTORY, address, workers=workers, log_level=log_level, access_log=access_log, graceful=seconds
    )


def demo(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    *,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Run everything with an embedded provider that only pretends: no key, no file, no network.

    Nothing but this machine can reach it.
    """
    from llmproxy_asgi.cli import server

    server.check_installed()
    address = server.resolve(host, port)
    if not address.is_loopback:
        fail(f"The demo has no access control, so it listens at loopback addresses only, not at {host}.", code=2)
    from llmproxy_asgi.app import LLMProxy
    from llmproxy_asgi.cli import worker
    from llmproxy_asgi.config.loader import load_config

    config = load_config(DEMO, environment=None)
    server.exit_cleanly()
    listener = server.listen(address)
    url = server.bound_address(listener).url
    typer.echo(_HOW_TO_CALL.format(url=url))
    if open_page:
        import webbrowser

        webbrowser.open(f"{url}/ui/")  # connections queue at the listener until the server takes them
    app = worker.serving(LLMProxy(config), prefix="", local_hosts=True, window=2)
    server.run(app, listener, graceful=2, log_level="warning", access_log=False)


_HOW_TO_CALL = """\
Everything runs, with an embedded provider that only pretends. Press Ctrl+C to stop.

  page         {url}/ui/
  base_url     {url}/v1   (OpenAI's SDK)
  base_url     {url}      (Anthropic's and Google's SDKs)

Try it from another terminal:

  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "simulated/echo", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  curl {url}/v1/messages -H 'content-type: application/json' \\
    -d '{{"model": "simulated/echo", "max_tokens": 200, "messages": [{{"role": "user", "content": "Hello"}}]}}'

  curl -N {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "simulated/story", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

From Python:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="unused")
  messages = [{{"role": "user", "content": "Hello"}}]
  print(client.chat.completions.create(model="simulated/echo", messages=messages))

  from anthropic import Anthropic
  client = Anthropic(base_url="{url}", api_key="unused")
  messages = [{{"role": "user", "content": "Hello"}}]
  print(client.messages.create(model="simulated/echo", max_tokens=200, messages=messages))

  from google import genai
  client = genai.Client(api_key="unused", http_options={{"base_url": "{url}"}})
  print(client.models.generate_content(model="simulated/echo", contents="Hello"))
"""


def _announce(plan: "Config", address: "Address", prefix: str) -> None:
    names = [name for name, block in plan.providers.items() if block.enabled]
    if plan.access.mode != "open" and not plan.access.keys:
        typer.echo(
            "Every call will be refused: no keys are listed under access.keys, and nothing else can say who is calling "
            "when the gateway is served by itself.",
            err=True,
        )
    typer.echo(f"Serving {', '.join(names) or 'no provider'} at {address.url}{prefix}. Press Ctrl+C to stop.")


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if prefix and (not prefix.startswith("/") or any(mark in prefix for mark in "{}?#% \\") or "//" in prefix):
        fail(f"--prefix is a path like /llm, not {text!r}.", code=2)
    return prefix


def _seconds(text: str) -> float:
    from llmproxy_asgi.settings import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        fail(f"--graceful: {error}.", code=2)
