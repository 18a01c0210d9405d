"""How the limits of `access.default` and those of a key's own block come together."""

from typing import Any

import pytest

from llmproxy_asgi.config.loader import load_config
from llmproxy_asgi.settings import CallLimits

KEY = {"name": "ci", "key": "sk-0123456789abcdef"}


def limits(default: dict[str, Any], own: dict[str, Any]) -> CallLimits | None:
    """What one key is limited to."""
    config = load_config({"access": {"default": default, "keys": [{**KEY, **own}]}}, environment=None)
    return config.access.limited_keys[0].call_limits


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [
        ({}, {}, None),
        ({"max_concurrency": 5}, {}, CallLimits(max_concurrency=5)),
        ({"max_concurrency": 5}, {"max_concurrency": 9}, CallLimits(max_concurrency=9)),
        ({"max_concurrency": 5}, {"requests_per_minute": 60}, CallLimits(((1.0, 60.0),), max_concurrency=5)),
        ({"tokens_per_minute": 10}, {"rate_limit": {"tokens_per_minute": 99}}, CallLimits(tokens_per_minute=99)),
        ({"rate_limit": {"tokens_per_minute": 10}}, {"tokens_per_minute": 99}, CallLimits(tokens_per_minute=99)),
    ],
)
def test_a_key_keeps_its_own_limits_and_takes_the_rest_from_the_default(
    default: dict[str, Any], own: dict[str, Any], expected: CallLimits | None
) -> None:
    """Each limit that a key's block leaves unset is the default's; one that it sets is its own."""
    assert limits(default, own) == expected
