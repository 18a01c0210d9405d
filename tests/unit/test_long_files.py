"""What the tests say of themselves: which of their files are long."""

from pathlib import Path

from support.long_files import LONG_FILES

ROOT = Path(__file__).parents[2]


def test_long_files_are_there() -> None:
    """Each by its name, once; one that was renamed or split would come last instead of first."""
    assert [file for file in LONG_FILES if not (ROOT / file).is_file()] == []
    assert len(set(LONG_FILES)) == len(LONG_FILES)
