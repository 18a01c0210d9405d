"""`doctor`: could a call succeed at each provider, by each of its credentials, and what to change where it could not.

Nothing is computed upstream, so it costs no tokens; a server that is running is neither asked nor told.
"""

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from llmproxy_asgi.cli.config_io import ConfigOption, columns, fail, read_config

if TYPE_CHECKING:
    from llmproxy_asgi.config.schema import Config
    from llmproxy_asgi.execution.diagnosis import Diagnosis
    from llmproxy_asgi.providers.base import Credential

_HEAD = ("PROVIDER", "CREDENTIAL", "STATE", "SECONDS")


def doctor(
    config: ConfigOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """Ask every provider whether a call could succeed, by each of its credentials; no tokens are spent.

    Credentials are shown by their fingerprints, as in logs and spans. Ends with 0 if all could, else with 1.
    """
    found = asyncio.run(_asked(read_config(config)))
    if not found:
        fail("No provider is enabled.")
    rows = [
        (credential.provider, credential.fingerprint.rpartition(":")[2], told.state, f"{told.seconds:.2f}")
        for credential, told in found
    ]
    if as_json:
        typer.echo(msgspec.json.encode([_entry(credential, told) for credential, told in found]).decode())
    else:
        for line in columns([_HEAD, *rows]):
            typer.echo(line)
        for row, (_, told) in zip(rows, found, strict=True):
            if not told.ok:
                typer.echo(f"\n{row[0]} ({row[1]}): {told.reason}\n  {told.advice}")
    wrong = sum(not told.ok for _, told in found)
    if wrong:
        fail(f"{wrong} of {len(found)} failed.")


def _entry(credential: "Credential", told: "Diagnosis") -> dict[str, object]:
    names = {"provider": credential.provider, "credential": credential.fingerprint.rpartition(":")[2]}
    return {**names, **msgspec.structs.asdict(told), "seconds": round(told.seconds, 3)}


async def _asked(config: "Config") -> "list[tuple[Credential, Diagnosis]]":
    from llmproxy_asgi.execution.diagnosis import diagnose
    from llmproxy_asgi.runtime import Runtime, SharedState

    shared = SharedState()
    try:
        runtime = Runtime.build(config, shared)
        each = [
            (provider, credential) for provider in runtime.providers.values() for credential in provider.credentials
        ]
        asked = (diagnose(shared.pool(provider), provider, credential) for provider, credential in each)
        found = await asyncio.gather(*asked)
        return [(credential, told) for (_, credential), told in zip(each, found, strict=True)]
    finally:
        await shared.aclose()
