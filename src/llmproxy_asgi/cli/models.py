"""`models`: what a configuration serves, and by whom."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from llmproxy_asgi.cli.reading import ConfigOption, read_config

if TYPE_CHECKING:
    from llmproxy_asgi.providers.base import Provider
    from llmproxy_asgi.runtime import Runtime

Row = tuple[str, str, str]
_HEAD: Row = ("NAME", "TARGETS", "PROTOCOLS")


def show(config: ConfigOption = None) -> None:
    """List the names that clients may use, the targets behind each in their order, and what those speak.

    `*` stands for anything: a provider without a list of models is asked for whatever a client names.
    """
    from llmproxy_asgi.runtime import Live, Runtime

    plan = Runtime.build(read_config(config), Live())
    rows = [*_named(plan), *_open_ended(plan.providers.values())]
    if not rows:
        typer.echo("No models: no provider is enabled.", err=True)
    for line in _columns([_HEAD, *rows]) if rows else ():
        typer.echo(line)


def _named(plan: "Runtime") -> Iterator[Row]:
    for name in plan.catalog.names():
        targets = plan.catalog.resolve(name).targets
        protocols = dict.fromkeys(protocol for target in targets for protocol in target.provider.protocols)
        yield name, ", ".join(target.name for target in targets), ", ".join(protocols)


def _open_ended(providers: "Iterable[Provider]") -> Iterator[Row]:
    """Patterns, and providers that list nothing."""
    for provider in providers:
        spoken = ", ".join(provider.protocols)
        for entry in provider.config.models or ():
            if entry.enabled and entry.is_pattern:
                yield entry.name, f"{provider.name}/{entry.upstream or entry.name}", spoken
        if provider.config.models is None:
            yield "*", f"{provider.name}/*", spoken


def _columns(rows: Sequence[Row]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
