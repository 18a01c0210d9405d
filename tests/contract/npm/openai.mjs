// OpenAI's SDK: the stream helpers of Chat Completions and of Responses, which are the strictest readers it has.

import OpenAI from "openai";

const client = ({ base, key, retries }, fetch) =>
  new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: retries, timeout: 30_000, fetch });

export async function chat(call, { seen, fetch }) {
  const stream = client(call, fetch).chat.completions.stream(call.request);
  let reasoning = "";
  let pieces = 0;
  for await (const chunk of stream) {
    const delta = chunk.choices[0]?.delta ?? {};
    // The accumulator keeps only the last piece of a field that it does not know.
    reasoning += delta.reasoning_content ?? "";
    pieces += (delta.tool_calls ?? []).filter((entry) => entry.function?.arguments).length;
    const leave = delta.content && seen(delta.content);
    if (leave === "abort") stream.abort();
    if (leave === "break") break;
  }
  const { model, choices, usage } = await stream.finalChatCompletion();
  const [{ message, finish_reason }] = choices;
  return {
    text: message.content ?? "",
    reasoning,
    calls: (message.tool_calls ?? []).map(({ id, function: made }) => ({ id, ...made })),
    pieces,
    finish: finish_reason,
    input: usage?.prompt_tokens,
    output: usage?.completion_tokens,
    model,
  };
}

export async function responses(call, { seen, fetch }) {
  const stream = client(call, fetch).responses.stream(call.request);
  const numbers = [];
  const kinds = [];
  let pieces = 0;
  for await (const event of stream) {
    numbers.push(event.sequence_number);
    kinds.push(event.type);
    if (event.type === "response.function_call_arguments.delta") pieces += 1;
    const leave = event.type === "response.output_text.delta" && seen(event.delta);
    if (leave === "abort") stream.abort();
    if (leave === "break") break;
  }
  const { model, output, output_text, status, incomplete_details, error, usage } = await stream.finalResponse();
  const thoughts = output.filter((item) => item.type === "reasoning");
  return {
    text: output_text,
    reasoning: thoughts.flatMap((item) => [...item.summary, ...(item.content ?? [])].map((part) => part.text)).join(""),
    calls: output
      .filter((item) => item.type === "function_call")
      .map(({ call_id, name, arguments: text }) => ({ id: call_id, name, arguments: text })),
    pieces,
    finish: incomplete_details?.reason ?? status,
    error,
    input: usage?.input_tokens,
    output: usage?.output_tokens,
    model,
    kinds,
    ordered: numbers.every((number, index) => index === 0 || number > numbers[index - 1]),
  };
}
