"""Tools that Anthropic defines and the caller runs; for other vendors they are ordinary functions.

Anthropic's models know the schemas of these tools, so a request declares them by type only. For every other model the
schema is written out. Sources: Anthropic's documentation of the bash, text editor, memory and computer use tools and
the types of anthropic 2.11.0 (`beta_memory_tool_20250818_*_command`, `computer_*_input`), read 2026-12-01. The text
editor inserts `insert_text` since 20250429; older pages are wrong (anthropics/anthropic-sdk-python#1155).
"""

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

import llmproxy_asgi.conversation as ir
from llmproxy_asgi.conversation import JSONObject
from llmproxy_asgi.translators.anthropic_messages.schema import PROTOCOL

_TYPE = re.compile(r"(bash|text_editor|memory|computer)_(\d{8})")
_EDITOR_RENAMED = "20250429"
_MOUSE_ADDED = "20250124"
_ZOOM_ADDED = "20251124"


def decode_tool(native: JSONObject) -> ir.Tool | None:
    """Decode a declaration into a function with its schema; None for a tool of any other type."""
    match = _TYPE.fullmatch(str(native.get("type") or ""))
    if match is None:
        return None
    family, version = match.groups()
    tool = _FAMILIES[family](version, native)
    name = native.get("name")
    if isinstance(name, str) and name:
        tool = msgspec.structs.replace(tool, name=name)
    return msgspec.structs.replace(tool, extras={PROTOCOL: native})


def native_declaration(tool: ir.Tool) -> JSONObject | None:
    """Return the caller's original declaration; None for an ordinary function."""
    own = tool.extras.get(PROTOCOL)
    return own if own is not None and _TYPE.fullmatch(str(own.get("type") or "")) else None


def _text(description: str, *values: str) -> JSONObject:
    return {"type": "string", "description": description, **({"enum": list(values)} if values else {})}


def _integer(description: str) -> JSONObject:
    return {"type": "integer", "description": description}


def _integers(description: str, count: int) -> JSONObject:
    array = {"type": "array", "items": {"type": "integer"}, "minItems": count, "maxItems": count}
    return {**array, "description": description}


def _object(properties: Mapping[str, JSONObject], required: Sequence[str]) -> JSONObject:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def _bash(_version: str, _native: JSONObject) -> ir.Tool:
    return ir.Tool(
        name="bash",
        description=(
            "Run commands in a bash shell that keeps its state between calls: working directory, variables, files. "
            "Give either a command or restart."
        ),
        parameters=_object(
            {
                "command": _text("The bash command to run. Required unless the tool is being restarted."),
                "restart": {"type": "boolean", "description": "True restarts the shell."},
            },
            (),
        ),
    )


def _text_editor(version: str, _native: JSONObject) -> ir.Tool:
    renamed = version >= _EDITOR_RENAMED
    commands = ("view", "create", "str_replace", "insert", *(() if renamed else ("undo_edit",)))
    inserted = "insert_text" if renamed else "new_str"
    properties = {
        "command": _text("The command to run.", *commands),
        "path": _text("Absolute path of the file or directory, such as `/repo/file.py` or `/repo`."),
        "view_range": _integers(
            "For `view` of a file: the first and last line to show, counted from 1; -1 as the last is the file's end.",
            2,
        ),
        "file_text": _text("For `create`: the content of the file."),
        "old_str": _text("For `str_replace`: the text to replace. It must occur exactly once, white space included."),
        "new_str": _text("For `str_replace`: the text to put in its place; left out, the text is deleted."),
        "insert_line": _integer("For `insert`: the line behind which to insert; 0 is the file's beginning."),
    }
    if renamed:
        properties["insert_text"] = _text("For `insert`: the text to insert.")
    return ir.Tool(
        name="str_replace_based_edit_tool" if renamed else "str_replace_editor",
        description=f"View, create and edit text files. `insert` takes its text as `{inserted}`.",
        parameters=_object(properties, ("command", "path")),
    )


def _memory(_version: str, _native: JSONObject) -> ir.Tool:
    commands = ("view", "create", "str_replace", "insert", "delete", "rename")
    return ir.Tool(
        name="memory",
        description=(
            "Keep notes in files under the directory `/memories`, which lasts beyond this conversation. Look there "
            "before you begin, and write down what will be needed later."
        ),
        parameters=_object(
            {
                "command": _text("The command to run.", *commands),
                "path": _text("The file or directory, below `/memories`; for all commands but `rename`."),
                "view_range": _integers("For `view` of a file: the first and last line to show, counted from 1.", 2),
                "file_text": _text("For `create`: the content of the file."),
                "old_str": _text("For `str_replace`: the text to replace."),
                "new_str": _text("For `str_replace`: the text to put in its place."),
                "insert_line": _integer("For `insert`: the line at which to insert."),
                "insert_text": _text("For `insert`: the text to insert."),
                "old_path": _text("For `rename`: the current path."),
                "new_path": _text("For `rename`: the new path."),
            },
            ("command",),
        ),
    )


_ACTIONS = (
    "key",
    "type",
    "mouse_move",
    "left_click",
    "left_click_drag",
    "right_click",
    "middle_click",
    "double_click",
    "screenshot",
    "cursor_position",
)
_ACTIONS_ADDED = ("left_mouse_down", "left_mouse_up", "scroll", "hold_key", "wait", "triple_click")


def _computer(version: str, native: JSONObject) -> ir.Tool:
    extended = version >= _MOUSE_ADDED
    zoom = version >= _ZOOM_ADDED and native.get("enable_zoom") is True
    actions = (*_ACTIONS, *(_ACTIONS_ADDED if extended else ()), *(("zoom",) if zoom else ()))
    properties = {
        "action": _text("What to do. `screenshot` shows the screen; look before and after you act.", *actions),
        "coordinate": _integers("(x, y) in pixels from the screen's left and upper edge.", 2),
        "text": _text(
            "For `type`: the text. For `key` and `hold_key`: the keys, such as `ctrl+s`. For clicks: keys held."
        ),
    }
    if extended:
        properties |= {
            "start_coordinate": _integers("For `left_click_drag`: (x, y) where the drag begins.", 2),
            "scroll_direction": _text("For `scroll`: the direction.", "up", "down", "left", "right"),
            "scroll_amount": _integer("For `scroll`: how many clicks of the wheel."),
            "duration": {"type": "number", "description": "For `wait` and `hold_key`: seconds."},
        }
    if zoom:
        properties["region"] = _integers("For `zoom`: (x0, y0, x1, y1) of the part of the screen to show larger.", 4)
    size = f"{native.get('display_width_px', '?')} x {native.get('display_height_px', '?')}"
    return ir.Tool(
        name="computer",
        description=f"Use a computer by its mouse, keyboard and screen of {size} pixels. The results are screenshots.",
        parameters=_object(properties, ("action",)),
        shows_images=True,
    )


_FAMILIES: Mapping[str, Callable[[str, JSONObject], ir.Tool]] = {
    "bash": _bash,
    "text_editor": _text_editor,
    "memory": _memory,
    "computer": _computer,
}
