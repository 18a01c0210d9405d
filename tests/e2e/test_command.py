"""The command as a person runs it: real processes, real sockets, real signals."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

KEY = "llmp_e2e-0123456789abcdef"
GUARD = 60  # seconds; only against hanging
DEMO_LINE = "From Python:"

SERVED = f"""\
providers:
  simulated: {{delay: 2ms}}
access:
  mode: keys
  keys: [{{name: e2e, key: {KEY}}}]
"""


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("LLMPROXY_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


class Running:
    """A running command; `output` is the text it has printed, as far as it was read."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""
        self.errors = ""

    def read_until(self, pattern: str) -> str:
        """Read its output up to a line that matches; the match's first group."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            found = re.search(pattern, line)
            if found:
                return found[1] if found.groups() else found[0]
        self.errors += self.process.communicate(timeout=GUARD)[1]
        pytest.fail(f"ended with {self.process.returncode}\n{self.output}\n{self.errors}")

    def read_errors_until(self, words: str) -> None:
        """Read what it logs, up to a line that holds some words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line
            if words in line:
                return
        pytest.fail(self.errors)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=GUARD)
        self.output += output
        self.errors += errors
        return self.process.returncode


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "llmproxy_asgi", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmproxy_asgi", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=GUARD, check=False
    )


@pytest.fixture(name="client")
def _client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=GUARD, trust_env=False) as client:
        yield client


@contextmanager
def demo(folder: Path) -> Iterator[tuple[Running, str]]:
    """A running demo that has printed all it prints, and its address."""
    with running(folder, "demo", "--port", "0") as command:
        url = command.read_until(r"page +(http://127\.0\.0\.1:\d+)/ui/")
        command.read_until(r"generate_content")
        yield command, url


def printed_calls(output: str) -> list[tuple[str, bytes]]:
    """The curl lines that were printed, as address and body."""
    calls = []
    for line in output.replace("\\\n", " ").splitlines():
        words = shlex.split(line) if line.strip().startswith("curl ") else []
        if words:
            url = next(word for word in words if word.startswith("http"))
            assert words[words.index("-H") + 1] == "content-type: application/json"
            calls.append((url, words[words.index("-d") + 1].encode()))
    return calls


def test_demo_answers_what_it_prints(tmp_path: Path, client: httpx2.Client) -> None:
    """Every curl line that the demo prints works when it is pasted: Chat, Messages, and a stream."""
    with demo(tmp_path) as (command, _):
        calls = printed_calls(command.output)
        assert len(calls) == 3
        headers = {"content-type": "application/json"}
        chat, messages = [client.post(url, content=body, headers=headers) for url, body in calls[:2]]
        assert chat.json()["choices"][0]["message"]["content"] == "Hello"
        assert messages.json()["content"][0]["text"] == "Hello"
        with client.stream("POST", calls[2][0], content=calls[2][1], headers=headers) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events = [line for line, _ in zip(stream.iter_lines(), range(20), strict=False) if line]
        assert all(event.startswith("data: ") for event in events)
        assert len(events) == 10
        assert command.end() == 0


def test_demo_python_lines_work(tmp_path: Path) -> None:
    """The Python lines that the demo prints work when they are pasted, with all three official SDKs."""
    with demo(tmp_path) as (command, _):
        lines = textwrap.dedent(command.output.partition(DEMO_LINE)[2])
        ended = subprocess.run(
            [sys.executable, "-c", lines], env=environment(), capture_output=True, text=True, timeout=GUARD, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("Hello") == 3


def test_demo_is_for_this_machine_alone(tmp_path: Path, client: httpx2.Client) -> None:
    """A request under another host's name is refused on every path; under this machine's names it is served."""
    with demo(tmp_path) as (_, url):
        port = url.rpartition(":")[2]
        for path in ("/health", "/ui/", "/v1/models", "/nowhere"):
            assert client.get(url + path, headers={"host": f"evil.example:{port}"}).status_code == 403
        assert client.get(f"{url}/health", headers={"host": f"localhost:{port}"}).status_code == 200
        assert client.get(f"{url}/v1/models").json()["data"]
        assert "server" not in client.get(f"{url}/health").headers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_demo_ends_well(tmp_path: Path, number: int, client: httpx2.Client) -> None:
    """Either signal ends the demo with 0, without a traceback, and its port is free."""
    with demo(tmp_path) as (command, url):
        assert client.get(f"{url}/health").status_code == 200
        assert command.end(number) == 0
        assert command.errors == ""
        with pytest.raises(httpx2.ConnectError):
            client.get(f"{url}/health")


@contextmanager
def serving(folder: Path, *arguments: str, config: str = SERVED) -> Iterator[tuple[Running, str]]:
    """A running server and its address, prefix included."""
    (folder / "llmproxy.yaml").write_text(config, encoding="utf-8")
    with running(folder, "serve", "--port", "0", *arguments) as command:
        yield command, command.read_until(r"(http://127\.0\.0\.1:\d+\S*)\.")


def ask(client: httpx2.Client, url: str, *, model: str = "simulated/echo", key: str = KEY) -> httpx2.Response:
    return client.post(
        f"{url}/v1/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": "Hello"}]},
        headers={"authorization": f"Bearer {key}"},
    )


def test_serve(tmp_path: Path, client: httpx2.Client) -> None:
    """A configuration is served only to callers with a key."""
    with serving(tmp_path) as (command, url):
        assert ask(client, url).json()["choices"][0]["message"]["content"] == "Hello"
        assert ask(client, url, key="llmp_wrong").status_code == 401
        assert client.post(f"{url}/v1/chat/completions", json={}).status_code == 401
        assert command.end() == 0
        assert KEY not in command.output + command.errors


def test_serve_below_a_prefix(tmp_path: Path, client: httpx2.Client) -> None:
    """With --prefix the gateway is below it, and nothing is beside it."""
    with serving(tmp_path, "--prefix", "/llm/") as (command, url):
        assert url.endswith("/llm")
        assert ask(client, url).status_code == 200
        assert ask(client, url.removesuffix("/llm")).status_code == 404
        assert command.end() == 0


def test_open_calls_end_before_the_server(tmp_path: Path, client: httpx2.Client) -> None:
    """SIGTERM lets a stream that is open go on to its end, and then the server ends with 0."""
    with serving(tmp_path, "--graceful", "60s") as (command, url):
        body = {"model": "simulated/story", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"authorization": f"Bearer {KEY}"}
        with client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            command.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert len(rest) > 10
        assert command.process.wait(GUARD) == 0


def test_serve_with_several_workers(tmp_path: Path, client: httpx2.Client) -> None:
    """Several processes serve one address, each with the same configuration; SIGTERM ends them all with 0."""
    with serving(tmp_path, "--workers", "2", "--prefix", "/llm") as (command, url):
        answers = [_patiently(client, url) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert command.end() == 0
        with pytest.raises(httpx2.ConnectError):
            ask(client, url)


def _patiently(client: httpx2.Client, url: str) -> httpx2.Response:
    """Ask until the workers listen, which is some time after the address was printed."""
    while True:
        try:
            return ask(client, url)
        except httpx2.ConnectError:
            time.sleep(0.05)


OTHER_KEY = "llmp_e2e-other-0123456789"


def accepts(address: str, key: str) -> bool:
    """Whether some worker takes a key; each question is a connection of its own."""
    headers = {"authorization": f"Bearer {key}"}
    try:
        return httpx2.get(f"{address}/v1/models", headers=headers, timeout=GUARD, trust_env=False).is_success
    except httpx2.ConnectError:
        return False  # no worker listens yet


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()}


def until(happens: Callable[[], bool]) -> None:
    """Wait for something that has to happen."""
    for _ in range(GUARD * 20):
        if happens():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


@pytest.mark.parametrize("workers", [1, 2])
def test_hang_up_takes_up_the_files_and_cuts_no_stream(tmp_path: Path, client: httpx2.Client, workers: int) -> None:
    """At SIGHUP every process serves what its files say now; streams, old and new calls, and the processes go on."""
    with serving(tmp_path, "--workers", str(workers), config=SERVED.replace("2ms", "100ms")) as (command, url):
        until(lambda: all(accepts(url, KEY) for _ in range(2 * workers)))
        workers_before = children(command.process.pid)
        body = {"model": "simulated/story", "stream": True, "messages": [{"role": "user", "content": "go on"}]}
        headers = {"authorization": f"Bearer {KEY}"}
        with client.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as response:
            lines = response.iter_lines()
            next(lines)
            (tmp_path / "llmproxy.yaml").write_text(SERVED.replace(KEY, OTHER_KEY), encoding="utf-8")
            command.process.send_signal(signal.SIGHUP)
            until(lambda: all(accepts(url, OTHER_KEY) for _ in range(10)))
            assert not any(accepts(url, KEY) for _ in range(10))
            assert [line for line in lines if line][-1] == "data: [DONE]"
        (tmp_path / "llmproxy.yaml").write_text("provders: {}\n", encoding="utf-8")
        command.process.send_signal(signal.SIGHUP)
        command.process.send_signal(signal.SIGHUP)
        assert all(accepts(url, OTHER_KEY) for _ in range(10))
        assert children(command.process.pid) == workers_before
        assert command.end() == 0
    assert "provders: unknown key; did you mean 'providers'?" in command.errors


def test_a_worker_that_dies_beside_broken_files_leaves_the_other_serving(tmp_path: Path) -> None:
    """The error is reported once, no worker is started meanwhile, and one is as soon as the files are valid."""
    with serving(tmp_path, "--workers", "2") as (command, url):
        until(lambda: all(accepts(url, KEY) for _ in range(4)))
        before = children(command.process.pid)
        (tmp_path / "llmproxy.yaml").write_text("provders: {}\n", encoding="utf-8")
        victim = max(before)
        os.kill(victim, signal.SIGKILL)
        command.read_errors_until("No worker is started while the configuration is wrong")
        assert all(accepts(url, KEY) for _ in range(10))
        assert children(command.process.pid) == before - {victim}
        (tmp_path / "llmproxy.yaml").write_text(SERVED, encoding="utf-8")
        command.process.send_signal(signal.SIGHUP)
        until(lambda: len(children(command.process.pid)) == len(before))
        assert command.end() == 0
    assert command.errors.count("No worker is started") == 1


def test_hang_up_opens_nothing(tmp_path: Path) -> None:
    """Who may reach the process was decided when it started: `access.mode: open` is not taken up."""
    with serving(tmp_path) as (command, url):
        (tmp_path / "llmproxy.yaml").write_text("providers: {simulated: }\naccess: {mode: open}\n", encoding="utf-8")
        command.process.send_signal(signal.SIGHUP)
        command.read_errors_until("access.mode: cannot become open in a reload")
        assert accepts(url, KEY)
        assert not accepts(url, OTHER_KEY)
        assert command.end() == 0


def test_hang_up_before_it_serves_is_kept(tmp_path: Path) -> None:
    """A signal that comes while the process starts does not end it; it is handled once it serves."""
    with serving(tmp_path) as (command, url):  # printed before the server begins
        command.process.send_signal(signal.SIGHUP)
        command.read_errors_until("Reloaded ")
        assert accepts(url, KEY)
        assert command.end() == 0


def test_access_log_holds_no_key(tmp_path: Path, client: httpx2.Client) -> None:
    """With --access-log each request is logged, with a key in its query masked."""
    with serving(tmp_path, "--access-log") as (command, url):
        client.get(f"{url}/v1/models?key={KEY}&alt=json")
        assert command.end() == 0
        logged = command.output + command.errors
        assert "GET /v1/models?key=***&alt=json" in logged
        assert KEY not in logged


def test_open_access_is_for_this_machine(tmp_path: Path, client: httpx2.Client) -> None:
    """`access.mode: open` is served under this machine's name alone, unless that is insisted on."""
    config = "providers: {simulated: }\naccess: {mode: open}\n"
    evil = {"host": "evil.example"}
    with serving(tmp_path, config=config) as (_, url):
        assert client.get(f"{url}/health").status_code == 200
        assert client.get(f"{url}/health", headers=evil).status_code == 403
    with serving(tmp_path, "--insecure-open", config=config) as (_, url):
        assert client.get(f"{url}/health", headers=evil).status_code == 200


def test_who_can_call_nobody_is_told(tmp_path: Path) -> None:
    """A configuration under which every call is refused is served with a warning."""
    with serving(tmp_path, config="providers: {simulated: }\n") as (command, _):
        assert command.end() == 0
        assert "Every call will be refused" in command.errors


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_port_that_is_taken(tmp_path: Path, command: str) -> None:
    """A port that is in use is an error that says so, without a traceback."""
    (tmp_path / "llmproxy.yaml").write_text(SERVED, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(tmp_path, command, "--port", str(port))
    assert ended.returncode == 1
    assert f"127.0.0.1 port {port} is already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_serve_of_a_broken_configuration(tmp_path: Path) -> None:
    """What is wrong with the configuration is printed line by line, and nothing is served."""
    (tmp_path / "llmproxy.yaml").write_text("providers:\n  openai: {timeuot: 1}\n", encoding="utf-8")
    ended = run(tmp_path, "serve")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "llmproxy.yaml:2: providers.openai.timeuot: unknown key; did you mean 'timeout'?\n"


def test_from_init_to_an_answer(tmp_path: Path, client: httpx2.Client) -> None:
    """What `init` writes is served at once, with the key that is in it."""
    assert run(tmp_path, "init").returncode == 0
    text = (tmp_path / "llmproxy.yaml").read_text(encoding="utf-8")
    key = re.search(r"key: (llmp_\w+)", text)
    assert key is not None
    off = {"enabled": False, "api_key": "unused"}
    extra = {"providers": {"openai": off, "claude": off, "simulated": {}}}
    (tmp_path / "local.json").write_text(json.dumps(extra), encoding="utf-8")
    layers = ["--config", "llmproxy.yaml", "--config", "local.json"]
    with running(tmp_path, "serve", "--port", "0", *layers) as command:
        url = command.read_until(r"(http://127\.0\.0\.1:\d+)")
        assert ask(client, url, key=key[1]).status_code == 200
        assert command.end() == 0


def test_script_is_installed(tmp_path: Path) -> None:
    """`llmproxy` itself is the same command."""
    script = Path(sys.executable).with_name("llmproxy")
    ended = subprocess.run(
        [script, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=GUARD, check=True
    )
    assert ended.stdout == run(tmp_path, "--version").stdout
