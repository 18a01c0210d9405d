"""Decode a caller's messages."""

from typing import Any, cast

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.translators.fields import Node, missing
from llmproxy_asgi.translators.media import data_url, image_type, standard_base64
from llmproxy_asgi.translators.names import derived
from llmproxy_asgi.translators.openai.mappings import NATIVE_ISSUER, cache_mark, decode_audio
from llmproxy_asgi.translators.openai_chat.mappings import PROTOCOL
from llmproxy_asgi.translators.openai_chat.reasoning import (
    GOOGLE_ISSUER,
    decode_details,
    decode_seal,
    google_signature,
)

_ROLES = ("developer", "system", "user", "assistant", "tool", "function")


def decode_messages(node: Node) -> tuple[ir.Message, ...]:
    """Decode the messages; adjacent tool results become one message."""
    messages: list[ir.Message] = []
    last_call = ""
    entries = node.array()
    if not entries:
        node.fail("must hold at least one message.", code="empty_array")
    for position, entry in enumerate(entries):
        role = entry.need("role").choice(_ROLES)
        if role in {"tool", "function"}:
            result = _result(entry, last_call if role == "function" else None)
            if messages and messages[-1].role == "tool":
                before = messages.pop()
                messages.append(ir.Message(role="tool", parts=(*before.parts, result)))
            else:
                messages.append(ir.Message(role="tool", parts=(result,)))
        elif role == "assistant":
            message, last_call = _assistant(entry, position, last_call)
            messages.append(message)
        else:
            messages.append(_plain(entry, role))
    return tuple(messages)


def _plain(node: Node, role: str) -> ir.Message:
    content = node.need("content")
    name = _name(node)
    if role == "user":
        return ir.Message(role="user", parts=_parts(content), name=name)
    return ir.Message(
        role="system",
        authority="developer" if role == "developer" else "system",
        parts=_parts(content),
        name=name,
    )


def _name(node: Node) -> str | None:
    name = node.get("name")
    return name.text() or None if name else None


# ── assistant and tool messages ──────────────────────────────────────────────────────────────────────────────────────


def _assistant(node: Node, position: int, last_call: str) -> tuple[ir.Message, str]:
    calls_node = node.get("tool_calls")
    calls = [_call(entry) for entry in calls_node.array()] if calls_node else []
    old = node.get("function_call")
    if old is not None:
        last_call = derived("call_", "function_call", str(position))
        arguments = old.get("arguments")
        name = old.need("name").text()
        calls.append(ir.ToolCall(call_id=last_call, name=name, arguments=arguments.text() if arguments else ""))
    reasoning, sealed = _reasoning(node, [call.call_id for call in calls])
    parts: list[ir.Part] = list(reasoning)
    content = node.get("content")
    if content is not None:
        parts += _parts(content)
    refusal = node.get("refusal")
    if refusal is not None and refusal.text():
        parts.append(ir.Refusal(text=refusal.text()))
    audio = node.get("audio")
    if audio is not None:
        parts.append(ir.Opaque(protocol=PROTOCOL, kind="audio", data=dict(audio.object())))
    parts += [_with_seals(call, sealed.get(call.call_id, [])) for call in calls]
    return ir.Message(role="assistant", parts=tuple(parts), name=_name(node)), last_call


def _reasoning(node: Node, call_ids: list[str]) -> tuple[list[ir.Reasoning], dict[str, list[ir.Seal]]]:
    details = node.get("reasoning_details")
    reasoning, sealed = decode_details(details.value if details else None, issuer=NATIVE_ISSUER, call_ids=call_ids)
    if not any(part.text for part in reasoning):
        readable = node.get("reasoning_content") or node.get("reasoning")
        if readable is not None and type(readable.value) is str and readable.value:
            if len(reasoning) == 1 and not reasoning[0].redacted:
                reasoning = [ir.Reasoning(text=readable.value, style=reasoning[0].style, seals=reasoning[0].seals)]
            else:
                reasoning.insert(0, ir.Reasoning(text=readable.value))
    return reasoning, sealed


def _call(node: Node) -> ir.ToolCall:
    call_id = node.need("id")
    if not call_id.text():
        call_id.fail("must not be empty.")
    kind = node.get("type")
    word = kind.choice(("function", "custom")) if kind else "custom" if node.get("custom") else "function"
    if word == "custom":
        custom = node.need("custom")
        given = custom.get("input")
        call = ir.ToolCall(
            call_id=call_id.text(),
            kind="custom",
            name=custom.need("name").text(),
            arguments=given.text() if given else "",
        )
    else:
        function = node.need("function")
        arguments = function.get("arguments")
        call = ir.ToolCall(
            call_id=call_id.text(),
            name=function.need("name").text(),
            arguments=arguments.text() if arguments else "",
        )
    extra = node.get("extra_content")
    blob = google_signature(extra.value) if extra else None
    return _with_seals(call, [decode_seal(blob, issuer=GOOGLE_ISSUER, kind="signature")] if blob else [])


def _with_seals(call: ir.ToolCall, seals: list[ir.Seal]) -> ir.ToolCall:
    """Add seals to a call; of the same state in two fields, the more complete one is kept."""
    if not seals:
        return call
    kept = {(seal.issuer, seal.data): seal for seal in (*call.seals, *seals)}
    return ir.ToolCall(
        call_id=call.call_id, name=call.name, arguments=call.arguments, kind=call.kind, seals=tuple(kept.values())
    )


def _result(node: Node, call_id: str | None) -> ir.ToolResult:
    if call_id is None:
        call_id = node.need("tool_call_id").text()
    content = node.get("content")
    parts = _parts(content) if content else ()
    return ir.ToolResult(
        call_id=call_id,
        content=tuple(part for part in parts if isinstance(part, ir.Text | ir.Media | ir.Opaque)),
        name=_name(node),
    )


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(content: Node) -> tuple[ir.Part, ...]:
    if type(content.value) is str:
        return (ir.Text(text=content.value),)
    if type(content.value) is not list:
        content.refuse("a string or an array of parts")
    return tuple(_part(node) for node in content.array())


def _part(node: Node) -> ir.Part:
    if type(node.value) is str:  # some clients mix bare strings in
        return ir.Text(text=node.value)
    match node.need("type").text():
        case "text" | "input_text" | "output_text":
            return ir.Text(text=node.need("text").text(), cache_mark=cache_mark(node))
        case "image_url":
            return _image(node)
        case "input_audio":
            return decode_audio(node)
        case "file":
            return _file(node)
        case "refusal":
            return ir.Refusal(text=node.need("refusal").text(), cache_mark=cache_mark(node))
        case kind:
            return ir.Opaque(protocol=PROTOCOL, kind=kind, data=dict(node.object()), cache_mark=cache_mark(node))


def _image(node: Node) -> ir.Media:
    image = node.need("image_url")
    flat = type(image.value) is str
    address = image if flat else image.need("url")
    detail = None if flat else image.get("detail")
    media_type, data = data_url(address)
    return ir.Media(
        kind="image",
        source=ir.InlineData(data=data) if data is not None else ir.Link(url=address.text()),
        media_type=image_type(data, media_type) if data is not None else None,
        detail=cast("ir.Detail", detail.choice(("auto", "low", "high", "original"))) if detail else None,
        cache_mark=cache_mark(node),
    )


def _file(node: Node) -> ir.Media:
    file = node.need("file")
    name = file.get("filename")
    known: dict[str, Any] = {
        "kind": "document",
        "name": name.text() if name else None,
        "cache_mark": cache_mark(node),
    }
    stored = file.get("file_id")
    if stored is not None:
        return ir.Media(source=ir.StoredFile(protocol=PROTOCOL, id=stored.text()), **known)
    inline = file.get("file_data")
    if inline is None:
        raise missing(f"{file.path}.file_data")
    media_type, data = data_url(inline)
    if data is None:
        if inline.text().startswith(("http://", "https://")):
            return ir.Media(source=ir.Link(url=inline.text()), media_type="application/pdf", **known)
        media_type, data = "application/pdf", standard_base64(inline.text())
    return ir.Media(source=ir.InlineData(data=data), media_type=media_type or "application/pdf", **known)
