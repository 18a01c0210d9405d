"""What is committed: nothing of the machine it was written on, nothing dangerous, all of it in its place."""

import ast
import ipaddress
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pip._internal.models import index as pip_index

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "src", ROOT / "integrations"]
TOP_LEVEL = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "changes",
    "docs",
    "examples",
    "integrations",
    "pyproject.toml",
    "requirements",
    "src",
    "tests",
}
FRAGMENT_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\.(?:added|changed|fixed|removed)\.md")

FORBIDDEN_MODULES = {"_pickle", "cPickle", "dill", "marshal", "pickle", "shelve", "subprocess"}
FORBIDDEN_CALLS = {"__import__", "compile", "eval", "exec"}
# The other ways to start a program.
PROGRAMS_OF_OS = re.compile(r"system|popen|fork|forkpty|exec[lv]p?e?|spawn[lv]p?e?|posix_spawnp?")
PROGRAMS_OF_ASYNCIO = re.compile(r"(?:create_)?subprocess(?:_exec|_shell)?")


def tracked() -> list[Path]:
    """The files under version control that exist in the working tree, relative to its top."""
    listed = subprocess.run(
        # The checkout may belong to another user, as in a container.
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def contents() -> dict[Path, str]:
    """The text of each tracked file; what is not UTF-8 is kept as far as it can be searched."""
    return {path: (ROOT / path).read_bytes().decode("utf-8", "replace") for path in tracked()}


def hits(contents: dict[Path, str], wanted: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{text.count(chr(10), 0, match.start()) + 1}"
        for path, text in contents.items()
        for match in wanted.finditer(text)
    ]


# Hosts of package registries, learned from the tools, so that none is written down here


def npm_registry(folder: Path, *, configured: bool) -> str:
    """The registry npm uses: as configured here, or, kept from every configuration, the one built into it."""
    npm = shutil.which("npm")
    if npm is None:
        return ""
    environment = dict(os.environ)
    if not configured:
        environment = {name: value for name, value in environment.items() if not name.lower().startswith("npm_")}
        environment["npm_config_userconfig"] = str(folder / "no-user-configuration")
        environment["npm_config_globalconfig"] = str(folder / "no-global-configuration")
    command = [npm, "config", "get", "registry"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def pip_settings() -> str:
    """The settings of pip's configuration files and environment, as text."""
    from pip._internal.configuration import Configuration

    configuration = Configuration(isolated=False)
    configuration.load()
    return " ".join(str(value) for _, value in configuration.items())


def is_public(host: str) -> bool:
    """Whether a host names a machine elsewhere; loopback addresses and bare names do not."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." in host


def hosts_in(text: str) -> set[str]:
    found = {urlsplit(address).hostname or "" for address in re.findall(r"https?://[^\s'\",\]]+", text)}
    return {host for host in found if is_public(host)}


def registry_hosts(folder: Path) -> set[str]:
    built_in = {
        pip_index.PyPI.netloc,
        pip_index.PyPI.file_storage_domain,
        pip_index.TestPyPI.netloc,
        pip_index.TestPyPI.file_storage_domain,
        *hosts_in(npm_registry(folder, configured=False)),
    }
    # A registry's whole domain: its pages and mirrors are no better to commit than its index.
    domains = {".".join(host.split(".")[-2:]) for host in built_in}
    settings = [value for name, value in os.environ.items() if re.match(r"(?i)(?:pip|uv|npm)_", name)]
    return domains | hosts_in(" ".join([*settings, pip_settings(), npm_registry(folder, configured=True)]))


def test_no_registry_is_named(contents: dict[Path, str], tmp_path: Path) -> None:
    """No tracked file names a package registry, be it a tool's own default or the one configured here."""
    hosts = registry_hosts(tmp_path)
    assert hosts
    assert hits(contents, re.compile("|".join(map(re.escape, sorted(hosts))), re.IGNORECASE)) == []


def test_hosts_are_found_in_settings() -> None:
    """The search for hosts reads addresses with keys and ports, and leaves this machine's own alone."""
    settings = "https://user:key@registry.example:8443/simple ['http://127.0.0.1:3141/', 'http://localhost/'] file:///a"
    assert hosts_in(settings) == {"registry.example"}


def test_requirements_hold_no_address(contents: dict[Path, str]) -> None:
    """Pinned requirements name versions and hashes and leave it to the installer where to find them."""
    requirements = {path: text for path, text in contents.items() if path.parts[0] == "requirements"}
    assert requirements
    address = re.compile(r"://|^\s*(?:-i|-f|--index-url|--extra-index-url|--find-links)\b", re.MULTILINE)
    assert hits(requirements, address) == []


def test_every_pin_has_hashes() -> None:
    """Each requirement is one exact version with at least one hash."""
    text = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    requirements = re.findall(r"^[A-Za-z0-9](?:.*\\\n)*.*", text, re.MULTILINE)
    assert requirements
    assert [pin for pin in requirements if "==" not in pin or "--hash=sha256:" not in pin] == []


def asked_for() -> list[Requirement]:
    """What pyproject.toml, with every extra, and dev.in ask for, without the extras that name each other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = (ROOT / "requirements" / "dev.in").read_text(encoding="utf-8").splitlines()
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
        *(line for line in tools if line and not line.startswith("#")),
    ]
    requirements = [Requirement(line) for line in lines]
    return [requirement for requirement in requirements if requirement.name != project["name"]]


def test_pins_keep_up_with_what_is_asked_for() -> None:
    """Each dependency of the project, of its extras and of its tools is pinned to a version within its range."""
    text = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    pins = {canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)}
    stale = [
        str(requirement)
        for requirement in asked_for()
        if not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
        or canonicalize_name(requirement.name) not in pins
    ]
    assert stale == [], "run `make requirements`"


def needs_of(name: str) -> list[Requirement]:
    """What an installed distribution asks for; one that an older environment lacks asks for nothing here."""
    try:
        return [Requirement(line) for line in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        return []


def test_the_lock_holds_all_that_its_packages_ask_for() -> None:
    """What the pinned packages need here, extras that others ask of them included, is pinned and fits.

    The lock is installed without a look at dependencies, so nothing else would find the gap.
    """
    text = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    pins = {str(canonicalize_name(name)): version for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)}
    waiting = [one for one in asked_for() if one.marker is None or one.marker.evaluate()]
    seen: set[tuple[str, str]] = set()
    missing: list[str] = []
    while waiting:
        wanted = waiting.pop()
        name = str(canonicalize_name(wanted.name))
        if not wanted.specifier.contains(pins.get(name, "0")) or name not in pins:
            missing.append(str(wanted))
            continue
        for extra in ["", *sorted(wanted.extras)]:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [
                    need for need in needs_of(name) if need.marker is None or need.marker.evaluate({"extra": extra})
                ]
    assert ("google-auth", "requests") in seen
    assert missing == [], "run `make requirements`"


def test_actions_are_pinned_by_commit(contents: dict[Path, str]) -> None:
    """Each action of a workflow is named by the full hash of a commit, and says which version that is."""
    workflows = {path: text for path, text in contents.items() if path.parts[:2] == (".github", "workflows")}
    used = [line.strip() for text in workflows.values() for line in text.splitlines() if "uses:" in line]
    assert used
    pinned = re.compile(r"(?:- )?uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in used if not pinned.fullmatch(line)] == []


# Places


def path_pattern(path: Path) -> re.Pattern[str]:
    """This path where it stands alone or begins a longer one, not where it ends one."""
    return re.compile(rf"(?<![\w.}}~-]){re.escape(str(path))}(?=[/\s'\"`)]|$)", re.MULTILINE)


def test_no_path_of_this_checkout(contents: dict[Path, str]) -> None:
    """No tracked file holds the absolute path of the working tree."""
    assert hits(contents, path_pattern(ROOT)) == []


def test_no_path_of_this_home(contents: dict[Path, str]) -> None:
    """No tracked file holds the path of the current user's home directory."""
    home = Path.home()
    if home == Path(home.anchor):
        pytest.skip("the home directory is the root of the file system")
    assert hits(contents, path_pattern(home)) == []


def test_path_pattern_tells_places_apart(tmp_path: Path) -> None:
    """A path is recognised alone, quoted and at the start of a longer one, and nowhere else."""
    text = f"{tmp_path}\n'{tmp_path}/a'\nx{tmp_path}\n{tmp_path}_more\n"
    assert hits({Path("a"): text}, path_pattern(tmp_path)) == ["a:1", "a:2"]


def test_top_level_is_tidy() -> None:
    """The top of the repository holds the agreed entries and dot files, and nothing else."""
    found = {path.parts[0] for path in tracked()}
    assert sorted(name for name in found - TOP_LEVEL if not name.startswith(".")) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_package_is_typed(source: Path) -> None:
    """Each importable package tells type checkers that it is typed."""
    packages = [entry.parent for entry in source.glob("*/__init__.py")]
    assert packages
    assert [package.name for package in packages if not (package / "py.typed").is_file()] == []


# Changelog


def fragments() -> list[Path]:
    return [path for path in tracked() if path.parts[0] == "changes" and path.name != "README.md"]


def test_fragments_are_named_for_the_changelog() -> None:
    """Each fragment is `<slug>.<added|changed|fixed|removed>.md`, directly under changes/."""
    misnamed = [
        str(path) for path in fragments() if path.parent != Path("changes") or not FRAGMENT_NAME.fullmatch(path.name)
    ]
    assert misnamed == []


def test_fragments_say_something() -> None:
    """No fragment is empty."""
    assert [str(path) for path in fragments() if not (ROOT / path).read_text(encoding="utf-8").strip()] == []


# Dangerous calls


def names_used(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What one piece of code takes, as (module, name): (`os`, `system`); ("", name) is a built-in that is called."""
    match node:
        case ast.Import(names=names):
            yield from ((name.name.partition(".")[0], "*") for name in names)
        case ast.ImportFrom(module=str(module), names=names, level=0):
            yield from ((module.partition(".")[0], name.name) for name in names)
        case ast.Attribute(value=ast.Name(id=owner), attr=attribute):
            yield owner, attribute
        case ast.Call(func=ast.Name(id=name)):
            yield "", name
        case _:
            pass


def is_danger(module: str, name: str) -> bool:
    match module:
        case "" | "builtins":
            return name in FORBIDDEN_CALLS
        case "os" | "posix":
            return PROGRAMS_OF_OS.fullmatch(name) is not None
        case "asyncio":
            return PROGRAMS_OF_ASYNCIO.fullmatch(name) is not None
        case _:
            return module in FORBIDDEN_MODULES


def dangers(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and name of each way to run text as code, to unpickle or to start a program."""
    return [
        (getattr(node, "lineno", 0), ".".join(filter(None, used)))
        for node in ast.walk(tree)
        for used in names_used(node)
        if is_danger(*used)
    ]


def test_nothing_runs_text_or_programs() -> None:
    """The shipped code never evaluates text, unpickles, or starts another program."""
    modules = [path for source in SOURCES for path in source.rglob("*.py")]
    assert modules
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules
        for line, name in dangers(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle as p", "pickle.*"),
        ("from subprocess import run", "subprocess.run"),
        ("from os import system", "os.system"),
        ("import os; os.execv('a', [])", "os.execv"),
        ("import asyncio; asyncio.create_subprocess_exec('a')", "asyncio.create_subprocess_exec"),
        ("from asyncio import subprocess", "asyncio.subprocess"),
        ("eval('1')", "eval"),
        ("import builtins; builtins.exec('1')", "builtins.exec"),
    ],
)
def test_scan_sees_dangers(source: str, name: str) -> None:
    """The scan recognises each kind of dangerous call."""
    assert [found for _, found in dangers(ast.parse(source))] == [name]


@pytest.mark.parametrize(
    "source",
    ["import re; re.compile('a')", "loader.exec_module(module)", "import os; os.register_at_fork(before=f)"],
)
def test_scan_passes_what_is_harmless(source: str) -> None:
    """Names that only look like dangerous ones are let through."""
    assert dangers(ast.parse(source)) == []
