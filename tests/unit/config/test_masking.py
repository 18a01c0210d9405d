"""What a finding may quote: names, and nothing that looks like a key."""

import pytest

from llmproxy_asgi.config.masking import mask


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-AbC012_def-4567",
        "sk-ant-api03-0123456789",
        "llmp_0123456789abcdef",
        "AIzaSyA0123456789abcdefghij",
        "AKIAIOSFODNN7EXAMPLE",
        "gsk_0123456789ab",
        "hf_abcdefghijklm",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "0123456789abcdef0123456789abcdef",
        "Zm9vYmFyYmF6MTIzNDU2Nzg5MA",
        "0b6f7a1e-3c39-4d27-9a53-0b6f7a1e3c39",
        "Bearer whatever",
    ],
)
def test_what_looks_like_a_key_is_masked(key: str) -> None:
    """Wherever it stands in a finding, by its beginning or by its look."""
    assert mask(f"providers.{key}: unknown key {key!r}") == "providers.***: unknown key '***'"


@pytest.mark.parametrize(
    "text",
    [
        "providers.my-vllm: needs a `type`",
        "there is no provider 'claude-opus-4-5-20251101'",
        "models.Qwen2.5-Coder-32B-Instruct.targets[0]: unknown key",
        "models.us.anthropic.claude-3-7-sonnet-20250219-v1:0: unknown key",
        "OPENAI_API_KEY is not set; write ${OPENAI_API_KEY}",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "unknown key 'internationalization'; sk-8",
    ],
)
def test_names_are_not(text: str) -> None:
    """Models, variables and words are what a finding is about."""
    assert mask(text) == text


def test_known_secrets_are_masked_whatever_they_look_like() -> None:
    """The longer one first, where one holds another."""
    assert mask("a correct horse and a horse", ["horse", "correct horse"]) == "a *** and a ***"
