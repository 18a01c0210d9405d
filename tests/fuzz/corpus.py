"""The finds, as files: each is a case that once broke a promise, as it was, and is played for ever.

A file tells its area, its protocols and its bytes, so that mutations may change without it. `record` writes one from
a case, `load` reads it back.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz.campaign import Case
from fuzz.harness import Asked, FuzzHarness
from fuzz.header_cases import HeaderCase, play_header
from fuzz.request_cases import RequestCase, play_request
from fuzz.stream_cases import StreamCase, play_stream
from fuzz.wire_cases import WireCase, play_wire

HERE = Path(__file__).parent / "corpus"

AnyCase = RequestCase | HeaderCase | StreamCase | WireCase


def files() -> list[Path]:
    """Every find."""
    return sorted(HERE.glob("*/*.json"))


def record(case: AnyCase, name: str, *, why: str) -> Path:
    """Write a find down; `why`: what was wrong, in a few words."""
    area, tree = _tree(case)
    path = HERE / area / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"why": why, **tree}, indent=1) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> Case:
    """A find, ready to be played; upstreams answer it with every wire of theirs, where it does not say with which."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    match path.parent.name:
        case "requests":
            return _request(tree)
        case "headers":
            head = HeaderCase(tree["protocol"], _asked(tree))
            return Case(head.show, lambda harness: play_header(head, harness, harness.upstream.rng))
        case "streams":
            return _stream(tree)
        case area:
            assert area == "wires", f"no area: {area}"
            return _wire(tree)


def _request(tree: Any) -> Case:
    case = RequestCase(tree["protocol"], _asked(tree), tree["method"], tree["array"])

    async def play(harness: FuzzHarness) -> None:
        for _ in range(12):  # each time another wire is answered
            await play_request(case, harness, harness.upstream.rng)

    return Case(case.show, play)


def _stream(tree: Any) -> Case:
    del tree["why"]
    case = StreamCase(**{**tree, "pieces": _bytes(tree["pieces"]), "headers": tree["headers"] or {}})

    async def play(_: FuzzHarness) -> None:
        play_stream(case)

    return Case(case.show, play)


def _wire(tree: Any) -> Case:
    status, headers, pieces = tree["reply"]
    request = RequestCase(tree["protocol"], _asked(tree), tree["method"], tree["array"])
    case = WireCase(request, (status, [(name, value) for name, value in headers], _bytes(pieces)))
    return Case(case.show, lambda harness: play_wire(case, harness))


def _tree(case: AnyCase) -> tuple[str, dict[str, Any]]:
    match case:
        case RequestCase(protocol, asked, method, array):
            return "requests", {"protocol": protocol, "method": method, "array": array, **_written(asked)}
        case HeaderCase(protocol, asked):
            return "headers", {"protocol": protocol, **_written(asked)}
        case StreamCase():
            return "streams", {**case._asdict(), "pieces": _texts(case.pieces)}
        case WireCase(request, (status, headers, pieces)):
            _, tree = _tree(request)
            return "wires", {**tree, "reply": [status, list(headers), _texts(pieces)]}


def _written(asked: Asked) -> dict[str, Any]:
    return {
        "verb": asked.method,
        "path": asked.path,
        "query": asked.query.decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in asked.headers],
        "pieces": _texts(asked.pieces),
        "leaves": asked.leaves,
    }


def _asked(tree: Any) -> Asked:
    return Asked(
        method=tree["verb"],
        path=tree["path"],
        query=tree["query"].encode("latin-1"),
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in tree["headers"]],
        pieces=_bytes(tree["pieces"]),
        leaves=tree["leaves"],
    )


def _texts(pieces: Sequence[bytes]) -> list[Any]:
    """Text where it is ASCII, for those who read it; anything else in base64, in a list of its own."""
    return [piece.decode() if piece.isascii() else [base64.b64encode(piece).decode()] for piece in pieces]


def _bytes(pieces: Sequence[Any]) -> list[bytes]:
    return [piece.encode() if isinstance(piece, str) else base64.b64decode(piece[0]) for piece in pieces]
