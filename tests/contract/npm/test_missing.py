"""Without node, these tests are left out where a person runs them, and fail where a machine does."""

import shutil

import pytest

from support.npm import require_npm


@pytest.fixture(autouse=True)
def no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)


def test_a_contributor_without_node_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are skipped, and the reason says what is needed."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="node 20 or newer is needed"):
        require_npm()


def test_under_ci_nothing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same is a failure there."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="node 20 or newer is needed"):
        require_npm()
