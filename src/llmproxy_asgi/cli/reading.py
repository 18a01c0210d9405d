"""What commands share: a configuration that is read, or the command ends; and tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias

import typer

if TYPE_CHECKING:
    from llmproxy_asgi.config.schema import Config

USUAL = Path("llmproxy.yaml")

ConfigOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        show_default=str(USUAL),
        help="YAML, TOML or JSON. May be given several times; later files win.",
    ),
]


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Say why on standard error, and end the command.

    Raises:
        typer.Exit: Always.
    """
    typer.echo(message, err=True)
    raise typer.Exit(code)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; its first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def read_config(files: Sequence[Path] | None) -> "Config":
    """The configuration in some files, or in the usual one.

    Raises:
        typer.Exit: It is not usable; every finding has been printed.
    """
    from llmproxy_asgi.errors import ConfigError

    chosen = list(files or [USUAL])
    if not files and not USUAL.exists():
        fail(f"There is no {USUAL} here. Write one with `llmproxy init`, or name yours with --config.")
    try:
        return load(chosen)
    except ConfigError as error:
        fail("\n".join(error.findings))


def load(files: Sequence[Path]) -> "Config":
    """The configuration in some files, such as can be served with what is installed here.

    Raises:
        ConfigError: It cannot.
    """
    from llmproxy_asgi.config.loader import load_config

    config = load_config(list(files))
    check_extras(config)
    return config


def check_extras(config: "Config") -> None:
    """Make sure that what a configuration switches on is installed.

    Raises:
        ConfigError: It is not.
    """
    from llmproxy_asgi.telemetry.prometheus import check_installed

    if config.endpoints.metrics:
        check_installed()
