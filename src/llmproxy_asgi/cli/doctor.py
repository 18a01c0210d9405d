"""`doctor`: does each provider answer, by each of its credentials.

It asks what health checks ask, which costs no tokens; a server that is running is neither asked nor told.
"""

import asyncio
from typing import TYPE_CHECKING

import typer

from llmproxy_asgi.cli.reading import ConfigOption, columns, fail, read_config

if TYPE_CHECKING:
    from llmproxy_asgi.config.schema import Config
    from llmproxy_asgi.execution.health import Health
    from llmproxy_asgi.providers.base import Credential

_HEAD = ("PROVIDER", "CREDENTIAL", "STATE", "SECONDS")
_WORDS = {
    "upstream_auth": "the credential is refused",
    "upstream": "it fails, or cannot be reached",
    "overloaded": "it is overloaded",
    "timeout": "it does not answer in time",
}
"""What is wrong, said to an operator; other kinds of errors speak for themselves."""


def doctor(config: ConfigOption = None) -> None:
    """Ask every provider whether it answers, by each of its credentials; no tokens are spent.

    Credentials are shown by their fingerprints, as in logs and spans. Ends with 0 if all is well, 1 if anything is not.
    """
    found = asyncio.run(_asked(read_config(config)))
    if not found:
        fail("No provider is enabled.")
    rows = [
        (
            credential.provider,
            credential.fingerprint.rpartition(":")[2],
            "ok" if health.healthy else _WORDS.get(health.reason, health.reason),
            f"{health.seconds:.2f}",
        )
        for credential, health in found
    ]
    for line in columns([_HEAD, *rows]):
        typer.echo(line)
    wrong = sum(not health.healthy for _, health in found)
    if wrong:
        fail(f"{wrong} of {len(found)} not well.")


async def _asked(config: "Config") -> "list[tuple[Credential, Health]]":
    from llmproxy_asgi.runtime import Live, Runtime

    live = Live()
    try:
        plan = Runtime.build(config, live)
        each = [(provider, credential) for provider in plan.providers.values() for credential in provider.credentials]
        found = await asyncio.gather(*(live.health.ask(provider, credential) for provider, credential in each))
        return [(credential, health) for (_, credential), health in zip(each, found, strict=True)]
    finally:
        await live.aclose()
