"""The official npm SDKs as callers, through one node process that reads its calls line by line.

What is driven stands in `tests/contract/npm`. A contributor without node has these tests skipped; where the
environment says `CI` they fail instead, so that a skipped test is not mistaken for success.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

FOLDER = Path(__file__).parents[2] / "contract" / "npm"
MODULES = FOLDER / "node_modules"
OLDEST = 20
"""The oldest major version of node that these tests are run with."""


def require_npm() -> str:
    """Where node is; skips, or fails under CI, when it or the pinned SDKs are missing."""
    missing = _missing()
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    return str(shutil.which("node"))


def _missing() -> str | None:
    node = shutil.which("node")
    if node is None:
        return f"node {OLDEST} or newer is needed to drive the npm SDKs"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        return f"node {OLDEST} or newer is needed to drive the npm SDKs, this is {version}"
    if not (MODULES / ".package-lock.json").is_file():
        return "the npm SDKs are not installed: make npm"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an SDK made of a call: an answer, or an error behind the words it handed out before."""

    answer: dict[str, Any] | None
    error: dict[str, Any] | None
    texts: list[str]
    heard: str
    """The body as it came, if it was listened to."""

    @property
    def whole(self) -> dict[str, Any]:
        """The answer of a call that went well."""
        assert self.answer is not None, self.error
        return self.answer

    @property
    def failure(self) -> dict[str, Any]:
        """The error of one that did not."""
        assert self.error is not None, self.answer
        return self.error


class Node:
    """One node process; a call is one line to it, and its answer the last of the lines that come back."""

    def __init__(self, process: "subprocess.Popen[str]", complaints: Path) -> None:
        self._process = process
        self._complaints = complaints

    def ask(
        self,
        sdk: str,
        base: str,
        request: dict[str, Any],
        *,
        key: str,
        leave: Literal["abort", "break"] | None = None,
        retries: int = 0,
        on_heard: Callable[[str], object] | None = None,
    ) -> Outcome:
        """One streamed call.

        Args:
            sdk: The protocol whose SDK is to make it.
            base: The gateway's address.
            request: The SDK's own arguments.
            key: The caller's key.
            leave: Give the stream up at its first word: by the SDK's own means, or by leaving its loop.
            retries: How often the SDK may try again by itself; Google's does not.
            on_heard: Told the body so far, whenever there is more of it.
        """
        call = {
            "sdk": sdk,
            "base": base,
            "key": key,
            "request": request,
            "leave": leave,
            "listen": on_heard is not None,
        }
        requests, lines = self._process.stdin, self._process.stdout
        assert requests is not None
        assert lines is not None
        requests.write(json.dumps(call) + "\n")
        requests.flush()
        heard = ""
        for line in lines:
            told = json.loads(line)
            if "heard" not in told:
                return Outcome(answer=told.get("answer"), error=told.get("error"), texts=told["texts"], heard=heard)
            heard += told["heard"]
            assert on_heard is not None
            on_heard(heard)
        raise AssertionError(f"node ended: {self._complaints.read_text(encoding='utf-8')}")


@contextmanager
def running_node() -> Iterator[Node]:
    """A process with all SDKs loaded; skips, or fails, as `require_npm` says."""
    node = require_npm()
    with tempfile.TemporaryDirectory() as folder:
        complaints = Path(folder) / "stderr"
        with (
            complaints.open("w", encoding="utf-8") as written,
            subprocess.Popen(
                [node, str(FOLDER / "driver.mjs")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                encoding="utf-8",
                env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            ) as process,
        ):
            yield Node(process, complaints)
