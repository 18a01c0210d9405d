// Anthropic's SDK: the stream helper of Messages, and its tool runner.

import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";

export async function messagesRunner({ base, key, retries, request }, { fetch }) {
  const client = new Anthropic({ baseURL: base, apiKey: key, maxRetries: retries, timeout: 30_000, fetch });
  const ran = [];
  const tool = betaTool({
    name: "get_weather",
    description: "Look up the weather.",
    inputSchema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    run: ({ city }) => {
      ran.push(city);
      return `${city}: snow`;
    },
  });
  const runner = client.beta.messages.toolRunner({ max_tokens: 2000, ...request, tools: [tool] });
  let turns = 0;
  let last;
  for await (const turn of runner) {
    turns += 1;
    last = request.stream ? await turn.finalMessage() : turn;
  }
  return { ran, turns, text: last.content.map((block) => block.text ?? "").join(""), finish: last.stop_reason };
}

export async function messages({ base, key, retries, request }, { seen, fetch }) {
  const client = new Anthropic({ baseURL: base, apiKey: key, maxRetries: retries, timeout: 30_000, fetch });
  const stream = client.messages.stream({ max_tokens: 2000, ...request });
  let pieces = 0;
  for await (const { type, delta } of stream) {
    if (type !== "content_block_delta") continue;
    if (delta.type === "input_json_delta" && delta.partial_json) pieces += 1;
    const leave = delta.type === "text_delta" && seen(delta.text);
    if (leave === "abort") stream.abort();
    if (leave === "break") break;
  }
  const { model, content, stop_reason, usage } = await stream.finalMessage();
  const parts = (type, field) => content.filter((block) => block.type === type).map((block) => block[field]);
  return {
    text: parts("text", "text").join(""),
    reasoning: parts("thinking", "thinking").join(""),
    signatures: parts("thinking", "signature"),
    calls: content
      .filter((block) => block.type === "tool_use")
      .map(({ id, name, input }) => ({ id, name, arguments: JSON.stringify(input) })),
    pieces,
    finish: stop_reason,
    input: usage.input_tokens,
    output: usage.output_tokens,
    model,
    request_id: stream.request_id,
  };
}
