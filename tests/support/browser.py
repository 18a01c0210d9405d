"""A real browser without a window, driven over WebDriver: plain HTTP and JSON, so it needs no package of its own.

Debian has both programs as `chromium` and `chromium-driver`. Where one is missing, tests that need it are skipped and
say so.
"""

import base64
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
HANG = 60.0  # seconds after which waiting for the page is a failure
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's fixed name of an element's id
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,800",
)
KEYS = {"enter": "\ue007", "escape": "\ue00c", "shift": "\ue008", "tab": "\ue004"}

# Where everything is installed for the tests, a missing browser is a failure and no reason to look away.
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and os.environ.get("CI") != "true",
    reason="THE PAGE IS NOT TESTED: apt-get install chromium chromium-driver",
)


class Browser:
    """One window."""

    def __init__(self, client: httpx2.Client, session: str) -> None:
        self._client = client
        self._path = f"/session/{session}"

    def command(self, method: str, path: str, **fields: Any) -> Any:
        """One WebDriver command.

        Raises:
            AssertionError: The browser could not do it.
        """
        answer = self._client.request(method, self._path + path, json=fields if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    def open(self, url: str) -> None:
        """Load a page, and wait for it."""
        self.command("POST", "/url", url=url)

    def run(self, script: str, *args: Any) -> Any:
        """What a function body returns."""
        return self.command("POST", "/execute/sync", script=script, args=list(args))

    def until(self, condition: str, *args: Any) -> Any:
        """Wait for an expression to be true of the page; its value.

        Raises:
            AssertionError: It did not become true.
        """
        deadline = time.monotonic() + HANG
        while time.monotonic() < deadline:
            found = self.run(f"return ({condition})", *args)
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"never true: {condition}\n{self.text('body')}")

    def text(self, css: str) -> str:
        """What is written in the first element of this kind; empty where there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", css))

    def click(self, css: str) -> None:
        """Click on the first element of this kind."""
        self.command("POST", f"/element/{self._find(css)}/click")

    def type(self, css: str, *keys: str) -> None:
        """Press keys while an element has the focus; names of `KEYS` are those keys."""
        text = "".join(KEYS.get(key, key) for key in keys)
        self.command("POST", f"/element/{self._find(css)}/value", text=text)

    def complaints(self) -> list[str]:
        """The console's messages since the last call: errors, warnings, violations of the content policy."""
        return [entry["message"] for entry in self.command("POST", "/se/log", type="browser")]

    def look(self, *, dark: bool = False, width: int = 1200, height: int = 800, phone: bool = False) -> None:
        """Be a screen of another kind."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._devtools("Emulation.setEmulatedMedia", features=features)
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip

    def screenshot(self, path: Path) -> None:
        """Write what is seen, as PNG."""
        path.write_bytes(base64.b64decode(self.command("GET", "/screenshot")))

    def _find(self, css: str) -> str:
        found: dict[str, str] = self.command("POST", "/element", using="css selector", value=css)
        return found[_ELEMENT]

    def _devtools(self, name: str, **params: Any) -> None:
        self.command("POST", "/goog/cdp/execute", cmd=name, params=params)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, which is deleted afterwards."""
    assert DRIVER, "see needs_browser"
    process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        port = next(
            found[1] for line in process.stdout if (found := re.search(r"started successfully on port (\d+)", line))
        )
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=HANG) as client:
            session = _session(client, profile)
            try:
                yield Browser(client, session)
            finally:
                client.delete(f"/session/{session}")
    finally:
        process.terminate()
        process.wait(HANG)
        process.stdout.close()


def _session(client: httpx2.Client, profile: Path) -> str:
    wanted = {
        "browserName": "chrome",
        "goog:chromeOptions": {"binary": CHROMIUM, "args": [*_OPTIONS, f"--user-data-dir={profile}"]},
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    answer = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
    assert "sessionId" in answer, answer
    return str(answer["sessionId"])
