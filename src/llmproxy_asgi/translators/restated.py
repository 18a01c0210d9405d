"""What an upstream says again as a whole, compared with what it streamed."""


def missing_rest(whole: str, length: int, last: str) -> str:
    """The end of a restated text that was not streamed; empty where the two do not agree.

    Args:
        whole: The text as it was restated.
        length: Code points that were streamed.
        last: The piece that was streamed last. To compare it alone costs nothing per delta and tells a text that
            goes on from one that was written anew.
    """
    return whole[length:] if len(whole) > length and whole.startswith(last, length - len(last)) else ""
