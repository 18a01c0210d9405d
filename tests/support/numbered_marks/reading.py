"""Which tests prove what, found by reading the test files; nothing is imported and nothing is run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parents[2]


@dataclass(slots=True)
class Proofs:
    """The tests that carry one number, as `file::function`."""

    tests: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """Those of them that are expected to fail."""

    @property
    def complete(self) -> bool:
        """Whether there is a proof, and nothing that is known to be missing."""
        return bool(self.tests) and not self.waiting


def proofs(mark: str, tests: Path = TESTS) -> dict[int, Proofs]:
    """The proofs of each number that any test carries under `mark`."""
    found: dict[int, Proofs] = {}
    for path in sorted(tests.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if f"{mark}(" in source:
            for name, function in _functions(ast.parse(source)):
                _note(mark, f"{path.relative_to(tests).as_posix()}::{name}", function, found)
    return found


def _functions(module: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield node.name, _with_lists(node, module)


def _with_lists(
    function: ast.FunctionDef | ast.AsyncFunctionDef, module: ast.Module
) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """The function, its decorators joined by the module's marks and the lists that they name."""
    named = {
        node.id for decorator in function.decorator_list for node in ast.walk(decorator) if isinstance(node, ast.Name)
    }
    for statement in module.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if (named | {"pytestmark"}) & {target.id for target in targets if isinstance(target, ast.Name)}:
                function.decorator_list.append(statement.value)
    return function


def _note(mark: str, test: str, function: ast.FunctionDef | ast.AsyncFunctionDef, found: dict[int, Proofs]) -> None:
    calls = [node for each in function.decorator_list for node in ast.walk(each) if isinstance(node, ast.Call)]
    waiting = any(_mark(call) == "xfail" for call in calls)
    for call in calls:
        if _mark(call) == mark:
            for number in call.args:
                proof = found.setdefault(ast.literal_eval(number), Proofs())
                if test not in proof.tests:
                    proof.tests.append(test)
                    proof.waiting += [test] if waiting else []


def _mark(call: ast.Call) -> str | None:
    """`fault` of `pytest.mark.fault(...)`."""
    name = call.func
    is_mark = isinstance(name, ast.Attribute) and isinstance(name.value, ast.Attribute) and name.value.attr == "mark"
    return name.attr if is_mark and isinstance(name, ast.Attribute) else None
