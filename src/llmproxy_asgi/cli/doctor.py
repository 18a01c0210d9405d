"""The command `doctor`: check whether calls can succeed at each provider with each credential, and advise if not.

The upstreams compute nothing, so it costs no tokens. A running server is not contacted.
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
    found = asyncio.run(_diagnose_all(read_config(config)))
    if not found:
        fail("No provider is enabled.")
    rows = [
        (credential.provider, credential.fingerprint.rpartition(":")[2], diagnosis.state, f"{diagnosis.seconds:.2f}")
        for credential, diagnosis in found
    ]
    if as_json:
        typer.echo(msgspec.json.encode([_entry(credential, diagnosis) for credential, diagnosis in found]).decode())
    else:
        for line in columns([_HEAD, *rows]):
            typer.echo(line)
        for row, (_, diagnosis) in zip(rows, found, strict=True):
            if not diagnosis.ok:
                typer.echo(f"\n{row[0]} ({row[1]}): {diagnosis.reason}\n  {diagnosis.advice}")
    failures = sum(not diagnosis.ok for _, diagnosis in found)
    if failures:
        fail(f"{failures} of {len(found)} failed.")


def _entry(credential: "Credential", diagnosis: "Diagnosis") -> dict[str, object]:
    names = {"provider": credential.provider, "credential": credential.fingerprint.rpartition(":")[2]}
    return {**names, **msgspec.structs.asdict(diagnosis), "seconds": round(diagnosis.seconds, 3)}


async def _diagnose_all(config: "Config") -> "list[tuple[Credential, Diagnosis]]":
    from llmproxy_asgi.execution.diagnosis import diagnose
    from llmproxy_asgi.runtime import Runtime, SharedState

    shared = SharedState()
    try:
        runtime = Runtime.build(config, shared)
        each = [
            (provider, credential) for provider in runtime.providers.values() for credential in provider.credentials
        ]
        diagnoses = (diagnose(shared.pool(provider), provider, credential) for provider, credential in each)
        found = await asyncio.gather(*diagnoses)
        return [(credential, diagnosis) for (_, credential), diagnosis in zip(each, found, strict=True)]
    finally:
        await shared.aclose()
