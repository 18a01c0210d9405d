"""The core stays light: few distributions to install, few modules to import, nothing set in motion by it.

How long the import takes is measured by the benchmark, not judged here.
"""

import ast
import functools
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).with_name("import_probe.py")
MOST_DISTRIBUTIONS = 15
HEAVY = {
    "aiohttp",
    "anthropic",
    "authlib",
    "cryptography",
    "django",
    "fastapi",
    "flask",
    "openai",
    "opentelemetry",
    "prometheus_client",
    "rich",
    "sqlalchemy",
    "typer",
    "uvicorn",
}


def project() -> dict[str, Any]:
    """The project's own metadata."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def requirements_of(distribution: str, extras: frozenset[str]) -> list[Requirement]:
    """Return the requirements of an installed distribution with the given extras; the product's from pyproject.toml."""
    if distribution == "llmproxy-asgi":
        own = project()
        named = [line for extra in sorted(extras) for line in own["optional-dependencies"][extra]]
        return [Requirement(line) for line in [*own["dependencies"], *named]]
    return [
        requirement
        for requirement in map(Requirement, metadata.requires(distribution) or ())
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""})
    ]


def closure(distribution: str) -> set[str]:
    """The distributions that installing one, without extras, brings along; itself left out."""
    start = (canonicalize_name(distribution), frozenset[str]())
    seen, waiting = {start}, [start]
    while waiting:
        for requirement in requirements_of(*waiting.pop()):
            found = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if found not in seen:
                seen.add(found)
                waiting.append(found)
    return {str(name) for name, _ in seen if name != start[0]}


def probe(module: str, *, folder: Path | None = None) -> dict[str, Any]:
    """What importing a module in a fresh interpreter did, as import_probe.py tells it."""
    # A package under test in a folder of its own is imported from there, ours as it is installed.
    command = [sys.executable, "-W", "error", str(PROBE), module]
    environment = {"PYTHONPATH": str(folder)} if folder else {}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


@pytest.fixture(scope="module")
def core() -> dict[str, Any]:
    """What importing the core did."""
    return probe("llmproxy_asgi")


def test_core_brings_few_distributions() -> None:
    """Installing the core without extras brings at most fifteen further distributions."""
    brought = closure("llmproxy-asgi")
    assert {"httpx2", "msgspec", "starlette"} <= brought
    assert len(brought) <= MOST_DISTRIBUTIONS, sorted(brought)
    assert "fifteen distributions besides the core" in (ROOT / "README.md").read_text(encoding="utf-8")


COMPANIONS = {"pydantic_core": "pydantic", "yarl": "aiohttp", "werkzeug": "flask"}
"""Modules whose distribution comes with another one, at the version that one needs; it is the other one we declare."""

NOT_REQUIRED = {"openai", "anthropic", "httpx", "flask_login", "pytest"}
"""Imported only where the host has installed them: official SDKs, a client, a login extension, a test runner."""


def imported(folder: Path) -> set[str]:
    """The modules of other distributions that a folder's code imports anywhere, for type checkers alone included."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names and not name.startswith("llmproxy_")}


def declared() -> tuple[set[str], set[str]]:
    """The distributions that pyproject.toml names: for the core, and for any extra."""
    lines = [line for extra in project()["optional-dependencies"].values() for line in extra]
    core, extras = (
        {str(canonicalize_name(Requirement(line).name)) for line in some} for some in (project()["dependencies"], lines)
    )
    return core, extras


def distributions(module: str) -> set[str]:
    """Those that hold a module, or that bring the one that holds it."""
    return {str(canonicalize_name(name)) for name in _installed().get(COMPANIONS.get(module, module), ())}


@functools.cache
def _installed() -> Mapping[str, list[str]]:
    """The distributions of each module; finding them reads every file list there is."""
    return metadata.packages_distributions()


def test_each_dependency_of_the_core_is_imported_by_the_core() -> None:
    """Nothing is installed with the core that no line of the core imports."""
    used = {name for module in imported(ROOT / "src") for name in distributions(module)}
    core, _ = declared()
    assert core
    assert core - used == set()


def test_each_import_is_declared() -> None:
    """What the code imports is a dependency of the core or of an extra, or is the host's own."""
    core, extras = declared()
    modules = imported(ROOT / "src") | imported(ROOT / "integrations")
    assert {"httpx2", "fastapi"} <= modules
    assert {name for name in modules - NOT_REQUIRED if not distributions(name) & (core | extras)} == set()


def test_closure_follows_extras_that_are_asked_for() -> None:
    """A requirement with an extra is counted with what that extra brings."""
    speed = {requirement.name for requirement in requirements_of("llmproxy-asgi", frozenset({"speed"}))}
    plain = {requirement.name for requirement in requirements_of("llmproxy-asgi", frozenset())}
    assert speed - plain == {"aiohttp"}


def test_import_brings_nothing_heavy(core: dict[str, Any]) -> None:
    """Importing the core and its public names loads no host framework, SDK, server, driver or command line."""
    roots = {name.partition(".")[0] for name in core["modules"]}
    assert "llmproxy_asgi" in roots
    assert roots & HEAVY == set()


LATER = {
    "aiohttp",  # the lifespan's beginning, or the first call
    "anyio",  # with Starlette's requests
    "asgiref",  # the host's hooks
    "difflib",  # a configuration with a misspelt name
    "httpx2",  # a transport of the host's, or no aiohttp
    "starlette.requests",  # the host's hooks
    "yaml",  # a configuration in a file
    "llmproxy_asgi.access.hooks",  # an `identify` or a `csrf`
    "llmproxy_asgi.config.findings",  # a configuration that is wrong
    "llmproxy_asgi.responses_api",  # a call of Responses
    "llmproxy_asgi.inprocess",  # an SDK's client of `Gateway`
    "llmproxy_asgi.providers.simulated",  # its being configured, as for every provider
    "llmproxy_asgi.telemetry.metrics",  # `endpoints.metrics`
    "llmproxy_asgi.telemetry.opentelemetry",  # `Tracing`
    "llmproxy_asgi.translators.anthropic_messages",  # a call in that protocol, as for every protocol
    "llmproxy_asgi.translators.openai_chat",
    "llmproxy_asgi.translators.openai_responses",
    "llmproxy_asgi.transport.aiohttp_channel",  # as aiohttp
    "llmproxy_asgi.wsgi",  # a WSGI host
}
"""What the main class does not need to be imported, and what it waits for."""

FIRST_CALL = """
import asyncio, json, sys
from llmproxy_asgi import LLMProxy
imported = list(sys.modules)
upstream = {"type": "openai-compatible", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-none"}
proxy = LLMProxy({"providers": {"one": upstream}, "access": {"mode": "open"}})
made = list(sys.modules)
async def start():
    async with proxy.lifespan():
        return list(sys.modules)
print(json.dumps({"imported": imported, "made": made, "started": asyncio.run(start())}))
"""


@pytest.fixture(scope="module")
def start() -> dict[str, set[str]]:
    """The modules there are after the main class was imported, was called, and its lifespan has begun."""
    command = [sys.executable, "-W", "error", "-c", FIRST_CALL]
    ended = subprocess.run(command, env={}, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return {moment: set(modules) for moment, modules in json.loads(ended.stdout).items()}


def test_main_class_brings_only_what_every_gateway_needs(start: dict[str, set[str]]) -> None:
    """What only some configurations, callers or hosts need is not there when `LLMProxy` has been imported."""
    assert "llmproxy_asgi.engine" in start["imported"]
    assert start["imported"] & LATER == set()


def test_making_a_gateway_brings_only_its_providers(start: dict[str, set[str]]) -> None:
    """A gateway that is made in code brings its provider's module and nothing that waits for something else."""
    assert "llmproxy_asgi.providers.openai_compatible" in start["made"]
    assert start["made"] & LATER == set()


def test_first_call_waits_for_no_client_where_a_lifespan_has_begun(start: dict[str, set[str]]) -> None:
    """The beginning of the lifespan brings the HTTP client and the words of the upstream's protocol, and no others."""
    brought = start["started"] & LATER
    assert {"aiohttp", "llmproxy_asgi.transport.aiohttp_channel", "llmproxy_asgi.translators.openai_chat"} <= brought
    assert not brought & {"llmproxy_asgi.translators.anthropic_messages", "httpx2", "llmproxy_asgi.responses_api"}


def test_import_reads_no_environment(core: dict[str, Any]) -> None:
    """The core's own code neither reads nor changes an environment variable while it is imported."""
    assert core["environment"] == []
    assert not core["environment_changed"]


def test_import_sets_nothing_in_motion(core: dict[str, Any]) -> None:
    """Importing the core starts no thread, takes no signal and configures no logging."""
    assert core["threads"] == ["MainThread"]
    assert not core["signal_handlers_changed"]
    assert core["log_handlers"] == []


def test_probe_notices_what_an_import_does(tmp_path: Path) -> None:
    """The probe sees a thread, a handler, a log set-up, a heavy module and each way to the environment."""
    (tmp_path / "busy.py").write_text(
        "import logging, os, signal, threading\n"
        "import flask\n"
        "__all__ = ['lazy']\n"
        "def __getattr__(name):\n"
        "    if name == 'lazy':\n"
        "        return os.environ.get('READ_LATE')\n"
        "    raise AttributeError(name)\n"
        "os.getenv('READ')\n"
        "'ASKED' in os.environ\n"
        "os.environ['WRITTEN'] = '1'\n"
        "logging.basicConfig()\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "threading.Thread(target=threading.Event().wait, name='idle', daemon=True).start()\n",
        encoding="utf-8",
    )
    seen = probe("busy", folder=tmp_path)
    assert "flask" in seen["modules"]
    assert seen["environment"] == ["ASKED", "READ", "READ_LATE", "WRITTEN"]
    assert seen["environment_changed"]
    assert seen["signal_handlers_changed"]
    assert "idle" in seen["threads"]
    assert len(seen["log_handlers"]) == 1
