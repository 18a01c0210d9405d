"""Wires with something wrong: events mutated as trees, out of order, framed oddly, or spoiled as bytes."""

import json
import random
from typing import Any

from fuzz import mutate, seeds
from fuzz.mutate import dump, mutated
from fuzz.seeds import GEMINI, Wire

Frames = list[tuple[str | None, Any]]

ERRORS: dict[str, tuple[Any, ...]] = {
    seeds.CHAT: (
        {"error": {"message": "Slow down.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}},
        {"error": {"message": "Too long.", "type": "invalid_request_error", "code": "context_length_exceeded"}},
        {"error": "flat", "status": 500},
    ),
    seeds.RESPONSES: (
        {"error": {"message": "No.", "type": "invalid_request_error", "param": "input[0]", "code": None}},
        {"error": {"message": "Quota.", "type": "insufficient_quota", "code": "insufficient_quota"}},
    ),
    seeds.MESSAGES: (
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"},
        {"type": "error", "error": {"type": "invalid_request_error", "message": "messages.0: no"}},
    ),
    seeds.GEMINI: (
        {
            "error": {
                "code": 429,
                "message": "Wait.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"},
                    {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "PerDay"}]},
                ],
            }
        },
        [{"error": {"code": 400, "message": "No.", "status": "INVALID_ARGUMENT"}}],
    ),
}
"""What upstreams say when they refuse."""


def spoiled_stream(protocol: str, rng: random.Random) -> bytes:
    """A stream of this upstream's, with something wrong."""
    wire = rng.choice(seeds.streams(protocol))
    if wire.name == "array.json":
        tree = wire.frames[0][1]
        data = dump(mutated(tree, rng, seeds.wire_material()) if rng.random() < 0.8 else tree, rng)
    else:
        data = _written(_reordered(_changed(wire, rng), protocol, rng), protocol, rng)
    return mutate.bytes_mutated(data, rng, seeds.blobs()) if rng.random() < 0.25 else data


def spoiled_answer(protocol: str, rng: random.Random) -> bytes:
    """A whole answer of this upstream's, with something wrong."""
    tree = rng.choice(seeds.answers(protocol)).frames[0][1]
    return _spoiled_tree(tree, rng)


def spoiled_error(protocol: str, rng: random.Random) -> bytes:
    """A refusal of this upstream's, with something wrong."""
    kind = protocol if rng.random() < 0.8 else rng.choice(seeds.UPSTREAMS)
    return _spoiled_tree(rng.choice(ERRORS[kind]), rng)


def _spoiled_tree(tree: Any, rng: random.Random) -> bytes:
    data = dump(mutated([tree], rng, seeds.wire_material()), rng)[1:-1] if rng.random() < 0.9 else dump(tree, rng)
    return mutate.bytes_mutated(data, rng, seeds.blobs()) if rng.random() < 0.25 else data


def _changed(wire: Wire, rng: random.Random) -> Frames:
    """Some of its events, each with a few mutations."""
    found = list(wire.frames)
    if rng.random() < 0.2:
        return found
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(found))
        name, tree = found[at]
        if isinstance(tree, dict):
            found[at] = (name, mutated(tree, rng, seeds.wire_material(), most=3))
        elif rng.random() < 0.1:
            found[at] = (name, rng.choice(mutate.EXTREMES))
    return found


def _reordered(found: Frames, protocol: str, rng: random.Random) -> Frames:
    for _ in range(rng.choice((0, 0, 0, 1, 1, 3))):
        at = rng.randrange(len(found)) if found else 0
        match rng.randrange(9):
            case 0 | 1 if found:
                del found[at]
            case 2 if found:
                found.insert(rng.randrange(len(found) + 1), found[at])
            case 3 if found:
                found[at:at] = found[at : at + 1] * rng.choice((2, 50))
            case 4 if found:
                found.insert(rng.randrange(len(found)), found.pop(at))
            case 5:
                other = rng.choice(seeds.streams(protocol if rng.random() < 0.7 else rng.choice(seeds.UPSTREAMS)))
                found.insert(at, rng.choice(other.frames))
            case 6:
                del found[at:]
            case 7:
                found.insert(at, (rng.choice((None, "error", "ping")), rng.choice(ERRORS[protocol])))
            case _ if found:
                name, tree = found[at]
                found[at] = (rng.choice((None, "error", "message_stop", "x", "", "\0", name)), tree)
            case _:
                pass
    return found


def _written(found: Frames, protocol: str, rng: random.Random) -> bytes:
    """Framed as the protocol does, or in another way that the standard of event streams knows."""
    end = rng.choice(("\n", "\n", "\n", "\r\n", "\r")) if protocol != GEMINI or rng.random() < 0.5 else "\r\n"
    gap = "" if rng.random() < 0.1 else " "
    odd = rng.random() < 0.15
    pieces = ["\ufeff" if rng.random() < 0.02 else ""]
    for name, tree in found:
        if odd and rng.random() < 0.3:
            pieces.append(
                rng.choice((f": hi{end}", f"id: 1\0{end}", f"retry: 5{end}", f"data{end}", end, f"x: y{end}"))
            )
        if name is not None:
            pieces.append(f"event:{gap}{name}{end}")
        text = tree if isinstance(tree, str) and "\0" not in tree else dump(tree).decode("utf-8", "surrogatepass")
        if odd and rng.random() < 0.3:
            text = _spread(text, end, gap)
        pieces.append(f"data:{gap}{text}{end}{end}")
    written = "".join(pieces)
    if rng.random() < 0.05:
        written = written.rstrip("\r\n")
    return written.encode("utf-8", "surrogatepass")


def _spread(text: str, end: str, gap: str) -> str:
    """JSON over several data lines."""
    try:
        spread = json.dumps(json.loads(text), indent=0)
    except (ValueError, RecursionError):
        return text
    return f"{end}data:{gap}".join(spread.split("\n"))
