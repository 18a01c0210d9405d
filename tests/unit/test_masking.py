"""What is masked in texts that upstreams sent, what is left, and how much is looked at."""

import pytest

from llmproxy_asgi.masking import MASKED, MAX_TEXT, Mask

MASK = Mask(["xai-bad-key", "sk-proj-abcdefghijklmnop1234", 'a/b+c="d e', "k3y!"], ["internal-route"])


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Incorrect API key provided: xa***ey. See below", "Incorrect API key provided: *** See below"),
        ("key xai-bad-key!", "key ***!"),
        ("cut off: sk-proj-abcde", "cut off: ***"),
        ('odd a/b+c="d e secret', "odd *** secret"),
        ("quoted a%2Fb%2Bc%3D%22d%20e", "quoted ***"),
        ("short k3y! and sk3y!x", "short *** and sk3y!x"),
        ("via internal-route", "via ***"),
        ("Bearer abc123def", "Bearer ***"),
        ("https://u:p@h/x?key=abc&y=1", "https://***@h/x?key=***&y=1"),
        ("project 123456789 of org-AbCdEf123", "project *** of ***"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    """Known secrets whole, cut off or encoded, and what looks like one."""
    assert MASK.text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "API key not valid. Please pass a valid API key.",
        "Bearer authentication required",
        "max_tokens: 4096 must be at most 2048",
        "The model `gpt-5-mini` does not exist",
        "messages.1.content.0.tool_use.id: toolu_01AbCdEfGhIj",
        "claude-opus-4-5-20251101 req_011CSHoEeqs5C35K2UUqR7Fy",
        "task-force risk-free org-wide **bold** 2 * 3 ** 4",
        "Invalid schema for function 'get_weather': user_location",
    ],
)
def test_other_words_are_left(text: str) -> None:
    """Names of fields, models, calls and requests are what callers need."""
    assert MASK.text(text) == text


@pytest.mark.parametrize("text", ["key xai-bad-key", "xa***ey", "Bearer abc123def", "project 123456789"])
def test_masking_twice_changes_nothing(text: str) -> None:
    """What is masked once stays as it is."""
    once = MASK.text(text)
    assert MASK.text(once) == once


def test_every_text_and_key_of_a_value() -> None:
    """However deep, keys too; what nests without end is masked whole, and so is what is too much."""
    value = {"a": [{"sk-abcdefgh": "xai-bad-key"}], "n": 5, "t": True, "z": None}
    assert MASK.value(value) == {"a": [{MASKED: MASKED}], "n": 5, "t": True, "z": None}
    deep: object = "xai-bad-key"
    for _ in range(500):
        deep = [deep]
    assert "xai-bad-key" not in repr(MASK.value(deep))
    assert "xai-bad-key" not in repr(MASK.value(["x" * MAX_TEXT] * 100 + ["xai-bad-key"]))


def test_a_secret_at_the_cut() -> None:
    """A long text is cut, and never in the middle of a secret."""
    for before in range(MAX_TEXT - 12, MAX_TEXT + 1):
        assert "xai-b" not in MASK.text("x " * (before // 2) + " " * (before % 2) + "xai-bad-key and more" * 9)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("Incorrect key: xa***ey", True),
        ("Incorrect key: xai-bad-key", True),
        ("Incorrect key: sk-p...1234", True),
        ("Incorrect key: xa***ex", False),
        ("Incorrect key", False),
    ],
)
def test_a_quoted_credential_is_recognised(text: str, quoted: bool) -> None:
    """Whole or by its ends; but not where the request itself has those words, which is an echo of the caller's."""
    assert MASK.quotes_credential(text, sent=b"{}") is quoted
    assert not MASK.quotes_credential(text, sent=text.encode())


def test_the_work_is_bounded() -> None:
    """However much an upstream says, no more than a few thousand characters of a text are searched and kept."""
    assert len(MASK.text("x" * 10_000_000)) == MAX_TEXT + len("...")
