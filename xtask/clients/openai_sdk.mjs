// OpenAI's SDK for Node: chat, streams, completions, models, errors.

import assert from "node:assert/strict";
import OpenAI from "openai";

const model = process.env.BITNET_MODEL;
const client = new OpenAI({ baseURL: `${process.env.BITNET_URL}/v1`, apiKey: "unused" });
const messages = [{ role: "user", content: "Once upon a time" }];

const checks = {
  async models() {
    const ids = [];
    for await (const found of client.models.list()) ids.push(found.id);
    assert.deepEqual(ids, [model]);
  },

  async chat() {
    const ask = { model, messages, max_tokens: 12, seed: 1 };
    const whole = await client.chat.completions.create(ask);
    const text = whole.choices[0].message.content;
    assert.ok(text.length > 0);
    let pieces = "";
    let usage = null;
    const stream_options = { include_usage: true };
    const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options });
    for await (const chunk of stream) {
      pieces += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(pieces, text);
    assert.equal(usage.total_tokens, whole.usage.total_tokens);
    // The SDK's own assembling of a stream.
    const assembled = client.chat.completions.stream(ask);
    assert.equal(await assembled.finalContent(), text);
  },

  async seeds() {
    // A number as JavaScript has it still is the seed that was drawn.
    const ask = { model, messages, max_tokens: 12, temperature: 1.5 };
    const free = (await client.chat.completions.create(ask)).choices[0];
    assert.ok(Number.isSafeInteger(free.seed));
    const again = await client.chat.completions.create({ ...ask, seed: free.seed });
    assert.equal(again.choices[0].message.content, free.message.content);
  },

  async completions() {
    const answer = await client.completions.create({ model, prompt: ["a", "b"], n: 2, max_tokens: 3 });
    assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  },

  async embeddings() {
    const answer = await client.embeddings.create({ model, input: ["The cat", "The cat"] });
    assert.deepEqual(answer.data[0].embedding, answer.data[1].embedding);
    const length = Math.hypot(...answer.data[0].embedding);
    assert.ok(Math.abs(length - 1) < 1e-5);
  },

  async errors() {
    const nobody = client.chat.completions.create({ model: "nobody", messages });
    await assert.rejects(nobody, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
    const grammar = client.chat.completions.create({ model, messages, response_format: { type: "json_object" } });
    await assert.rejects(grammar, (error) => error.status === 400 && error.param === "response_format");
  },

  async leaving() {
    const stream = await client.completions.create({ model, prompt: "a", max_tokens: 200, stream: true });
    for await (const _ of stream) break; // closes the connection
    assert.ok((await client.models.list()).data.length === 1);
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(`openai for node: ${name} ok`);
}
