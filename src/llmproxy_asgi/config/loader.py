"""From files, dicts and the environment to a `Config`, or to every finding at once.

A later layer wins: defaults, sources in their order, environment, overrides. Everything that is wrong is collected
before anything is raised, each finding with the place where its value was said. A finding never holds a secret.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from pydantic import TypeAdapter, ValidationError

from llmproxy_asgi.config.document import MAX_BYTES, Document, Tree, Unreadable, limited_hints, spell
from llmproxy_asgi.config.interpolation import Interpolation, interpolate
from llmproxy_asgi.config.layers import CODE, Layers, Place, plain, read_environment, unfold
from llmproxy_asgi.config.masking import mask
from llmproxy_asgi.config.schema import (
    Config,
    Finding,
    ProviderBlock,
    Source,
    default_findings,
    provider_findings,
    route_findings,
)
from llmproxy_asgi.errors import ConfigError, MisuseError
from llmproxy_asgi.providers.registry import BrokenProvider, entry_points_read_once, provider_class

_LONGEST = 1000
"""Characters of one finding."""
MOST_FINDINGS = 100
"""Findings of one configuration that are written out; the rest are counted."""


def load_config(
    source: Source | Sequence[Source],
    *,
    environment: Mapping[str, str] | None = os.environ,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """A configuration; a later layer wins: the sources in their order, the environment, the overrides.

    Args:
        source: The path of a YAML, TOML or JSON file, a dict, a `Config`, or several of these.
        environment: Where `${NAME}` and `LLMPROXY__...` are looked up; None: nowhere.
        overrides: What the host program has the last word on.

    Raises:
        ConfigError: It cannot be used; carries every finding with its place.
    """
    if isinstance(source, Config) and not overrides:
        return source  # it was validated when it was made, from whatever environment there was
    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    with limited_hints():
        layers = _lay(sources, environment or {}, overrides)
        return _valid(layers, interpolate(layers, environment or {}))


def check_config(files: Sequence[Path], *, environment: Mapping[str, str] = os.environ) -> Config:
    """As `load_config`, and nothing in it, as far as can be seen, keeps it from serving calls.

    Args:
        files: YAML, TOML or JSON; later ones win.
        environment: As for `load_config`.

    Raises:
        ConfigError: It cannot be used, or would serve nothing; carries every finding with its place.
    """
    from llmproxy_asgi.config.usable import unusable

    layers = _lay(files, environment, None)
    layers.places[()] = Place(_source_name(files[-1]))
    if not layers.values:
        raise ConfigError(_lines([Finding((), "is empty: `llmproxy init` writes a file to start from")], layers, set()))
    done = interpolate(layers, environment)
    with limited_hints():
        config = _valid(layers, done)
        findings = list(unusable(config))
    if findings:
        raise ConfigError(_lines(findings, layers, done.hidden))
    return config


def named_types(files: Sequence[Path], *, environment: Mapping[str, str] = os.environ) -> set[str]:
    """The provider types that some files name, be they there or not; the rest of the files may be wrong.

    Raises:
        ConfigError: A file cannot be read, or a type that it names cannot be had; with the place.
    """
    layers = _lay(files, environment, None)
    providers = layers.values.get("providers")
    names: set[str] = set()
    findings: list[Finding] = []
    for name, block in providers.items() if isinstance(providers, dict) else ():
        kind = block.get("type", name) if isinstance(block, dict) else name
        if not isinstance(kind, str):
            continue
        try:
            provider_class(kind)
        except MisuseError as error:
            text = str(error) if isinstance(error, BrokenProvider) else f"unknown provider type {kind!r}"
            findings.append(Finding(("providers", name, "type"), text))
        names.add(kind)
    if findings:
        raise ConfigError(_lines(findings, layers, set()))
    return names


def _valid(layers: Layers, done: Interpolation) -> Config:
    with entry_points_read_once():
        config, findings = _validate(layers.values)
    wrong = [*done.findings, *(finding for finding in findings if finding.path not in done.lost)]
    if wrong or config is None:
        raise ConfigError(_lines(wrong, layers, done.hidden))
    return config


def _lay(sources: Sequence[object], environment: Mapping[str, str], overrides: Mapping[str, object] | None) -> Layers:
    """All layers over each other.

    Raises:
        ConfigError: Some cannot be read.
    """
    layers = Layers()
    problems: list[str] = []
    for rank, source in enumerate(sources):
        _lay_source(layers, source, rank, problems)
    problems += [f"{name}: {problem}" for name, problem in read_environment(layers, environment, len(sources))]
    if overrides:
        _lay_source(layers, overrides, len(sources) + 1, problems)
    if problems:
        raise ConfigError([mask(problem) for problem in problems])
    return layers


def _lay_source(layers: Layers, source: object, rank: int, problems: list[str]) -> None:
    base = Place(_source_name(source), rank=rank, literal=isinstance(source, Config))
    try:
        document = _read(source)
    except Unreadable as error:
        problems.append(f"{_spot(msgspec.structs.replace(base, line=error.line))}: {error.problem}")
        return
    places = {path: msgspec.structs.replace(base, line=line) for path, line in document.lines.items()}
    layers.lay(document.values, places, base)


def _read(source: object) -> Document:
    if isinstance(source, (str, os.PathLike)):
        return read_file(source)
    if isinstance(source, Config):
        return Document(unfold(source))
    if isinstance(source, Mapping):
        return Document(plain(source))
    raise Unreadable(f"a configuration is a path, a dict or a Config, not {type(source).__name__}")


def read_file(path: str | os.PathLike[str]) -> Document:
    """What a file holds, read by what its name ends in: JSON, TOML, or else YAML.

    Raises:
        Unreadable: It cannot be opened, is too big, or is not of its language.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  a path-like of any kind
            is_big = os.fstat(file.fileno()).st_size > MAX_BYTES
            content = b"" if is_big else file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Unreadable("there is no such file") from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or 'not a usable path'}") from None
    if is_big or len(content) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES // 2**20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("is not UTF-8", content.count(b"\n", 0, error.start) + 1) from None
    return _reader(Path(path).suffix.lower())(text)


def _reader(suffix: str) -> Callable[[str], Document]:
    """What reads files of a kind; imported when there is one."""
    if suffix == ".json":
        from llmproxy_asgi.config.json_text import read_json as read
    elif suffix == ".toml":
        from llmproxy_asgi.config.toml_text import read_toml as read
    else:
        from llmproxy_asgi.config.yaml import read_yaml as read
    return read


def _source_name(source: object) -> str:
    if not isinstance(source, (str, os.PathLike)):
        return CODE
    name = str(os.fspath(source))
    return name if name.isprintable() else "a path with control characters"


def _validate(values: Tree) -> tuple[Config | None, list[Finding]]:
    try:
        return Config.model_validate(values), []
    except ValidationError as error:
        from llmproxy_asgi.config.findings import explain  # its tables are for what is wrong, which is rarely anything

        findings = list(explain(error, values))
    # What depends on several parts is looked at only once the parts are right, so it is asked for part by part here.
    found = {(finding.path, finding.text) for finding in findings}
    findings += [finding for finding in _across(values) if (finding.path, finding.text) not in found]
    return None, findings


def _across(values: Tree) -> Iterator[Finding]:
    """What is wrong between the parts that are right each for itself."""
    providers = values.get("providers")
    names: dict[str, object] = providers if isinstance(providers, dict) else {}
    reader: TypeAdapter[ProviderBlock] = TypeAdapter(ProviderBlock)
    for name, block in names.items():
        typed = {"type": name, **block} if isinstance(block, dict) else block
        try:
            yield from provider_findings(name, reader.validate_python({"type": name} if typed is None else typed))
        except ValidationError:
            continue  # told already, by the whole
    models = values.get("models")
    for name, route in models.items() if isinstance(models, dict) else ():
        targets = route.get("targets") if isinstance(route, dict) else None
        if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
            yield from route_findings(name, targets, names)
    default = values.get("default_provider")
    if isinstance(default, str):
        yield from default_findings(default, names)


def _lines(findings: Sequence[Finding], layers: Layers, hidden: set[str]) -> list[str]:
    """Findings as text, in the order of their places, without any secret; of very many the first, and their number."""
    placed = [(layers.place(finding.path), finding) for finding in findings]
    placed.sort(key=lambda pair: _order(pair[0]))
    lines: dict[str, None] = {}
    for number, (place, finding) in enumerate(placed):
        if len(lines) == MOST_FINDINGS:
            return [*lines, f"and {len(placed) - number} more"]
        lines[_line(place, finding, hidden)] = None
    return list(lines)


def _order(place: Place | None) -> tuple[int, int]:
    return (-1, 0) if place is None else (place.rank, place.line or 0)


def _line(place: Place | None, finding: Finding, secrets: set[str]) -> str:
    text = mask(finding.text, secrets)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."  # some quote a name that was written, and that may be anything
    # A path is made of the writer's own keys, and a secret may have been pasted as one.
    said = f"{mask(spell(finding.path), secrets)}: {text}" if finding.path else text
    return f"{_spot(place)}: {said}" if place is not None else said


def _spot(place: Place) -> str:
    return f"{place.source}:{place.line}" if place.line is not None else place.source
