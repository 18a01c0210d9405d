"""The figures of the long form, as a table of `docs/reliability.md`: one row for each area and protocol."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from fuzz.campaign import Result
from support.page_sections import part, with_part

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
PART = "fuzzing"
_HEAD = (
    "| area | protocol | seed | cases | finds | seconds | commit | on |",
    "| --- | --- | --: | --: | --: | --: | --- | --- |",
)


def note(area: str, protocol: str, seed: int, result: Result) -> None:
    """Write the row of an area and a protocol, in the place of the one that was there."""
    page = PAGE.read_text(encoding="utf-8")
    rows = {_key(line): line for line in part(page, PART).splitlines() if line.startswith("| ") and line not in _HEAD}
    on = f"{datetime.now(UTC):%Y-%m-%d}"
    counted = f"{seed} | {result.count} | {len(result.finds)} | {result.seconds:.0f} | {COMMIT} | {on}"
    row = f"| {area} | {protocol} | {counted} |"
    rows[_key(row)] = row
    body = [_versions(), "", *_HEAD, *(rows[key] for key in sorted(rows))]
    PAGE.write_text(with_part(page, PART, "\n".join(body)), encoding="utf-8")


def _key(row: str) -> tuple[str, str]:
    area, protocol = (cell.strip() for cell in row.split("|")[1:3])
    return area, protocol


def _commit() -> str:
    """The commit, and whether there was more than that."""
    git = ["git", "-c", "safe.directory=*"]
    here = Path(__file__).parent
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "../../src"], cwd=here, capture_output=True, check=False)
    return (name.stdout.strip() or "unknown") + ("+" if changed.stdout else "")


def _versions() -> str:
    names = ("aiohttp", "httpx2", "msgspec", "starlette", "uvicorn")
    told = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Last run with Python {platform.python_version()}, {told}. A plus after a commit means uncommitted changes."


COMMIT = _commit()
"""As it was when this was imported: what runs is what was there then."""
