"""Edit members of a JSON object and keep the bytes of all others, for bodies that pass through."""

import msgspec

from llmproxy_asgi.wire.surrogates import replace_halves

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def split_object(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Split an object into its members.

    Raises:
        msgspec.MsgspecError: `data` is not an object.
    """
    return _MEMBERS.decode(data)


def join_object(values: dict[str, msgspec.Raw]) -> bytes:
    """Join members to an object, with their bytes unchanged."""
    return msgspec.json.encode(values)


def replace_model(data: bytes, name: str, *, key: str = "model", add: bool = True) -> bytes:
    """Replace the model's name in an object; other members, or the whole object if it matches, are unchanged.

    Lone surrogates become U+FFFD: strict readers reject JSON with them.

    Args:
        data: The object.
        name: The model's name.
        key: The member that holds it.
        add: Whether to add the member where it is missing.

    Raises:
        msgspec.MsgspecError: `data` is not an object.
    """
    try:
        members = split_object(data)
    except msgspec.DecodeError:
        replaced = replace_halves(data)
        if replaced is None:
            raise
        data, members = replaced, split_object(replaced)
    new = raw(name)
    old = members.get(key)
    if (old is None and not add) or (old is not None and bytes(old) == bytes(new)):
        return data
    members[key] = new
    return join_object(members)


def raw(value: object) -> msgspec.Raw:
    """Encode a value as a member."""
    return msgspec.Raw(msgspec.json.encode(value))
