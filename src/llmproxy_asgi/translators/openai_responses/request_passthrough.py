"""Pass a Responses request through to a Responses upstream; change only the bytes that must change.

The model's name changes, and `store`: nothing is stored with a credential that several callers share, and nothing
stored there can be referenced. Wrapped reasoning state is unwrapped, or removed if another upstream issued it. If the
gateway stores the response, the state is requested, because a continuation needs it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from llmproxy_asgi.translators import refusals
from llmproxy_asgi.translators.base import InboundRequest, Upstream, UpstreamRequest
from llmproxy_asgi.translators.hosted_tools import refuse_in_passthrough
from llmproxy_asgi.translators.openai.hosted_tools import RESPONSES
from llmproxy_asgi.translators.openai_responses.mappings import STATE, legal_item_id
from llmproxy_asgi.translators.openai_responses.nested_tools import flatten_nested_tools
from llmproxy_asgi.translators.raw_json import join_object, raw
from llmproxy_asgi.translators.seals import WRAPPED, unwrap, usable
from llmproxy_asgi.translators.vendor_references import ReferencePattern, reject_vendor_ids
from llmproxy_asgi.wire.json_body import decode

_STORED = ("previous_response_id", "conversation", "prompt", "background")
"""Fields that reference or create stored objects of the vendor."""
_FILE = "file_ids?|vector_store_ids|container|item_reference|container_id|skill_id|tunnel_id"
_REASONING = re.compile(rb'"reasoning"')
_REFERENCES = {
    "input_image": "file_id",
    "input_file": "file_id",
    "computer_screenshot": "file_id",
    "file_search": "vector_store_ids",
    "container_reference": "container_id",
    "auto": "file_ids",
    "container_auto": "file_ids",
    "skill_reference": "skill_id",
    "mcp": "tunnel_id",
}
"""Types of objects, with the key of their reference; the containers are new ones with files."""
_MODEL_OUTPUT = frozenset({"output_text", "refusal"})
_NOTHING = frozenset({b"null", b"false", b'""'})


def passthrough_request(inbound_request: InboundRequest, upstream: Upstream) -> UpstreamRequest:
    """Encode the passthrough request.

    Raises:
        Unsupported: It references an object that the vendor stores, which several callers would share.
    """
    values = dict(inbound_request.raw)
    if inbound_request.model != upstream.model or "model" not in values:
        values["model"] = raw(upstream.model)
    warnings: list[str] = []
    refuse_in_passthrough(values, upstream.capabilities, RESPONSES)
    flatten_nested_tools(values)
    if not upstream.capabilities.stored:
        _refuse_stored(values)
        if "store" in values and bytes(values["store"]) == b"true":
            warnings.append("dropped:store")
        values["store"] = Raw(b"false")
    if inbound_request.state is not None and inbound_request.state.needs_state and upstream.capabilities.efforts:
        values["include"] = _with_state(values.get("include"))
    given = values.get("input")
    if given is not None and (
        WRAPPED in bytes(given) or (not upstream.capabilities.stored and _REASONING.search(given))
    ):
        values["input"], dropped = _with_native_state(given, upstream)
        if dropped:
            warnings.append("dropped:reasoning")
    return UpstreamRequest(body=join_object(values), stream=inbound_request.stream, warnings=tuple(warnings))


def _refuse_stored(values: Mapping[str, Raw]) -> None:
    for key in _STORED:
        if key in values and bytes(values[key]) not in _NOTHING:
            raise refusals.vendor_reference(key)
    reject_vendor_ids(values, _REFERENCE_PATTERN, within=("input", "tools"))


def _names(found: Mapping[str, Any]) -> Sequence[str] | None:
    """Return the paths of references to stored objects; citations in replayed output are not references."""
    kind = found.get("type")
    if not isinstance(kind, str):
        return ()
    if kind in _MODEL_OUTPUT:
        return None
    if kind == "item_reference":
        return ("",)
    if kind == "code_interpreter":
        return ("container",) if isinstance(found.get("container"), str) and found["container"] else ()
    if kind == "image_generation":
        mask = found.get("input_image_mask")
        return ("input_image_mask.file_id",) if isinstance(mask, dict) and mask.get("file_id") else ()
    key = _REFERENCES.get(kind)
    return (key,) if key is not None and found.get(key) else ()


_REFERENCE_PATTERN = ReferencePattern(
    _FILE, {"type", "container", "input_image_mask", "file_id", *_REFERENCES.values()}, _names
)


def _read(value: Raw) -> Any:
    try:
        return decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # the upstream reports the error


def _with_state(include: Raw | None) -> Raw:
    included = _read(include) if include is not None else None
    if not isinstance(included, list):
        return raw([STATE])
    return raw(included if STATE in included else [*included, STATE])


# ── reasoning state ──────────────────────────────────────────────────────────────────────────────────────────────────


def _with_native_state(given: Raw, upstream: Upstream) -> tuple[Raw, bool]:
    """Unwrap or remove wrapped state in the input items; return the items and whether any was removed.

    The wrapped state of another upstream would be refused. An item after removed reasoning is sent without its id,
    because the vendor would require the reasoning with it.
    """
    items = _read(given)
    if not isinstance(items, list):
        return given, False
    kept: list[Any] = []
    dropped = lost = changed = False
    for item in items:
        if not isinstance(item, dict):
            kept.append(item)
            continue
        native = _native(item, upstream)
        if native is None:
            dropped = lost = True
            continue
        if lost and native.get("type") in {"message", "function_call", "custom_tool_call"}:
            native = {key: value for key, value in native.items() if key != "id"}
        lost = lost and native.get("type") == "reasoning"
        changed = changed or native is not item
        kept.append(native)
    return (raw(kept) if dropped or changed else given), dropped


def _native(item: dict[str, Any], upstream: Upstream) -> dict[str, Any] | None:
    """Return the item in the upstream's own form; None for reasoning of another issuer."""
    if item.get("type") != "reasoning":
        return item
    blob = item.get("encrypted_content")
    if not blob and not item.get("content") and not upstream.capabilities.stored:
        return None  # a reference to stored reasoning; nothing is stored there
    if not isinstance(blob, str):
        return item
    seal = unwrap(blob)
    if seal is None:
        return item
    if seal.kind != "encrypted" or not usable(seal, upstream):
        return None
    own = legal_item_id(seal.item_id, "rs_")
    return {**item, "encrypted_content": seal.data, **({"id": own} if own else {})}
