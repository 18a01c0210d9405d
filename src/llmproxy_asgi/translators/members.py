"""JSON objects whose members keep the bytes they came in: for bodies that are passed on but for a member or two."""

import msgspec

from llmproxy_asgi.wire.surrogates import replace_halves

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def split(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The members of an object.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    return _MEMBERS.decode(data)


def joined(values: dict[str, msgspec.Raw]) -> bytes:
    """An object of these members, each with the very bytes it has."""
    return msgspec.json.encode(values)


def renamed(data: bytes, name: str, *, key: str = "model", add: bool = True) -> bytes:
    """An object that says this model's name; all else, and everything if it says so already, as it came.

    Lone halves of surrogate pairs become U+FFFD: no strict reader takes JSON that holds them.

    Args:
        data: The object.
        name: The model's.
        key: The member that holds it.
        add: Whether it is put in where it is not there.

    Raises:
        msgspec.MsgspecError: `data` is no object.
    """
    try:
        members = split(data)
    except msgspec.DecodeError:
        replaced = replace_halves(data)
        if replaced is None:
            raise
        data, members = replaced, split(replaced)
    wanted = raw(name)
    given = members.get(key)
    if (given is None and not add) or (given is not None and bytes(given) == bytes(wanted)):
        return data
    members[key] = wanted
    return joined(members)


def raw(value: object) -> msgspec.Raw:
    """A value as a member."""
    return msgspec.Raw(msgspec.json.encode(value))
