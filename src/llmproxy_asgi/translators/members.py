"""JSON objects whose members keep the bytes they came in: for bodies that are passed on but for a member or two."""

import msgspec

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


def raw(value: object) -> msgspec.Raw:
    """A value as a member."""
    return msgspec.Raw(msgspec.json.encode(value))
