"""The command `models`: list the models that a configuration serves, and their targets."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import typer

from llmproxy_asgi.cli.config_io import ConfigOption, columns, read_config

if TYPE_CHECKING:
    from llmproxy_asgi.providers.base import Provider
    from llmproxy_asgi.routing.catalog import TargetTier
    from llmproxy_asgi.runtime import Runtime

Row = tuple[str, str, str, str]
_HEAD: Row = ("NAME", "TARGETS", "PROTOCOLS", "STRATEGY")


def show(config: ConfigOption = None) -> None:
    """List the names that clients may use, the targets of each in order, and their protocols.

    Names under `models` show their strategy, and with `weighted` each target's share in brackets.
    `*` means any name: a provider without a list of models accepts every model name.
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
        protocols = dict.fromkeys(
            protocol for target in choice.targets for protocol in target.provider.enabled_protocols
        )
        strategy = runtime.config.models[name].strategy if name in runtime.config.models else ""
        yield name, ", ".join(map(_shown, choice.tiers)), ", ".join(protocols), strategy


def _open_ended(providers: "Iterable[Provider]") -> Iterator[Row]:
    """Yield rows for patterns, and for providers without a list of models."""
    for provider in providers:
        protocols = ", ".join(provider.enabled_protocols)
        for entry in provider.config.models or ():
            if entry.enabled and entry.is_pattern:
                yield entry.name, f"{provider.name}/{entry.upstream or entry.name}", protocols, ""
        if provider.config.models is None:
            yield "*", f"{provider.name}/*", protocols, ""


def _shown(tier: "TargetTier") -> str:
    if tier.strategy != "weighted":
        return ", ".join(target.name for target in tier.targets)
    return ", ".join(f"{target.name} ({weight:g})" for target, weight in zip(tier.targets, tier.weights, strict=True))
