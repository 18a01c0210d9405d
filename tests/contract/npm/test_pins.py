"""What is committed of npm: exact pins, and no address to fetch them from."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_the_lock_says_what_and_not_where() -> None:
    """Every package has its version and its hash, and none the address of a registry."""
    packages = {name: package for name, package in read("package-lock.json")["packages"].items() if name}
    assert packages
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if not {"version", "integrity"} <= package.keys()] == []


def test_the_lock_holds_what_the_package_asks_for() -> None:
    """Each SDK is pinned to one version, and the lock has that very one."""
    wanted = read("package.json")["dependencies"]
    locked = read("package-lock.json")["packages"]
    assert sorted(wanted) == ["@anthropic-ai/sdk", "@google/genai", "openai"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
