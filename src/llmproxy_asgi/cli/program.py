"""The command-line program with all its commands."""

import platform
from importlib.metadata import version
from typing import Annotated

import typer

from llmproxy_asgi.cli import configuration, models, serving
from llmproxy_asgi.cli.doctor import doctor

program = typer.Typer(
    name="llmproxy",
    help="An LLM gateway: one address for many models, for any official SDK.",
    epilog="First steps: `llmproxy demo`, then `llmproxy init` and `llmproxy serve`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    # A traceback that shows local variables shows keys.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"llmproxy {version('llmproxy-asgi')} (Python {platform.python_version()})")
        raise typer.Exit


@program.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


program.command()(serving.demo)
program.command()(serving.serve)
program.command()(configuration.init)
program.command()(configuration.check)
program.command()(configuration.schema)
program.command(name="models")(models.show)
program.command()(doctor)
