// A chat in plain JavaScript. The browser sends the session cookie by itself, so no key ever reaches this page,
// and whatever the model says is put in by textContent, so that it can never be markup.

const talk = document.getElementById("talk");
const text = document.getElementById("text");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const messages = [];
let running = null;

function show(role, words) {
  const paragraph = document.createElement("p");
  paragraph.className = role;
  paragraph.textContent = words;
  talk.append(paragraph);
  return paragraph;
}

// Server-sent events: lines that begin with "data:", and an empty line behind each event. A line may be cut anywhere.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) {
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  }
}

async function answer(paragraph, signal) {
  const response = await fetch("llm/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "assistant", messages, stream: true }),
    signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    paragraph.textContent += event.choices[0]?.delta?.content ?? "";
    paragraph.scrollIntoView({ block: "end" });
  }
}

async function ask() {
  const words = text.value.trim();
  if (!words || running) return;
  text.value = "";
  show("user", words);
  messages.push({ role: "user", content: words });
  const paragraph = show("assistant", "");
  running = new AbortController();
  send.disabled = !(stop.disabled = false);
  try {
    await answer(paragraph, running.signal);
  } catch (error) {
    if (error.name !== "AbortError") show("error", error.message);
  }
  // What was said before a stop or a failure has been said; without a word the turn is left out.
  if (paragraph.textContent) messages.push({ role: "assistant", content: paragraph.textContent });
  else { messages.pop(); paragraph.remove(); }
  running = null;
  send.disabled = !(stop.disabled = true);
  text.focus();
}

document.getElementById("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
stop.addEventListener("click", () => running?.abort());
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
});
fetch("me").then((response) => response.json()).then((me) => {
  document.getElementById("who").textContent = me.name;
});
