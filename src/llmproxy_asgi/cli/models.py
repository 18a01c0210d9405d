"""`models`: what a configuration serves, and by whom."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import typer

from llmproxy_asgi.cli.config_io import ConfigOption, columns, read_config

if TYPE_CHECKING:
    from llmproxy_asgi.providers.base import Provider
    from llmproxy_asgi.routing.catalog import Rank
    from llmproxy_asgi.runtime import Runtime

Row = tuple[str, str, str, str]
_HEAD: Row = ("NAME", "TARGETS", "PROTOCOLS", "STRATEGY")


def show(config: ConfigOption = None) -> None:
    """List the names that clients may use, the targets behind each in their order, and what those speak.

    Names under `models` show their strategy, and with `weighted` each target's share in brackets.
    `*` stands for anything: a provider without a list of models is asked for whatever a client names.
    """
    from llmproxy_asgi.runtime import Runtime, SharedState

    runtime = Runtime.build(read_config(config), SharedState())
    rows = [*_named(runtime), *_open_ended(runtime.providers.values())]
    if not rows:
        typer.echo("No models: no provider is enabled.", err=True)
    for line in columns([_HEAD, *rows]) if rows else ():
        typer.echo(line)


def _named(runtime: "Runtime") -> Iterator[Row]:
    for name in runtime.catalog.names():
        choice = runtime.catalog.resolve(name)
        protocols = dict.fromkeys(protocol for target in choice.targets for protocol in target.provider.protocols)
        strategy = runtime.config.models[name].strategy if name in runtime.config.models else ""
        yield name, ", ".join(map(_shown, choice.ranks)), ", ".join(protocols), strategy


def _open_ended(providers: "Iterable[Provider]") -> Iterator[Row]:
    """Patterns, and providers that list nothing."""
    for provider in providers:
        spoken = ", ".join(provider.protocols)
        for entry in provider.config.models or ():
            if entry.enabled and entry.is_pattern:
                yield entry.name, f"{provider.name}/{entry.upstream or entry.name}", spoken, ""
        if provider.config.models is None:
            yield "*", f"{provider.name}/*", spoken, ""


def _shown(rank: "Rank") -> str:
    if rank.strategy != "weighted":
        return ", ".join(target.name for target in rank.targets)
    return ", ".join(f"{target.name} ({weight:g})" for target, weight in zip(rank.targets, rank.weights, strict=True))
