"""What the tests prove, if they pass: noted while pytest collects them, so that nothing need be collected twice."""

import json
import subprocess
import sys

import pytest

from fidelity_checklist.marks import TESTS, proofs
from fidelity_checklist.pairs import Proved, of_items, proved

COLLECTED: pytest.StashKey[Proved] = pytest.StashKey()
"""Set where a run collects all tests."""
_FOUND = "fidelity:"


def note(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember what these tests prove, if they are all there are."""
    if {str(TESTS), TESTS.name} & {argument.rstrip("/") for argument in config.args}:
        config.stash[COLLECTED] = of_items(items)


def collect() -> Proved:
    """Collect those that carry a mark, in a process of their own."""
    files = sorted({str(TESTS / test.partition("::")[0]) for proof in proofs().values() for test in proof.tests})
    command = [sys.executable, "-m", __name__, *files]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=600, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith(_FOUND)), None)
    assert line is not None, done.stdout[-2000:] + done.stderr[-2000:]
    return proved({int(number): ids for number, ids in json.loads(line.removeprefix(_FOUND)).items()})


class _Ids:
    """A pytest plugin that prints the ids by number."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Print them."""
        found: dict[int, list[str]] = {}
        for item in session.items:
            if item.get_closest_marker("xfail") is None:
                for mark in item.iter_markers("fidelity"):
                    for number in mark.args:
                        found.setdefault(number, []).append(item.nodeid)
        print("\n" + _FOUND + json.dumps(found))


if __name__ == "__main__":
    sys.exit(pytest.main(["--collect-only", "-qq", "-m", "fidelity and not verify", *sys.argv[1:]], plugins=[_Ids()]))
