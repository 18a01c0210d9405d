"""Log probabilities: entries beside a message in Chat, and in a text part in Responses."""

from collections.abc import Mapping
from typing import Any

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.raw_json import raw
from llmproxy_asgi.translators.surrogates import each_entry


def encode_logprob(token: ir.TokenLogprob) -> msgspec.Raw:
    """Encode a token with its alternatives, as bytes: an answer of many is encoded in short steps."""
    return raw({**_encode_alternative(token), "top_logprobs": [_encode_alternative(other) for other in token.top]})


def _encode_alternative(token: ir.TokenLogprob) -> dict[str, Any]:
    spelled = token.token_bytes if token.token_bytes is not None else token.token.encode(errors="replace")
    return {"token": token.token, "bytes": list(spelled), "logprob": token.logprob}


def decode_entries(found: Any, *, refusal: bool = False) -> tuple[ir.TokenLogprob, ...]:
    """Decode the tokens of a list or of its bytes; skip unreadable entries."""
    if type(found) is msgspec.Raw:
        found = each_entry(found)
    elif type(found) is not list:
        return ()
    return tuple(token for entry in found if (token := _decode_logprob(entry, refusal=refusal)))


def _decode_logprob(found: Any, *, refusal: bool = False) -> ir.TokenLogprob | None:
    if type(found) is not dict or type(found.get("token")) is not str:
        return None
    value = _number(found, "logprob")
    if value is None:
        return None
    spelled = found.get("bytes")
    plain = type(spelled) is list and all(type(byte) is int and 0 <= byte < 256 for byte in spelled)
    return ir.TokenLogprob(
        token=found["token"],
        logprob=value,
        token_bytes=tuple(spelled) if plain and spelled is not None else None,
        top=decode_entries(found.get("top_logprobs")),
        refusal=refusal,
    )


def _number(found: Mapping[str, Any], key: str) -> float | None:
    value = found.get(key)
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None
