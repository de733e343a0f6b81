// The server as the JavaScript package `openai` sees it.
//
// Where it is and the key that it wants are in OPENAI_BASE_URL and OPENAI_API_KEY, which the
// package reads itself. The server has the bundled model, the template tools.jinja and four slots.
//
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=key node --test openai_client.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0, timeout: 120_000 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "How do I keep the experts on the CPU?" }];
const answer = "with_cpu_moe_all";

const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Oslo", "Lima"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

const chat = (options = {}) =>
  client.chat.completions.create({ model, messages, temperature: 0, ...options });

async function metric(name) {
  const headers = { Authorization: `Bearer ${client.apiKey}` };
  const response = await fetch(new URL("/metrics", client.baseURL), { headers });
  const lines = (await response.text()).split("\n");
  const line = lines.find((line) => line.startsWith(`${name} `));
  assert.ok(line, `no ${name} among the metrics`);
  return Number(line.split(" ")[1]);
}

test("a chat", async () => {
  const reply = await chat();
  assert.match(reply.choices[0].message.content, new RegExp(answer));
  assert.equal(reply.choices[0].finish_reason, "stop");
  const { prompt_tokens, completion_tokens, total_tokens } = reply.usage;
  assert.equal(prompt_tokens + completion_tokens, total_tokens);
});

test("a stream has the same text", async () => {
  const whole = await chat();
  let text = "";
  let usage = null;
  let pieces = 0;
  for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
    pieces += 1;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
  assert.ok(pieces > 5);
});

test("the helper for streams", async () => {
  const stream = client.chat.completions.stream({ model, messages, temperature: 0 });
  let deltas = "";
  stream.on("content", (delta) => (deltas += delta));
  const content = await stream.finalContent();
  assert.match(content, new RegExp(answer));
  assert.equal(deltas, content);
});

test("a function is run with what the model calls it with", async () => {
  const calls = [];
  const tool = {
    type: "function",
    function: {
      ...weather.function,
      parse: JSON.parse,
      function: (found) => {
        calls.push(found);
        return "rain";
      },
    },
  };
  const runner = client.chat.completions.runTools({
    model,
    messages,
    temperature: 0,
    tools: [tool],
    tool_choice: { type: "function", function: { name: "weather" } },
  });
  await runner.done();
  assert.equal(calls.length, 1);
  assert.ok(["Oslo", "Lima"].includes(calls[0].city), JSON.stringify(calls));
});

test("calls in a stream", async () => {
  const stream = client.chat.completions.stream({
    model,
    messages,
    temperature: 0,
    tools: [weather],
    tool_choice: { type: "function", function: { name: "weather" } },
  });
  const { tool_calls: calls } = (await stream.finalChatCompletion()).choices[0].message;
  assert.equal(calls.length, 1);
  assert.equal(calls[0].function.name, "weather");
  assert.ok(["Oslo", "Lima"].includes(JSON.parse(calls[0].function.arguments).city));
});

test("an answer has the schema", async () => {
  const schema = {
    type: "object",
    properties: { kind: { type: "string", enum: ["cpu", "gpu"] }, is_free: { type: "boolean" } },
    required: ["kind", "is_free"],
    additionalProperties: false,
  };
  const reply = await chat({
    response_format: { type: "json_schema", json_schema: { name: "device", strict: true, schema } },
  });
  const device = JSON.parse(reply.choices[0].message.content);
  assert.deepEqual(Object.keys(device).sort(), ["is_free", "kind"]);
  assert.ok(["cpu", "gpu"].includes(device.kind));
  assert.equal(typeof device.is_free, "boolean");
});

test("logprobs", async () => {
  const reply = await chat({ logprobs: true, top_logprobs: 2, max_tokens: 4 });
  const { content } = reply.choices[0].logprobs;
  assert.equal(content.length, 4);
  const bytes = content.flatMap((token) => token.bytes);
  assert.equal(Buffer.from(bytes).toString(), reply.choices[0].message.content);
});

test("a completion", async () => {
  const request = { model, prompt: "Experts are", temperature: 0, max_tokens: 3 };
  const whole = await client.completions.create(request);
  assert.equal(whole.usage.completion_tokens, 3);
  let text = "";
  for await (const chunk of await client.completions.create({ ...request, stream: true })) {
    text += chunk.choices[0]?.text ?? "";
  }
  assert.equal(text, whole.choices[0].text);
});

test("embeddings", async () => {
  const reply = await client.embeddings.create({ model, input: ["experts", "routers"] });
  assert.equal(reply.data.length, 2);
  for (const { embedding } of reply.data) {
    assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-3);
  }
  const floats = { model, input: "experts", encoding_format: "float" };
  const [{ embedding }] = (await client.embeddings.create(floats)).data;
  assert.equal(embedding.length, reply.data[0].embedding.length);
});

test("errors have their class", async () => {
  await assert.rejects(chat({ model: "gpt-17" }), OpenAI.NotFoundError);
  await assert.rejects(chat({ messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(chat({ temperature: "hot" }), OpenAI.BadRequestError);
  await assert.rejects(chat({ max_tokens: 0, stream: true }), OpenAI.BadRequestError);
  const stranger = client.withOptions({ apiKey: "wrong" });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("a client that leaves frees its slot", async () => {
  const cancelled = await metric('llama_moe_requests_total{outcome="cancelled"}');
  for (let left = 0; left < 8; left += 1) {
    // One letter, and never an end.
    const grammar = 'root ::= "a" root';
    const stream = await chat({ stream: true, max_tokens: 900, grammar });
    let pieces = 0;
    for await (const _ of stream) {
      pieces += 1;
      if (pieces === 4) break;
    }
    stream.controller.abort();
  }
  const end = Date.now() + 10_000;
  while ((await metric("llama_moe_slots_busy")) > 0) {
    assert.ok(Date.now() < end, "a slot is still taken");
    await sleep(20);
  }
  // One that was as good as over may have come to its end.
  assert.ok((await metric('llama_moe_requests_total{outcome="cancelled"}')) > cancelled + 4);
  assert.match((await chat()).choices[0].message.content, new RegExp(answer));
});
