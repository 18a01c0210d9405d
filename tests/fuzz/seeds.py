"""What is mutated: requests of every protocol (`seeds/`), and the recorded wires of every upstream."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fuzz.mutate import Material

HERE = Path(__file__).parent
WIRES = HERE.parent / "wires"
CHAT, RESPONSES, MESSAGES, GEMINI = "openai-chat", "openai-responses", "anthropic-messages", "gemini"
COMPLETIONS, EMBEDDINGS = "openai-completions", "openai-embeddings"
UPSTREAMS = (CHAT, RESPONSES, MESSAGES, GEMINI)
PROTOCOLS = (*UPSTREAMS, COMPLETIONS, EMBEDDINGS)
"""Of callers. Google's embeddings are asked for by paths of Gemini's own."""


class Seed(NamedTuple):
    """A request that is right."""

    name: str
    tree: Any


class Wire(NamedTuple):
    """Something that an upstream said."""

    name: str
    data: bytes
    frames: tuple[tuple[str | None, Any], ...]
    """The events of a stream: name, and data as a tree, or as text where it is no JSON; of an answer, only itself."""
    stream: bool


@cache
def requests(protocol: str) -> tuple[Seed, ...]:
    """The requests of a protocol, by name."""
    files = sorted((HERE / "seeds" / protocol).glob("*.json"))
    return tuple(Seed(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in files)


@cache
def wires(protocol: str) -> tuple[Wire, ...]:
    """The wires of a protocol, streams and whole answers, by name."""
    files = sorted((WIRES / protocol.replace("-", "_")).iterdir())
    return tuple(_wire(path) for path in files if path.suffix in {".sse", ".json"})


@cache
def streams(protocol: str) -> tuple[Wire, ...]:
    """Those that are streams."""
    return tuple(wire for wire in wires(protocol) if wire.stream)


@cache
def answers(protocol: str) -> tuple[Wire, ...]:
    """Those that are whole answers."""
    return tuple(wire for wire in wires(protocol) if not wire.stream)


@cache
def material() -> Material:
    """All of it together, for mutations that take from elsewhere."""
    trees = [seed.tree for protocol in PROTOCOLS for seed in requests(protocol)]
    return Material.of(trees + wire_trees())


@cache
def wire_material() -> Material:
    """What upstreams say, for mutations of that."""
    return Material.of(wire_trees())


def wire_trees() -> list[Any]:
    """Every event and answer that is a tree."""
    found = [tree for protocol in UPSTREAMS for wire in wires(protocol) for _, tree in wire.frames]
    return [tree for tree in found if isinstance(tree, dict | list)]


@cache
def blobs() -> tuple[bytes, ...]:
    """All of it as bytes."""
    bodies = [json.dumps(seed.tree).encode() for protocol in PROTOCOLS for seed in requests(protocol)]
    return tuple(bodies + [wire.data for protocol in UPSTREAMS for wire in wires(protocol)])


def _wire(path: Path) -> Wire:
    data = path.read_bytes()
    if path.suffix == ".json":
        # One recording of a stream is an array of its chunks.
        return Wire(path.name, data, ((None, json.loads(data)),), stream=path.name == "array.json")
    frames = []
    for frame in re.split(r"\r?\n\r?\n", data.decode()):
        lines = [line for line in re.split(r"\r?\n", frame) if line and not line.startswith(":")]
        name = next((line[6:].strip() for line in lines if line.startswith("event:")), None)
        text = "\n".join(line[5:].removeprefix(" ") for line in lines if line.startswith("data:"))
        if lines:
            frames.append((name, _tree(text)))
    return Wire(path.name, data, tuple(frames), stream=True)


def _tree(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
