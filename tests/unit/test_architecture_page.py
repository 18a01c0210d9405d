"""What docs/architecture.md says of the code is there: files, names and the order of layers."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "src" / "llmproxy_asgi"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PLACE = re.compile(r"`([\w/]+(?:\.py|/))(?::([\w.]+))?`")
"""A file or folder, and maybe a name in the file."""
EACH_PROTOCOL = {"families.py"}
"""Named without its folder, because each protocol has one."""


def places(text: str) -> set[tuple[str, str]]:
    return {(path, name) for path, name in PLACE.findall(text) if path not in EACH_PROTOCOL}


def missing(found: set[tuple[str, str]]) -> list[str]:
    """Those of some places that are not there, each with what is wrong."""
    wrong = []
    for path, name in sorted(found):
        file = next((root / path for root in (CORE, ROOT) if (root / path).exists()), None)
        if file is None:
            wrong.append(f"{path}: no such file")
        elif name and not defines(ast.parse(file.read_text(encoding="utf-8")), name):
            wrong.append(f"{path}: no {name}")
    return wrong


def defines(tree: ast.Module, name: str) -> bool:
    """Whether a module defines a dotted name: a function, a class, a method or a constant."""
    body: list[ast.stmt] = tree.body
    for step in name.split("."):
        found = next((one for one in body if step in names(one)), None)
        if found is None:
            return False
        body = found.body if isinstance(found, ast.ClassDef) else []
    return True


def names(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case _:
            return set()


def test_the_places_it_names_exist() -> None:
    """Each file, folder, class and function that the page names is in the repository."""
    found = places(PAGE)
    assert len(found) > 40
    assert missing(found) == []


def test_a_place_that_is_gone_is_found() -> None:
    """A renamed file, class or method is reported."""
    text = "`engine.py:Engine.call` `engine.py:Engine.gone` `engine.py:Gone` `gone.py` `gone/` `translators/`"
    assert missing(places(text)) == [
        "engine.py: no Engine.gone",
        "engine.py: no Gone",
        "gone.py: no such file",
        "gone/: no such file",
    ]


def test_the_layers_are_those_of_the_contract() -> None:
    """The page's table of layers has the rows of the import contract, in its order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE.partition("## Layers")[2].partition("\n## ")[0], re.MULTILINE)
    assert [re.findall(r"\w+", row) for row in rows] == [re.findall(r"\w+", layer) for layer in layers]
