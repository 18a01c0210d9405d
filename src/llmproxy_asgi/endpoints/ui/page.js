// A conversation with whatever the gateway serves. Addresses are relative, so it works below any mount.
// Everything a model says is shown as plain text: no markup, no links, no pictures. The key never leaves memory.

const $ = (id) => document.getElementById(id);
const MOST_STEPS = 5; // answers in a row while a model keeps calling the tool
const MESSAGES_LIMIT = 4096; // that protocol demands a number
const OTHER = "\u0000other";

const WEATHER = { name: "get_weather", description: "The weather in a city, now." };
const WEATHER_TAKES = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };

const EXAMPLES = [
  { title: "A long answer", prompt: "Tell me a story.", model: "simulated/story" },
  { title: "Thinking first", prompt: "Is a hot dog a sandwich?", model: "simulated/reasoning" },
  { title: "A tool call", prompt: "What is the weather like in Lisbon?", model: "simulated/tools", tool: true },
  { title: "A busy upstream", prompt: "Are you there?", model: "simulated/error-429" },
];

const turns = []; // {role: "user", text} | {role: "assistant", text, calls, state} | {role: "tool", results}
let running = null; // the AbortController of the answer that is coming

// ── small things ────────────────────────────────────────────────────────────────────────────────────────────────────

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function button(label, onClick) {
  return Object.assign(make("button", "", label), { type: "button", onclick: onClick });
}

const announce = (text) => { $("said").textContent = text; };
const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const address = (path) => new URL(path, document.baseURI).href;
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const parsed = (text) => { try { return JSON.parse(text); } catch { return null; } };

async function copy(text, element) {
  const label = element.dataset.label ??= element.textContent;
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  if (!copied) { window.prompt("Copy this:", text); return; } // pages without TLS have no clipboard
  element.textContent = "Copied";
  setTimeout(() => { element.textContent = label; }, 1200);
}

class Failure extends Error {
  constructor(message, status = 0) { super(message); this.status = status; }
}

// ── server-sent events ──────────────────────────────────────────────────────────────────────────────────────────────

async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", name = "", data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // an event without the empty line after it does not count
      rest += value;
      // A carriage return at the very end may be half a line end: it waits for what follows.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { name, data: data.join("\n") };
          name = "";
          data = [];
        } else {
          const colon = line.indexOf(":");
          const field = colon < 0 ? line : line.slice(0, colon);
          const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
          if (field === "data") data.push(text);
          else if (field === "event") name = text;
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// ── the protocols: what a conversation looks like on the wire, and what a frame of an answer means ──────────────────

const chat = {
  name: "Chat",
  path: "../v1/chat/completions",
  headers: (key) => (key ? { authorization: `Bearer ${key}` } : {}),
  keyHeader: "authorization: Bearer $LLMPROXY_KEY",

  body({ model, system, limit, tool }) {
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const turn of turns) {
      if (turn.role === "user") messages.push({ role: "user", content: turn.text });
      else if (turn.role === "tool") {
        for (const result of turn.results) messages.push({ role: "tool", tool_call_id: result.id, content: result.text });
      } else {
        const message = { role: "assistant", content: turn.text || null };
        if (turn.state?.protocol === chat) message.reasoning_details = turn.state.details;
        if (turn.calls.length) {
          message.tool_calls = turn.calls.map(({ id, name, text }) => (
            { id, type: "function", function: { name, arguments: text } }));
        }
        messages.push(message);
      }
    }
    const body = { model, messages, stream: true, stream_options: { include_usage: true } };
    if (limit) body.max_completion_tokens = limit;
    if (tool) body.tools = [{ type: "function", function: { ...WEATHER, parameters: WEATHER_TAKES } }];
    return body;
  },

  read({ data }, answer) {
    answer.ended = data === "[DONE]";
    if (answer.ended) return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Failure(chunk.error.message ?? "The stream broke.");
    if (chunk.usage) {
      answer.count({
        input: chunk.usage.prompt_tokens,
        output: chunk.usage.completion_tokens,
        reasoning: chunk.usage.completion_tokens_details?.reasoning_tokens,
      });
    }
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const delta = choice.delta ?? {};
    if (delta.reasoning_content) answer.think(delta.reasoning_content);
    for (const entry of delta.reasoning_details ?? []) chat.keep(entry, answer);
    if (delta.content) answer.say(delta.content);
    if (delta.refusal) answer.say(delta.refusal, true);
    for (const piece of delta.tool_calls ?? []) {
      answer.call(piece.index, piece.id, piece.function?.name, piece.function?.arguments ?? "");
    }
    if (choice.finish_reason) answer.finish = choice.finish_reason;
  },

  keep(entry, answer) { // pieces of one entry are joined; its seal comes whole
    answer.state ??= { protocol: chat, details: [] };
    const details = answer.state.details;
    const known = details.find((other) => other.index === entry.index);
    if (!known) details.push({ ...entry });
    else Object.assign(known, entry, { text: (known.text ?? "") + (entry.text ?? "") });
  },
};

const messages = {
  name: "Messages",
  path: "../v1/messages",
  headers: (key) => ({ "anthropic-version": "2023-06-01", ...(key ? { "x-api-key": key } : {}) }),
  keyHeader: "x-api-key: $LLMPROXY_KEY",

  body({ model, system, limit, tool }) {
    const history = turns.map((turn) => {
      if (turn.role === "user") return { role: "user", content: turn.text };
      if (turn.role === "tool") {
        return { role: "user", content: turn.results.map(({ id, text }) => (
          { type: "tool_result", tool_use_id: id, content: text })) };
      }
      const content = turn.state?.protocol === messages ? [...turn.state.blocks] : [];
      if (turn.text) content.push({ type: "text", text: turn.text });
      for (const { id, name, text } of turn.calls) content.push({ type: "tool_use", id, name, input: parsed(text) ?? {} });
      return { role: "assistant", content };
    });
    const body = { model, max_tokens: limit || MESSAGES_LIMIT, messages: history, stream: true };
    if (system) body.system = system;
    if (tool) body.tools = [{ ...WEATHER, input_schema: WEATHER_TAKES }];
    return body;
  },

  read({ data }, answer) {
    const event = JSON.parse(data);
    const block = event.content_block ?? {};
    const delta = event.delta ?? {};
    switch (event.type) {
      case "message_start": answer.count(messages.usage(event.message.usage)); break;
      case "content_block_start":
        if (block.type === "tool_use") answer.call(event.index, block.id, block.name, "");
        if (block.type === "text" && block.text) answer.say(block.text);
        if (block.type.endsWith("thinking")) {
          answer.state ??= { protocol: messages, blocks: [] };
          answer.state.blocks.push({ ...block });
        }
        break;
      case "content_block_delta":
        if (delta.type === "text_delta") answer.say(delta.text);
        if (delta.type === "input_json_delta") answer.call(event.index, null, null, delta.partial_json);
        if (delta.type === "signature_delta") answer.state.blocks.at(-1).signature = delta.signature;
        if (delta.type === "thinking_delta") {
          answer.state.blocks.at(-1).thinking += delta.thinking;
          answer.think(delta.thinking);
        }
        break;
      case "message_delta":
        if (delta.stop_reason) answer.finish = delta.stop_reason;
        answer.count(messages.usage(event.usage));
        break;
      case "message_stop": answer.ended = true; break;
      case "error": throw new Failure(event.error?.message ?? "The stream broke.");
      default: // pings, and what came after this page was written
    }
  },

  usage(usage = {}) {
    const cached = (usage.cache_read_input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0);
    return {
      input: usage.input_tokens === undefined ? undefined : usage.input_tokens + cached,
      output: usage.output_tokens,
      reasoning: usage.output_tokens_details?.thinking_tokens,
    };
  },
};

// ── an answer: what came so far, and how it is shown ────────────────────────────────────────────────────────────────

class Answer {
  text = "";
  finish = "";
  ended = false;
  calls = new Map();
  state = null;
  usage = {};

  constructor(curl) {
    this.began = performance.now();
    this.words = document.createTextNode("");
    this.body = make("div", "words", this.words);
    this.facts = make("p", "facts");
    this.actions = make("div", "actions");
    this.root = make("article", "answer waiting", this.body, this.facts, this.actions);
    this.root.setAttribute("aria-label", "Answer");
    this.curl = curl;
    $("log").append(this.root);
  }

  head(response) {
    this.requestId = response.headers.get("x-request-id");
    this.upstream = response.headers.get("x-llmproxy-model");
    const warnings = response.headers.get("x-llmproxy-warnings");
    if (warnings) this.note(`Changed on the way: ${warnings}`);
  }

  noteFirst() { this.first ??= performance.now() - this.began; }

  say(text, isRefusal = false) {
    this.noteFirst();
    this.text += text;
    this.words.appendData(text);
    if (isRefusal) this.refused = true;
  }

  think(text) {
    this.noteFirst();
    if (!this.thoughts) {
      this.thoughts = document.createTextNode("");
      const details = make("details", "thoughts", make("summary", "", "Reasoning"), make("p", "", this.thoughts));
      this.root.insertBefore(details, this.body);
    }
    this.thoughts.appendData(text);
  }

  call(index, id, name, piece) {
    this.noteFirst();
    let call = this.calls.get(index);
    if (!call) {
      call = { id, name, text: "", shown: document.createTextNode("") };
      call.card = make("div", "call", make("span", "label", "calls"), make("b", "", name), make("pre", "", call.shown));
      this.root.insertBefore(call.card, this.facts);
      this.calls.set(index, call);
    }
    call.text += piece;
    call.shown.appendData(piece);
  }

  count(usage) { for (const key in usage) this.usage[key] = usage[key] ?? this.usage[key]; }

  note(text) { this.root.insertBefore(make("p", "note", text), this.facts); }

  fail(error, retry) {
    const title = error.status ? `Error ${error.status}` : "Error";
    this.root.insertBefore(make("div", "failure", make("b", "", title), make("p", "", error.message)), this.facts);
    this.actions.append(button("Try again", () => { this.root.remove(); retry(); }));
    this.actions.lastChild.className = "retry";
  }

  fact(label, value, className = "") {
    if (value === undefined || value === null || value === "") return;
    this.facts.append(make("span", className, label ? `${label} ` : "", make("b", "", String(value))));
  }

  settle(settings) {
    this.root.classList.remove("waiting");
    if (this.refused || this.finish === "refusal") this.note("The model declined.");
    else if (/length|max_tokens/.test(this.finish)) this.note("Cut off: the limit of tokens was reached.");
    this.fact("", `${settings.model} · ${settings.protocol.name}`);
    if (this.upstream && !settings.model.endsWith(this.upstream)) this.fact("served by", this.upstream);
    if (this.first !== undefined) this.fact("first token", duration(this.first), "first");
    this.fact("total", duration(performance.now() - this.began), "total");
    const { input, output, reasoning } = this.usage;
    if (this.ended && output !== undefined) this.fact("tokens", `${input ?? "?"} in, ${output} out`, "usage");
    if (reasoning) this.fact("reasoning", reasoning);
    this.fact("request", this.requestId, "id");
    if (this.text) this.actions.prepend(button("Copy", (event) => copy(this.text, event.currentTarget)));
    this.actions.append(button("Copy as curl", (event) => copy(this.curl, event.currentTarget)));
  }
}

// ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function settings() {
  return {
    protocol: $("chat").checked ? chat : messages,
    model: $("model").value === OTHER ? $("other-model").value.trim() : $("model").value,
    system: $("system").value.trim(),
    limit: Number.parseInt($("limit").value, 10) || 0,
    tool: $("offer-tool").checked,
    key: $("key").value.trim(),
  };
}

function curlOf({ protocol, key }, body) {
  const lines = [`curl -N ${quoted(address(protocol.path))}`, `-H 'content-type: application/json'`];
  if (protocol === messages) lines.push(`-H 'anthropic-version: 2023-06-01'`);
  if (key) lines.push(`-H "${protocol.keyHeader}"`); // its name, never the key itself
  lines.push(`-d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}

async function refusalOf(response) {
  const told = parsed(await response.text().catch(() => ""));
  const wait = response.headers.get("retry-after");
  const message = told?.error?.message ?? (response.statusText || "The gateway gave no reason.");
  return new Failure(wait ? `${message}\nTry again in ${wait} s.` : message, response.status);
}

async function ask(chosen, answer, signal, body) {
  const { protocol, key } = chosen;
  const response = await fetch(address(protocol.path), {
    method: "POST",
    headers: { "content-type": "application/json", ...protocol.headers(key) },
    body,
    signal,
  });
  answer.head(response);
  if (!response.ok) throw await refusalOf(response);
  for await (const frame of frames(response.body)) {
    const stays = isAtEnd();
    protocol.read(frame, answer);
    if (stays) toEnd();
  }
  if (!answer.ended) throw new Failure("The stream ended before the answer did.");
}

async function converse(text) {
  const mark = turns.length;
  const chosen = settings();
  turns.push({ role: "user", text });
  running = new AbortController();
  show();
  announce("Waiting for the answer.");
  for (let step = 0; step < MOST_STEPS; step += 1) {
    const body = JSON.stringify(chosen.protocol.body(chosen));
    const answer = new Answer(curlOf(chosen, JSON.parse(body)));
    toEnd();
    const error = await ask(chosen, answer, running.signal, body).then(() => null, (caught) => caught);
    const calls = error ? [] : [...answer.calls.values()];
    if (error) conclude(answer, error, text, mark);
    const state = error ? null : answer.state;
    if (answer.text || calls.length) turns.push({ role: "assistant", text: answer.text, calls, state });
    else if (error) turns.length = mark; // nothing came of it: the conversation goes on from before
    answer.settle(chosen);
    toEnd();
    if (!error) announce(`Answered in ${answer.text.split(/\s+/).length} words.`);
    if (!calls.length) break;
    turns.push({ role: "tool", results: calls.map(runTool) });
  }
  running = null;
  show();
  $("prompt").focus();
}

function conclude(answer, error, text, mark) {
  if (error.name === "AbortError") { answer.note("Stopped."); announce("Stopped."); return; }
  const known = error instanceof Failure ? error : new Failure(`The gateway was not reached, or not understood: ${error}`);
  announce(`Failed: ${known.message}`);
  answer.fail(known, () => { turns.length = mark; converse(text); });
}

function runTool(call) {
  const city = parsed(call.text)?.city ?? "nowhere";
  const text = call.name === WEATHER.name ? `18 °C and a light wind in ${city}` : "There is no such tool.";
  call.card.append(make("pre", "result", `→ ${text}`));
  return { id: call.id, text };
}

// ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────

const isAtEnd = () => $("scroller").scrollHeight - $("scroller").scrollTop - $("scroller").clientHeight < 60;
const toEnd = () => { $("scroller").scrollTop = $("scroller").scrollHeight; };

function show() {
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  $("new-chat").disabled = Boolean(running);
  $("empty").hidden = $("log").childElementCount > 0 || Boolean(running);
}

function submit() {
  const text = $("prompt").value.trim();
  if (!text || running) return;
  openSettings(!settings().model);
  if (!settings().model) return;
  $("prompt").value = "";
  // Only the last answer can be tried again: the conversation goes on from here.
  for (const again of document.querySelectorAll(".retry")) again.remove();
  $("log").append(make("div", "mine", text));
  converse(text);
}

function openSettings(open) {
  $("settings").classList.toggle("open", open);
  $("open-settings").ariaExpanded = String(open);
  if (open) $("model").focus();
}

function choose(model) {
  if ([...$("model").options].some((option) => option.value === model)) $("model").value = model;
  $("other-model").hidden = $("model").value !== OTHER;
  $("prompt").placeholder = `Message ${settings().model || "a model"}`;
}

function fillModels(names) {
  const before = $("model").value;
  $("model").replaceChildren(...names.map((name) => new Option(name, name)), new Option("Another name…", OTHER));
  if (!names.length) $("model").value = OTHER;
  choose(before);
}

async function loadModels() {
  const { key } = settings();
  let names = [], note = "";
  try {
    const response = await fetch(address("../v1/models"), { headers: chat.headers(key) });
    if (!response.ok) throw await refusalOf(response);
    names = (await response.json()).data.map((entry) => entry.id);
    if (!names.length) note = "No model is listed; name one.";
  } catch (error) {
    note = `Models could not be listed${error.status ? ` (${error.status})` : ""}: ${error.message}`;
  }
  fillModels(names);
  $("models-note").textContent = note;
}

function start() {
  for (const example of EXAMPLES) {
    const card = button("", () => {
      choose(example.model);
      if (example.tool) $("offer-tool").checked = true;
      $("prompt").value = example.prompt;
      submit();
    });
    card.append(make("b", "", example.title), make("span", "", example.prompt));
    $("examples").append(card);
  }
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
  $("stop").addEventListener("click", () => running?.abort());
  $("new-chat").addEventListener("click", () => {
    turns.length = 0;
    $("log").replaceChildren();
    show();
    $("prompt").focus();
  });
  $("open-settings").addEventListener("click", () => openSettings(!$("settings").classList.contains("open")));
  $("model").addEventListener("change", () => choose($("model").value));
  $("other-model").addEventListener("input", () => choose(OTHER));
  $("key").addEventListener("change", loadModels);
  for (const radio of document.getElementsByName("protocol")) {
    radio.addEventListener("change", () => { $("path").textContent = settings().protocol.path.replace("../", "POST "); });
  }
  $("prompt").focus();
  loadModels();
}

start();
