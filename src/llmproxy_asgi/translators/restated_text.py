"""A text that an upstream restates at its end, compared with the streamed text."""


def unstreamed_suffix(whole: str, length: int, last: str) -> str:
    """Return the end of a restated text that was not streamed; empty if the two texts differ.

    Args:
        whole: The restated text.
        length: Code points streamed.
        last: The last streamed delta. Comparing only this delta is cheap, and it tells a continued text from a
            rewritten one.
    """
    return whole[length:] if len(whole) > length and whole.startswith(last, length - len(last)) else ""
