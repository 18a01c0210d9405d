// Google's SDK: generateContentStream. It has no accumulator, so the pieces are joined here.

import { GoogleGenAI } from "@google/genai";

export async function gemini({ base, key, request }, { seen, fetch }) {
  const client = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: base, timeout: 30_000, fetch } });
  const leaving = new AbortController();
  const config = { ...request.config, abortSignal: leaving.signal };
  const stream = await client.models.generateContentStream({ ...request, config });
  const parts = [];
  let finish, usage, model;
  reading: for await (const chunk of stream) {
    const [candidate] = chunk.candidates ?? [];
    for (const part of candidate?.content?.parts ?? []) {
      parts.push(part);
      const leave = part.text && !part.thought && seen(part.text);
      if (leave === "abort") leaving.abort();
      if (leave === "break") break reading;
    }
    finish = candidate?.finishReason ?? finish;
    usage = chunk.usageMetadata ?? usage;
    model = chunk.modelVersion ?? model;
  }
  const calls = parts.filter((part) => part.functionCall).map((part) => part.functionCall);
  const said = (thought) => parts.filter((part) => part.text && Boolean(part.thought) === thought);
  return {
    text: said(false).map((part) => part.text).join(""),
    reasoning: said(true).map((part) => part.text).join(""),
    calls: calls.map(({ id, name, args }) => ({ id, name, arguments: JSON.stringify(args) })),
    finish: finish ?? null,
    input: usage?.promptTokenCount,
    output: (usage?.candidatesTokenCount ?? 0) + (usage?.thoughtsTokenCount ?? 0),
    model,
  };
}
