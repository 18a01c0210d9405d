"""The commands `init`, `check` and `schema`, which write, validate and describe configuration files."""

import json
import os
import secrets
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from llmproxy_asgi.cli.config_io import DEFAULT_FILE, check_extras, fail

_KEY_MARK = "llmp_REPLACED_BY_INIT"
_ONLY_BY_HOST = (
    "note: access.keys is empty, so only callers that your app identifies are served (by `llmproxy serve`: none)."
)


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write.", show_default=True)] = DEFAULT_FILE,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented starter file, with a fresh key for your first client in it.

    Only you can read the file. It takes the upstreams' keys from OPENAI_API_KEY and ANTHROPIC_API_KEY.
    """
    text = files("llmproxy_asgi.cli").joinpath("starter.yaml").read_text(encoding="utf-8")
    text = text.replace(_KEY_MARK, f"llmp_{secrets.token_hex(24)}")
    try:
        if force:
            path.unlink(missing_ok=True)
        # Created with its mode: no other process can have it open, and no link is followed.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        fail(f"{path} already exists: replace it with --force.")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.", code=2)
    typer.echo(f"Wrote {path}. Next:")
    typer.echo("  export OPENAI_API_KEY=... ANTHROPIC_API_KEY=...   # or remove a provider from the file")
    typer.echo(f"  llmproxy check {path}")
    typer.echo(f"  llmproxy serve --config {path}")


def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE...]", show_default=str(DEFAULT_FILE), help="Several files are layers; later ones win."
        ),
    ] = None,
) -> None:
    """Validate a configuration: every mistake with its place, and what would serve nothing.

    Environment variables count as they do when serving. Ends with 0 if all is well, 1 on any finding, 2 if a file
    cannot be read.
    """
    from llmproxy_asgi.config.loader import check_config
    from llmproxy_asgi.errors import ConfigError

    paths = paths or [DEFAULT_FILE]
    for path in paths:
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            fail(f"{path}: cannot be read: {error.strerror}", code=2)
    try:
        config = check_config(paths)
        check_extras(config)
    except ConfigError as error:
        typer.echo("\n".join(error.findings))
        count = len(error.findings)
        fail(f"{count} {'finding' if count == 1 else 'findings'}.")
    models = len(config.models) + sum(len(block.models or ()) for block in config.providers.values() if block.enabled)
    providers = sum(block.enabled for block in config.providers.values())
    typer.echo(f"ok: {_counted(providers, 'provider')}, {_counted(models, 'model')}")
    if config.access.mode == "host" and not config.access.keys:
        typer.echo(_ONLY_BY_HOST, err=True)


def schema(
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", metavar="FILE", help="Also describe the provider types in these files."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file instead of printing.")
    ] = None,
) -> None:
    """Return the configuration's JSON Schema: of the built-in provider types, and of those that --config names.

    With `llmproxy schema -o llmproxy.schema.json`, an editor with a YAML language server completes and checks a file
    that begins with `# yaml-language-server: $schema=llmproxy.schema.json`.
    """
    from llmproxy_asgi.config.json_schema import schema as make
    from llmproxy_asgi.config.loader import named_types
    from llmproxy_asgi.errors import ConfigError

    try:
        text = json.dumps(make(named_types(config or ())), indent=2) + "\n"
    except ConfigError as error:
        fail("\n".join(error.findings))
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}.", code=2)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
