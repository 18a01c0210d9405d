"""The commands that need no server, and what the others refuse before they listen."""

import functools
import importlib.util
import json
import os
import stat
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner, Result
from typing_extensions import override

from llmproxy_asgi.cli.program import program
from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.runtime import SharedState

KEYS = {"OPENAI_API_KEY": "sk-one-0123456789", "ANTHROPIC_API_KEY": "sk-two-0123456789"}
COMMANDS = ["demo", "serve", "init", "check", "schema", "models", "doctor"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with a wide terminal and without the gateway's variables."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("LLMPROXY_") or name in KEYS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("TERMINAL_WIDTH", "200")


def run(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(program, list(arguments), env=environment, prog_name="llmproxy")


def write(text: str, name: str = "llmproxy.yaml") -> None:
    Path(name).write_text(text, encoding="utf-8")


OPEN = "providers: {simulated: }\naccess: {mode: open}\n"


# Help


def test_no_arguments_show_help() -> None:
    """Without arguments the commands are listed."""
    shown = run().output
    assert [name for name in COMMANDS if name not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """Each command says in `--help` and `-h` what it does, and each of its options has words of its own."""
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert shown.output == run(command, "-h").output
    assert f"Usage: llmproxy {command}" in shown.output
    options = [line for line in shown.output.splitlines() if " --" in line]
    assert options
    assert all(len(line.strip("│ ").split("  ")[-1].split()) > 1 for line in options), options


def test_version() -> None:
    """`--version` prints the name, the version and Python's, and ends."""
    shown = run("--version")
    assert shown.exit_code == 0
    assert shown.output.startswith("llmproxy 0.")


def test_unknown_command() -> None:
    """An unknown command is a usage error."""
    assert run("sevre").exit_code == 2


# init


def test_init_writes_a_file_that_passes_check() -> None:
    """The starter file is its owner's alone, passes `check` with the two keys set, and serves with a key of its own."""
    shown = run("init")
    assert shown.exit_code == 0
    path = Path("llmproxy.yaml")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    checked = run("check", "llmproxy.yaml", environment=KEYS)
    assert (checked.exit_code, checked.output) == (0, "ok: 2 providers, 1 model\n")
    key = load_config(path, environment=KEYS).access.keys[0].key.reveal()
    assert key.startswith("llmp_")
    assert len(key) == len("llmp_") + 48
    assert key not in shown.output


def test_init_makes_another_key_each_time() -> None:
    """Two starter files never share a key."""
    run("init", "a.yaml")
    run("init", "b.yaml")
    keys = [load_config(name, environment=KEYS).access.keys[0].key for name in ("a.yaml", "b.yaml")]
    assert keys[0] != keys[1]


def test_init_replaces_nothing_unless_told() -> None:
    """A file that is there stays, unless --force is given; then it has the starter's mode, and no link is followed."""
    write("mine: 1\n", "mine.yaml")
    Path("link.yaml").symlink_to("mine.yaml")
    refused = run("init", "link.yaml")
    assert refused.exit_code == 1
    assert "already exists" in refused.output
    assert run("init", "link.yaml", "--force").exit_code == 0
    assert Path("mine.yaml").read_text(encoding="utf-8") == "mine: 1\n"
    assert not Path("link.yaml").is_symlink()
    assert stat.S_IMODE(Path("link.yaml").stat().st_mode) == 0o600


def test_init_where_nothing_can_be_written() -> None:
    """A place that cannot be written to is an error, not a traceback."""
    refused = run("init", "no/such/folder/llmproxy.yaml")
    assert refused.exit_code == 2
    assert "cannot be written" in refused.output


# check


def test_check_prints_every_finding() -> None:
    """Each mistake is one line with its place; the command ends with 1."""
    write("providers:\n  openai: {timeuot: 1}\nkeepalive: x\n")
    checked = run("check", "llmproxy.yaml")
    assert checked.exit_code == 1
    assert checked.stdout.splitlines() == [
        "llmproxy.yaml:2: providers.openai.timeuot: unknown key; did you mean 'timeout'?",
        "llmproxy.yaml:3: keepalive: a duration is like 250ms, 30s, 5m, 2h or 90d, or a number of seconds",
    ]
    assert checked.stderr == "2 findings.\n"


def test_check_takes_layers() -> None:
    """Several files are one configuration, the later over the earlier."""
    write("providers:\n  openai: {models: [a]}\n", "a.yaml")
    write("providers:\n  openai: {api_key: sk-1}\nmodels:\n  x: {targets: [openai/a]}\n", "b.yaml")
    assert run("check", "a.yaml").exit_code == 1
    assert run("check", "a.yaml", "b.yaml").stdout == "ok: 1 provider, 2 models\n"


def test_check_counts_what_is_enabled() -> None:
    """A provider that is off is not counted, nor are its models."""
    write("providers:\n  simulated: {models: [echo]}\n  openai: {enabled: false, models: [a, b]}\n")
    assert run("check", "llmproxy.yaml").stdout == "ok: 1 provider, 1 model\n"


def test_check_of_what_needs_more_than_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of metrics without its library is a finding, and no command ends with a traceback for it."""
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "prometheus_client" else found(name))
    write(OPEN + "endpoints: {metrics: true}\n")
    for arguments in (["check", "llmproxy.yaml"], ["models"], ["doctor"], ["serve", "--port", "0"]):
        ended = run(*arguments)
        assert ended.exit_code == 1
        assert "endpoints.metrics: needs prometheus-client: pip install 'llmproxy-asgi[prometheus]'" in ended.output


@pytest.mark.parametrize("name", ["none.yaml", "folder"])
def test_check_of_what_cannot_be_read(name: str) -> None:
    """A file that cannot be read ends the command with 2."""
    Path("folder").mkdir()
    checked = run("check", name)
    assert checked.exit_code == 2
    assert checked.stderr.startswith(f"{name}: cannot be read: ")


def test_check_without_a_file_takes_the_usual_one() -> None:
    """As the other commands do."""
    assert run("check").exit_code == 2
    write(OPEN)
    assert run("check").stdout == "ok: 1 provider, 0 models\n"


def test_check_finds_what_serves_nothing() -> None:
    """Fail for a valid file that serves no caller, and report the place of the finding."""
    write(OPEN.replace("simulated: ", "simulated: {enabled: false}"))
    ended = run("check", "llmproxy.yaml")
    assert ended.exit_code == 1
    assert ended.stdout.startswith("llmproxy.yaml:1: providers: are all disabled, so nothing would be served")


def test_check_says_who_can_call_a_mounted_gateway_alone() -> None:
    """Without keys a file is right for a host that identifies its users, and no use to `serve`: a note, no finding."""
    write("providers: {simulated: }\n")
    ended = run("check", "llmproxy.yaml")
    assert (ended.exit_code, ended.stdout) == (0, "ok: 1 provider, 0 models\n")
    assert "access.keys is empty" in ended.stderr


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package whose entry points name no module, no class, one that ends Python, and no provider."""
    points = {
        "no-module": "no_such_module:Provider",
        "no-class": "half_a_provider:Provider",
        "exits": "exits_at_import:Provider",
        "nameless": "half_a_provider:OTHER",
    }
    info = tmp_path / "site" / "broken_providers-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-providers\nVersion: 1.0\n", encoding="utf-8")
    lines = ["[llmproxy_asgi.providers]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "site" / "half_a_provider.py").write_text("OTHER = 1\n", encoding="utf-8")
    (tmp_path / "site" / "exits_at_import.py").write_text("raise SystemExit('a\\nb')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("no-module", "cannot be loaded from no_such_module:Provider: ModuleNotFoundError: No module named"),
        ("no-class", "cannot be loaded from half_a_provider:Provider: AttributeError: module 'half_a_provider' has no"),
        ("exits", "cannot be loaded from exits_at_import:Provider: SystemExit: a b"),
        ("nameless", "is not registered by half_a_provider:OTHER: put @provider('nameless') on its class"),
    ],
)
def test_a_broken_provider_is_one_finding_that_names_it(kind: str, cause: str) -> None:
    """`check` and `schema --config` name the type's place, the entry point and the cause, on one line."""
    write(f"providers:\n  mine:\n    type: {kind}\naccess: {{mode: open}}\n")
    checked = run("check", "llmproxy.yaml")
    assert (checked.exit_code, len(checked.stdout.splitlines())) == (1, 1)
    assert checked.stdout.startswith(f"llmproxy.yaml:3: providers.mine.type: {cause}")
    schema = run("schema", "--config", "llmproxy.yaml")
    assert (schema.exit_code, schema.stdout) == (1, "")
    assert schema.stderr == checked.stdout


@pytest.mark.usefixtures("broken")
def test_schema_imports_no_package_that_nobody_names() -> None:
    """Without a file the schema describes the built-in types; with one, those that it names as well."""
    names = set(json.loads(run("schema").stdout)["$defs"])
    assert {"provider-openai", "provider-simulated"} <= names
    assert "provider-no-module" not in names
    write(OPEN)
    assert run("schema", "--config", "llmproxy.yaml").stdout == run("schema").stdout
    write("providers:\n  a: {type: opnai}\n")
    assert (
        run("schema", "-c", "llmproxy.yaml").stderr
        == "llmproxy.yaml:2: providers.a.type: unknown provider type 'opnai'\n"
    )


# schema, models


def test_schema() -> None:
    """The JSON Schema is printed, or written where it is asked for."""
    printed = run("schema")
    assert json.loads(printed.stdout)["$schema"].startswith("https://json-schema.org/")
    assert run("schema", "--output", "s.json").stdout == ""
    assert Path("s.json").read_text(encoding="utf-8") == printed.stdout
    assert run("schema", "--output", "no/such/s.json").exit_code == 2


def test_models() -> None:
    """Names, patterns and providers that take anything are listed with their targets and protocols."""
    write(
        """\
providers:
  openai: {api_key: x, models: [gpt-5, {name: fast, upstream: gpt-5-mini}, {name: gone, enabled: false}, "o*"]}
  claude: {type: anthropic, api_key: x}
  unused: {type: openai, enabled: false}
models:
  smart: {targets: [claude/opus, openai/fast]}
"""
    )
    listed = run("models")
    assert listed.exit_code == 0
    assert [line.split("  ")[0] for line in listed.stdout.splitlines()] == ["NAME", "smart", "gpt-5", "fast", "o*", "*"]
    rows = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert "claude/opus, openai/gpt-5-mini" in rows["smart"]
    assert "anthropic-messages, openai-responses" in rows["smart"]
    assert "openai/gpt-5-mini" in rows["fast"]
    assert "claude/*" in rows["*"]


def test_models_show_strategies_and_weights() -> None:
    """Of names under `models`: how targets are chosen, and each one's share where shares count."""
    write(
        """\
providers:
  openai: {api_key: x}
  claude: {type: anthropic, api_key: x}
models:
  shared: {strategy: weighted, targets: [{target: claude/opus, weight: 3}, {target: openai/gpt-5, weight: 0.5}]}
  turns: {strategy: round_robin, targets: [claude/opus, openai/gpt-5]}
"""
    )
    rows = {line.split()[0]: line for line in run("models").stdout.splitlines()}
    assert "claude/opus (3), openai/gpt-5 (0.5)" in rows["shared"]
    assert rows["shared"].endswith(" weighted")
    assert "claude/opus, openai/gpt-5 " in rows["turns"]
    assert rows["turns"].endswith(" round_robin")
    assert not rows["*"].endswith(" ")


def test_models_of_nobody() -> None:
    """Without providers the output says that there are none."""
    write("{}")
    listed = run("models", "--config", "llmproxy.yaml")
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "no provider" in listed.stderr


@pytest.mark.parametrize("command", ["models", "serve", "doctor"])
def test_configuration_that_is_not_there(command: str) -> None:
    """Where the usual file is missing, the way to one is named."""
    refused = run(command)
    assert refused.exit_code == 1
    assert "llmproxy init" in refused.stderr


# doctor

UPSTREAM = "https://upstream.invalid/v1"


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | Exception]:
    """What upstreams say, by the key that they are shown; 200 to any other."""
    says: dict[str, int | Exception] = {}

    class Said(httpx2.AsyncBaseTransport):
        @override
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            said = says.get(request.headers["authorization"].removeprefix("Bearer "), 200)
            if isinstance(said, Exception):
                raise said
            if request.method == "POST" and said == 200:  # an empty request: right path, right key, wrong body
                return httpx2.Response(400, json={"error": {"message": "you must provide a model parameter"}})
            return httpx2.Response(said, json={})

    monkeypatch.setattr("llmproxy_asgi.runtime.SharedState", functools.partial(SharedState, transports={"*": Said()}))
    return says


def test_doctor_asks_by_each_credential(sick: dict[str, int | Exception]) -> None:
    """A line for each: by its fingerprint, what is wrong in words, and how long it took; never the key itself."""
    sick.update({"sk-bad": 401, "sk-gone": httpx2.ConnectError("gone"), "sk-busy": 503})
    write(
        f"""\
providers:
  one: {{type: openai-compatible, base_url: "{UPSTREAM}", api_key: [sk-good, sk-bad]}}
  two: {{type: openai-compatible, base_url: "{UPSTREAM}", api_key: sk-gone}}
  three: {{type: openai-compatible, base_url: "{UPSTREAM}", api_key: sk-busy}}
  off: {{type: openai-compatible, base_url: "{UPSTREAM}", api_key: sk-off, enabled: false}}
  simulated:
"""
    )
    told = run("doctor")
    assert told.exit_code == 1
    assert "sk-" not in told.output
    table, *why = told.stdout.split("\n\n")
    head, *rows = [line.split("  ") for line in table.splitlines()]
    shown = [[cell.strip() for cell in row if cell] for row in rows]
    assert [cell.strip() for cell in head if cell] == ["PROVIDER", "CREDENTIAL", "STATE", "SECONDS"]
    assert [(row[0], row[2]) for row in shown] == [
        ("one", "ok"),
        ("one", "the credential is refused"),
        ("two", "cannot be reached"),
        ("three", "is overloaded"),
        ("simulated", "ok"),
    ]
    assert shown[0][1] != shown[1][1]
    assert all(float(row[3]) >= 0 for row in shown)
    assert [each.partition(" (")[0] for each in why] == ["one", "two", "three"]
    assert "Replace api_key." in why[0]
    assert f"base_url is {UPSTREAM}" in why[1]
    assert "3 of 5 failed" in told.stderr


def test_doctor_of_the_healthy_and_of_nobody(sick: dict[str, int | Exception]) -> None:
    """Nothing wrong is 0; nothing to ask is 1."""
    write(f"""providers: {{one: {{type: openai-compatible, base_url: "{UPSTREAM}", api_key: sk-good}}}}""")
    told = run("doctor", "--config", "llmproxy.yaml")
    assert (told.exit_code, told.stderr) == (0, "")
    write("{}")
    told = run("doctor")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "No provider" in told.stderr
    assert not sick


# serve and demo, before they listen


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["serve", "--host", "0.0.0.0"], 1, "--insecure-open"),
        (["serve", "--host", "::"], 1, "--insecure-open"),
        (["serve", "--host", "a" * 300], 2, "not a host name"),
        (["serve", "--prefix", "llm"], 2, "--prefix is a path like /llm"),
        (["serve", "--prefix", "/{llm}"], 2, "--prefix is a path like /llm"),
        (["serve", "--prefix", "//llm"], 2, "--prefix is a path like /llm"),
        (["serve", "--graceful", "soon"], 2, "--graceful: a duration is like"),
        (["serve", "--port", "70000"], 2, "65535"),
        (["serve", "--workers", "0"], 2, "--workers"),
        (["serve", "--log-level", "loud"], 2, "loud"),
        (["serve", "--config", "none.yaml"], 1, "none.yaml: there is no such file"),
        (["demo", "--host", "0.0.0.0"], 2, "loopback addresses only"),
    ],
)
def test_what_is_refused_before_listening(arguments: list[str], code: int, words: str) -> None:
    """Refuse what cannot work or would admit every caller, and name the setting to change."""
    write(OPEN)
    refused = run(*arguments)
    assert refused.exit_code == code
    assert words in refused.stderr


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_without_a_server(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvicorn, the extra that brings it is named."""
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    refused = run(command)
    assert refused.exit_code == 1
    assert 'pip install "llmproxy-asgi[server]"' in refused.stderr
