"""Load a `Config` from files, dicts and the environment, or raise all findings at once.

Later layers take precedence: defaults, sources in order, environment, overrides. All findings are collected before an
error is raised, each with the location of its value. A finding never contains a secret.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from pydantic import TypeAdapter, ValidationError

from llmproxy_asgi.config.document import MAX_BYTES, Document, Tree, Unreadable, format_path, limited_hints
from llmproxy_asgi.config.interpolation import Interpolation, interpolate
from llmproxy_asgi.config.layers import CODE, Layers, Location, plain, read_environment, unfold
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

_MAX_LENGTH = 1000
"""Characters of the longest finding; longer ones are cut."""
MAX_FINDINGS = 100
"""The most findings printed for one configuration; the rest are counted."""


def load_config(
    source: Source | Sequence[Source],
    *,
    environment: Mapping[str, str] | None = os.environ,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Load a configuration; later layers take precedence: the sources in order, the environment, the overrides.

    Args:
        source: The path of a YAML, TOML or JSON file, a dict, a `Config`, or several of these.
        environment: Where `${NAME}` and `LLMPROXY__...` are looked up; None: nowhere.
        overrides: Values of the host program that replace all others.

    Raises:
        ConfigError: The configuration is invalid; contains all findings with their locations.
    """
    if isinstance(source, Config) and not overrides:
        return source  # validated when it was created, with the environment of that time
    sources = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    with limited_hints():
        layers = _merge_sources(sources, environment or {}, overrides)
        return _valid(layers, interpolate(layers, environment or {}))


def check_config(files: Sequence[Path], *, environment: Mapping[str, str] = os.environ) -> Config:
    """Load a configuration like `load_config`, and check also that it can serve calls.

    Args:
        files: YAML, TOML or JSON; later ones take precedence.
        environment: As for `load_config`.

    Raises:
        ConfigError: The configuration is invalid, or cannot serve calls; contains all findings with their locations.
    """
    from llmproxy_asgi.config.usable import unusable

    layers = _merge_sources(files, environment, None)
    layers.locations[()] = Location(_source_name(files[-1]))
    if not layers.values:
        raise ConfigError(_lines([Finding((), "is empty: `llmproxy init` writes a file to start from")], layers, set()))
    interpolation = interpolate(layers, environment)
    with limited_hints():
        config = _valid(layers, interpolation)
        findings = list(unusable(config))
    if findings:
        raise ConfigError(_lines(findings, layers, interpolation.secrets))
    return config


def named_types(files: Sequence[Path], *, environment: Mapping[str, str] = os.environ) -> set[str]:
    """Return the provider types that some files name; the rest of the files may be invalid.

    Raises:
        ConfigError: A file cannot be read, or names an unknown type; with the location.
    """
    layers = _merge_sources(files, environment, None)
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


def _valid(layers: Layers, interpolation: Interpolation) -> Config:
    with entry_points_read_once():
        config, findings = _validate(layers.values)
    findings = [
        *interpolation.findings,
        *(finding for finding in findings if finding.path not in interpolation.unresolved),
    ]
    if findings or config is None:
        raise ConfigError(_lines(findings, layers, interpolation.secrets))
    return config


def _merge_sources(
    sources: Sequence[object], environment: Mapping[str, str], overrides: Mapping[str, object] | None
) -> Layers:
    """Merge all layers.

    Raises:
        ConfigError: A source cannot be read.
    """
    layers = Layers()
    problems: list[str] = []
    for rank, source in enumerate(sources):
        _merge_source(layers, source, rank, problems)
    problems += [f"{name}: {problem}" for name, problem in read_environment(layers, environment, len(sources))]
    if overrides:
        _merge_source(layers, overrides, len(sources) + 1, problems)
    if problems:
        raise ConfigError([mask(problem) for problem in problems])
    return layers


def _merge_source(layers: Layers, source: object, rank: int, problems: list[str]) -> None:
    base = Location(_source_name(source), rank=rank, literal=isinstance(source, Config))
    try:
        document = _read(source)
    except Unreadable as error:
        problems.append(f"{_format_location(msgspec.structs.replace(base, line=error.line))}: {error.problem}")
        return
    locations = {path: msgspec.structs.replace(base, line=line) for path, line in document.lines.items()}
    layers.merge(document.values, locations, base)


def _read(source: object) -> Document:
    if isinstance(source, (str, os.PathLike)):
        return read_file(source)
    if isinstance(source, Config):
        return Document(unfold(source))
    if isinstance(source, Mapping):
        return Document(plain(source))
    raise Unreadable(f"a configuration is a path, a dict or a Config, not {type(source).__name__}")


def read_file(path: str | os.PathLike[str]) -> Document:
    """Read a file by its suffix: JSON, TOML, or otherwise YAML.

    Raises:
        Unreadable: It cannot be opened, is too large, or is not valid in its language.
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
    """Return the reader for a file suffix; imported when it is needed."""
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
    # Pydantic checks rules across parts only if all parts are valid, so the valid parts are checked here.
    found = {(finding.path, finding.text) for finding in findings}
    findings += [finding for finding in _cross_findings(values) if (finding.path, finding.text) not in found]
    return None, findings


def _cross_findings(values: Tree) -> Iterator[Finding]:
    """Yield findings across the parts that are valid each on their own."""
    providers = values.get("providers")
    names: dict[str, object] = providers if isinstance(providers, dict) else {}
    reader: TypeAdapter[ProviderBlock] = TypeAdapter(ProviderBlock)
    for name, block in names.items():
        typed = {"type": name, **block} if isinstance(block, dict) else block
        try:
            yield from provider_findings(name, reader.validate_python({"type": name} if typed is None else typed))
        except ValidationError:
            continue  # reported already, by the validation of the whole
    models = values.get("models")
    for name, route in models.items() if isinstance(models, dict) else ():
        targets = route.get("targets") if isinstance(route, dict) else None
        if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
            yield from route_findings(name, targets, names)
    default = values.get("default_provider")
    if isinstance(default, str):
        yield from default_findings(default, names)


def _lines(findings: Sequence[Finding], layers: Layers, secrets: set[str]) -> list[str]:
    """Return findings as text, ordered by location, without secrets; of very many the first ones and their number."""
    placed = [(layers.location(finding.path), finding) for finding in findings]
    placed.sort(key=lambda pair: _order(pair[0]))
    lines: dict[str, None] = {}
    for number, (location, finding) in enumerate(placed):
        if len(lines) == MAX_FINDINGS:
            return [*lines, f"and {len(placed) - number} more"]
        lines[_line(location, finding, secrets)] = None
    return list(lines)


def _order(location: Location | None) -> tuple[int, int]:
    return (-1, 0) if location is None else (location.rank, location.line or 0)


def _line(location: Location | None, finding: Finding, secrets: set[str]) -> str:
    text = mask(finding.text, secrets)
    if len(text) > _MAX_LENGTH:
        text = f"{text[:_MAX_LENGTH]}..."  # some quote a name from the configuration, of any length
    # A path consists of the author's own keys, and a secret may have been pasted as one.
    line = f"{mask(format_path(finding.path), secrets)}: {text}" if finding.path else text
    return f"{_format_location(location)}: {line}" if location is not None else line


def _format_location(location: Location) -> str:
    return f"{location.source}:{location.line}" if location.line is not None else location.source
