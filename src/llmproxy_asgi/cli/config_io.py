"""Read a configuration for a command or exit with its errors, and format tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import typer

if TYPE_CHECKING:
    from llmproxy_asgi.config.schema import Config

DEFAULT_FILE = Path("llmproxy.yaml")

ConfigOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        show_default=str(DEFAULT_FILE),
        help="YAML, TOML or JSON. May be given several times; later files win.",
    ),
]


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print a message to standard error and exit.

    Raises:
        typer.Exit: Always.
    """
    typer.echo(message, err=True)
    raise typer.Exit(code)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def read_config(files: Sequence[Path] | None) -> "Config":
    """Load the given files, or the default one.

    Raises:
        typer.Exit: The configuration is invalid; every error has been printed.
    """
    from llmproxy_asgi.errors import ConfigError

    paths = list(files or [DEFAULT_FILE])
    if not files and not DEFAULT_FILE.exists():
        fail(f"{DEFAULT_FILE} does not exist here: create it with `llmproxy init`, or name your file with --config.")
    try:
        return load(paths)
    except ConfigError as error:
        fail("\n".join(error.findings))


def load(files: Sequence[Path]) -> "Config":
    """Load files, and check that the extras they need are installed.

    Raises:
        ConfigError: The configuration is invalid, or an extra is missing.
    """
    from llmproxy_asgi.config.loader import load_config

    config = load_config(list(files))
    check_extras(config)
    return config


def check_extras(config: "Config") -> None:
    """Check that the extras that a configuration needs are installed.

    Raises:
        ConfigError: One is missing.
    """
    from llmproxy_asgi.telemetry.prometheus import check_installed

    if config.endpoints.metrics:
        check_installed()
