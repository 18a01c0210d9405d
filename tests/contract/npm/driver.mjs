// The official npm SDKs, driven by lines: a line of JSON in is a call, the line that answers it says what its SDK
// made of the stream. One process serves a whole test file, because node is slow to start.
//
// A call is {sdk, base, key, request, retries, leave, listen}: `request` is what the SDK is asked, in its own words; with
// `leave` the stream is given up at its first word, by the SDK's own means ("abort") or by leaving the loop that reads
// it ("break"); with `listen` every piece of the body is told in a line of its own, {heard: text}, before the SDK has it.
//
// The answer is {answer, texts} or {error, texts}, with the words that the SDK has handed out.

import { createInterface } from "node:readline";

import { messages, messagesRunner } from "./anthropic.mjs";
import { gemini } from "./google.mjs";
import { chat, responses } from "./openai.mjs";

const SDKS = { chat, responses, messages, messagesRunner, gemini };

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

async function listening(url, init) {
  const answer = await fetch(url, init);
  const decoder = new TextDecoder();
  const hear = new TransformStream({
    transform(piece, onward) {
      say({ heard: decoder.decode(piece, { stream: true }) });
      onward.enqueue(piece);
    },
  });
  const { status, statusText, headers } = answer;
  return new Response(answer.body?.pipeThrough(hear) ?? null, { status, statusText, headers });
}

function described(error) {
  return {
    class: error.constructor.name,
    message: error.message,
    status: error.status ?? null,
    type: error.type ?? null,
    code: error.code ?? null,
    request_id: error.requestID ?? null,
    retry_after: error.headers?.get("retry-after") ?? null,
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line);
  const texts = [];
  const seen = (text) => {
    texts.push(text);
    return call.leave;
  };
  try {
    const answer = await SDKS[call.sdk](call, { seen, fetch: call.listen ? listening : fetch });
    say({ answer, texts });
  } catch (error) {
    say({ error: described(error), texts });
  }
}
