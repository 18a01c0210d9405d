"""What README.md and docs/ show is what Python, YAML, TOML and JSON accept."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from support.doc_blocks import Block, UnclosedFenceError, blocks, offline

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
READERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
}


def shown(language: str, *, flag: str | None = None) -> list[object]:
    return [
        pytest.param(page, block, id=f"{page.relative_to(ROOT)}:{block.line}")
        for page in PAGES
        for block in blocks(page, language)
        if flag is None or flag in block.flags
    ]


def run_offline(source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(offline.__file__), str(source)],
        cwd=source.parent,
        capture_output=True,
        text=True,
        timeout=120,  # a guard against hanging only
        check=False,
    )


@pytest.mark.parametrize(("page", "block"), shown("python"))
def test_python_block_compiles(page: Path, block: Block) -> None:
    """Every Python block is valid syntax, where `await` may stand outside a function."""
    at_its_line = "\n" * (block.line - 1) + block.text
    compile(at_its_line, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


@pytest.mark.parametrize(("page", "block"), shown("python", flag="run"))
def test_python_block_marked_run_succeeds(page: Path, block: Block, tmp_path: Path) -> None:
    """A Python block marked `run` ends without an error, without a network and without the checkout's folder."""
    source = tmp_path / "example.py"
    source.write_text(block.text, encoding="utf-8")
    ended = run_offline(source)
    assert ended.returncode == 0, f"{page.name}:{block.line}\n{ended.stdout}{ended.stderr}"


@pytest.mark.parametrize(("language", "read"), READERS.items(), ids=list(READERS))
def test_data_block_is_readable(language: str, read: Callable[[str], object]) -> None:
    """Every JSON, TOML and YAML block can be read."""
    broken = []
    for page in PAGES:
        for block in blocks(page, language):
            try:
                read(block.text)
            except (ValueError, yaml.YAMLError) as error:
                broken.append(f"{page.relative_to(ROOT)}:{block.line}: {error}")
    assert broken == []


LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINKED = [
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "integrations/README.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> list[str]:
    """The links of a page to files and headings that are not there."""
    dead = []
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not re.match(r"\w+:", link) and not (target.exists() and (not anchor or anchor in anchors(target))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link leads to a file and, with an anchor, to a heading of it."""
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    """A link to a missing file or heading is reported; web addresses and code are not looked at."""
    text = "# A `b` c\n[](#a-b-c) [](#a) [](page.md#a-b-c) [](gone.md) [](https://host/gone)\n```text\n[](gone)\n```\n"
    assert dead_links(write_page(tmp_path, text)) == ["#a", "gone.md"]


def write_page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_know_their_text_info_and_line(tmp_path: Path) -> None:
    """A block is found with its text, its info and the line on which its text begins."""
    page = write_page(tmp_path, "# Title\n\n```python run\na = 1\n\nb = 2\n```\n\n~~~\nplain\n~~~\n")
    assert blocks(page) == [
        Block(text="a = 1\n\nb = 2\n", info="python run", line=4),
        Block(text="plain\n", info="", line=10),
    ]
    assert [block.flags for block in blocks(page)] == [{"run"}, set()]


def test_blocks_of_one_language(tmp_path: Path) -> None:
    """Naming a language, in any case, leaves out all others."""
    page = write_page(tmp_path, "```bash\nls\n```\n```YAML\na: 1\n```\n")
    assert [block.text for block in blocks(page, "yaml")] == ["a: 1\n"]
    assert [block.text for block in blocks(page, "Bash")] == ["ls\n"]


def test_blocks_inside_a_list_lose_their_indentation(tmp_path: Path) -> None:
    """A block that is indented as part of a list is read as if it stood at the margin."""
    page = write_page(tmp_path, "- item:\n\n  ```python\n  if a:\n      b()\n  ```\n")
    assert [block.text for block in blocks(page)] == ["if a:\n    b()\n"]


def test_longer_fence_holds_shorter_ones(tmp_path: Path) -> None:
    """A fence is closed by one of its own character that is at least as long."""
    page = write_page(tmp_path, "````markdown\n```python\na\n```\n~~~~\n````\n")
    assert [block.text for block in blocks(page)] == ["```python\na\n```\n~~~~\n"]


def test_fence_within_a_sentence_opens_nothing(tmp_path: Path) -> None:
    """Three backticks that are closed on their own line are code within a sentence."""
    assert blocks(write_page(tmp_path, "```code``` and more\n")) == []


def test_unclosed_block_is_an_error(tmp_path: Path) -> None:
    """A forgotten closing fence is reported with its file and line."""
    with pytest.raises(UnclosedFenceError, match=r"page\.md:3"):
        blocks(write_page(tmp_path, "a\n\n```python\na = 1\n"))


@pytest.mark.parametrize(
    "source",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import socket; socket.getaddrinfo('upstream.invalid', 443)",
        "import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
    ],
    ids=["connect", "look-up", "asyncio"],
)
def test_offline_script_reaches_no_other_machine(source: str, tmp_path: Path) -> None:
    """A script run offline fails when it asks for another machine."""
    script = tmp_path / "script.py"
    script.write_text(source, encoding="utf-8")
    ended = run_offline(script)
    assert ended.returncode == 1
    assert "examples run without a network" in ended.stderr


def test_offline_script_reaches_this_machine(tmp_path: Path) -> None:
    """A script run offline may serve and call the loopback address."""
    script = tmp_path / "script.py"
    script.write_text(
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    socket.create_connection(('localhost', server.getsockname()[1])).close()\n",
        encoding="utf-8",
    )
    ended = run_offline(script)
    assert ended.returncode == 0, ended.stderr
