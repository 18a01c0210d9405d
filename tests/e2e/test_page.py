"""The page in a real browser, below a mount, over a real server, asking the simulated provider."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from llmproxy_asgi import LLMProxy
from llmproxy_asgi.providers.simulated import names
from llmproxy_asgi.providers.simulated.canned_text import TEXT
from support.browser import Browser, browser, needs_browser
from support.gateway import served

pytestmark = needs_browser

PAYLOAD = """<img src=x onerror="window.hurt=1"><script>window.hurt=2</script><a href="javascript:hurt=3">x</a> **b**"""
TOTAL = "document.querySelectorAll('.total').length"


class Site:
    """A host application with the gateway mounted deep in it, which remembers the headers of each request."""

    def __init__(self) -> None:
        simulated = {"type": "simulated", "delay": "1ms", "retry": {"attempts": 1}}
        config = {"providers": {"simulated": simulated}, "access": {"mode": "open"}, "endpoints": {"ui": True}}
        self.app = Starlette(routes=[Mount("/tools/llm", app=LLMProxy(config))])
        self.seen: list[tuple[str, dict[str, str]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self.seen.append((scope["path"], headers))
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def site() -> Site:
    return Site()


@pytest.fixture(scope="module")
def base(site: Site) -> Iterator[str]:
    with served(site) as origin:
        yield f"{origin}/tools/llm"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(window: Browser, base: str) -> Iterator[Browser]:
    """The page, fresh, with its models listed. At the end the console must not have been told anything unexpected."""
    window.look()
    window.open(f"{base}/ui/")
    window.until("document.querySelectorAll('#model option').length > 1")
    assert window.complaints() == []
    yield window
    unexpected = [line for line in window.complaints() if "the server responded with a status of" not in line]
    assert unexpected == []


def choose(page: Browser, model: str, *, protocol: str = "chat") -> None:
    page.run(
        "const model = document.getElementById('model'); model.value = arguments[0];"
        "model.dispatchEvent(new Event('change'));",
        f"simulated/{model}",
    )
    page.click(f"label[for={protocol}]")


def ask(page: Browser, text: str, *, answers: int = 1) -> None:
    """Send a message, and wait until so many answers more are complete."""
    before = page.run(f"return {TOTAL}")
    page.type("#prompt", text, "enter")
    page.until(f"{TOTAL} === arguments[0]", before + answers)


def last(page: Browser, css: str) -> str:
    return str(page.run("return [...document.querySelectorAll(arguments[0])].at(-1)?.textContent ?? ''", css))


def test_it_lists_the_models(page: Browser) -> None:
    """The picker holds every model that may be used, and room for another name."""
    listed = page.run("return [...document.querySelectorAll('#model option')].map((option) => option.textContent)")
    assert listed == [*(f"simulated/{name}" for name in names()), "Another name…"]


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_words_are_shown_while_the_stream_is_open(page: Browser, protocol: str) -> None:
    """An answer that never ends shows its first words; Escape stops it, and the conversation can go on."""
    choose(page, "stall", protocol=protocol)
    page.type("#prompt", "hello", "enter")
    page.until("document.querySelector('.words')?.textContent === 'One moment please,'")
    assert page.run("return document.getElementById('send').hidden && !document.getElementById('stop').hidden")
    assert page.run(f"return {TOTAL}") == 0
    page.type("#prompt", "escape")
    page.until(f"{TOTAL} === 1")
    assert last(page, ".note") == "Stopped."
    choose(page, "echo", protocol=protocol)
    ask(page, "again")
    assert last(page, ".words") == "again"


def test_the_stop_button_stops(page: Browser) -> None:
    """A click on Stop does what Escape does."""
    choose(page, "stall")
    page.type("#prompt", "hello", "enter")
    page.until("document.querySelector('.words')?.textContent.length > 0")
    page.click("#stop")
    page.until(f"{TOTAL} === 1")
    assert last(page, ".note") == "Stopped."


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_a_whole_answer_has_its_facts(page: Browser, protocol: str) -> None:
    """Words arrive complete, with times, tokens and the request's id."""
    choose(page, "story", protocol=protocol)
    ask(page, "a story please")
    assert last(page, ".words") == TEXT
    assert last(page, ".usage") == f"tokens 3 in, {len(TEXT.split())} out"
    assert last(page, ".first").startswith("first token ")
    assert last(page, ".id").startswith("request req_")
    assert page.text("#said").startswith("Answered in ")


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_markup_is_shown_as_the_text_it_is(page: Browser, protocol: str) -> None:
    """Whatever a model says is text: no element is made of it, and nothing runs."""
    choose(page, "echo", protocol=protocol)
    ask(page, PAYLOAD)
    assert last(page, ".words") == PAYLOAD
    assert last(page, ".mine") == PAYLOAD
    assert page.run("return document.querySelectorAll('.log img, .log a, .log script').length") == 0
    assert page.run("return window.hurt ?? null") is None


def test_the_policy_forbids_what_the_page_does_not_do(window: Browser, base: str) -> None:
    """An inline script that gets into the page all the same does not run."""
    window.open(f"{base}/ui/")
    window.complaints()
    window.run(
        "const script = document.createElement('script'); script.textContent = 'window.hurt = 1';"
        "document.body.append(script);"
    )
    assert window.run("return window.hurt ?? null") is None
    assert any("Content Security Policy" in line for line in window.complaints())


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_reasoning_is_folded_away_and_goes_back_sealed(page: Browser, protocol: str) -> None:
    """Reasoning can be opened, and the next request carries its state."""
    choose(page, "reasoning", protocol=protocol)
    ask(page, "one two")
    assert page.run("return document.querySelector('.thoughts').open") is False
    assert page.text(".thoughts p").startswith("The user wrote 2 words.")
    ask(page, "three")
    assert "1 seal is whole" in last(page, ".words")


@pytest.mark.parametrize("protocol", ["chat", "messages"])
@pytest.mark.parametrize(("model", "calls"), [("tools", 1), ("parallel", 2)])
def test_tool_calls_are_shown_and_answered(page: Browser, protocol: str, model: str, calls: int) -> None:
    """The page runs its made-up tool, shows call and result, and continues the conversation."""
    choose(page, model, protocol=protocol)
    page.click("#offer-tool")
    ask(page, "weather?", answers=2)
    assert page.run("return document.querySelectorAll('.call').length") == calls
    assert page.text(".call b") == "get_weather"
    assert page.text(".call pre") == '{"city":"some city"}'
    assert last(page, ".words") == "\n".join(["get_weather answered: 18 °C and a light wind in some city"] * calls)


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_errors_are_shown_with_status_message_and_id(page: Browser, protocol: str) -> None:
    """A refusal is readable, can be tried again, and does not spoil the conversation."""
    choose(page, "error-400", protocol=protocol)
    ask(page, "hello")
    assert page.text(".failure b") == "Error 400"
    assert page.text(".failure p") == "This model always answers with status 400: the request is wrong."
    assert last(page, ".id").startswith("request req_")
    choose(page, "echo", protocol=protocol)
    page.click(".retry")
    page.until("document.querySelector('.words')?.textContent === 'hello'")
    assert page.run("return document.querySelectorAll('.failure').length") == 0
    assert last(page, ".usage") == "tokens 1 in, 1 out"


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_a_stream_that_breaks_says_so(page: Browser, protocol: str) -> None:
    """Words that came stay, and the failure is shown below them."""
    choose(page, "cut", protocol=protocol)
    ask(page, "hello")
    assert last(page, ".words").startswith("This answer is cut")
    assert page.text(".failure b") == "Error"
    assert page.text("#said").startswith("Failed: ")


def test_keys_send_and_start_lines(page: Browser) -> None:
    """Shift and Enter start a line, Enter sends."""
    choose(page, "echo")
    page.type("#prompt", "one", "shift", "enter", "shift", "two", "enter")
    page.until(f"{TOTAL} === 1")
    assert last(page, ".words") == "one\ntwo"
    assert page.run("return document.getElementById('prompt').value") == ""
    assert page.run("return document.activeElement.id") == "prompt"


def test_the_system_prompt_and_the_limit_are_sent(page: Browser) -> None:
    """What the settings say reaches the model."""
    choose(page, "story")
    page.type("#system", "one two three")
    page.type("#limit", "20")
    ask(page, "go")
    assert last(page, ".usage") == "tokens 4 in, 20 out"
    assert last(page, ".note") == "Cut off: the limit of tokens was reached."


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_a_key_is_sent_and_kept_nowhere(page: Browser, site: Site, protocol: str) -> None:
    """The key goes with the request, and not into storage, cookies or the command that is copied."""
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; };")
    choose(page, "echo", protocol=protocol)
    page.type("#key", "a-key-of-mine")
    ask(page, "it's 5 o'clock")
    _, headers = site.seen[-1]
    assert headers.get("authorization" if protocol == "chat" else "x-api-key", "").endswith("a-key-of-mine")
    assert page.run("return localStorage.length + sessionStorage.length + document.cookie.length") == 0
    page.click(".actions button:last-child")
    assert "a-key-of-mine" not in page.until("window.copied")


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_the_copied_command_asks_the_same(page: Browser, protocol: str) -> None:
    """The command holds the whole request: sent from elsewhere it is answered the same."""
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; };")
    choose(page, "echo", protocol=protocol)
    ask(page, "it's 5 o'clock \\ \"now\"")
    page.click(".actions button:last-child")
    command = shlex.split(page.until("window.copied").replace("\\\n", ""))
    assert command[:2] == ["curl", "-N"]
    url, options = command[2], command[3:]
    assert set(options[::2]) == {"-H", "-d"}
    headers = dict(
        value.split(": ", 1) for flag, value in zip(options[::2], options[1::2], strict=True) if flag == "-H"
    )
    asked: dict[str, Any] = json.loads(options[-1])
    answer = httpx2.post(url, headers=headers, json={**asked, "stream": False, "stream_options": None}, trust_env=False)
    assert answer.status_code == 200
    assert "it's 5 o'clock" in answer.text


def test_new_chat_forgets(page: Browser) -> None:
    """A new conversation begins with the examples, and sends nothing of the old one."""
    choose(page, "echo")
    ask(page, "one two three")
    page.click("#new-chat")
    assert page.run("return document.getElementById('empty').hidden") is False
    ask(page, "four")
    assert last(page, ".usage") == "tokens 1 in, 1 out"


def test_examples_are_asked_with_a_click(page: Browser) -> None:
    """An example chooses its model and sends itself."""
    page.click("#examples button:nth-child(3)")
    page.until(f"{TOTAL} === 2")
    assert last(page, ".words").startswith("get_weather answered")


def test_everything_that_can_be_used_has_a_name(page: Browser) -> None:
    """A screen reader has a word for each control."""
    controls = page.command("POST", "/elements", using="css selector", value="button, input, select, textarea")
    ids = [next(iter(control.values())) for control in controls]
    assert len(ids) > 10
    labels = [page.command("GET", f"/element/{one}/computedlabel") for one in ids]
    hidden = [page.run("return arguments[0].checkVisibility()", control) is False for control in controls]
    assert [label for label, unseen in zip(labels, hidden, strict=True) if not label and not unseen] == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(page: Browser, tmp_path: Path, dark: bool) -> None:
    """Nothing is wider than the screen; settings open with a button and close with the first question."""
    page.look(dark=dark, width=360, height=740, phone=True)
    choose_visible = "return getComputedStyle(document.getElementById('settings')).display"
    assert page.run(choose_visible) == "none"
    page.click("#open-settings")
    assert page.run(choose_visible) == "flex"
    choose(page, "echo")
    ask(page, "a-very-long-word-" * 20)
    assert page.run(choose_visible) == "none"
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(tmp_path / "phone.png")
    assert (tmp_path / "phone.png").stat().st_size > 1000


def test_the_scheme_of_the_system_is_followed(page: Browser) -> None:
    """Dark where the system is dark."""
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.look(dark=True)
    assert page.run(ground) != light
