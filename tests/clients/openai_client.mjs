// The openai package for JavaScript against the server.
//
// Usage: node openai_client.mjs URL URL_WITH_TOOLS
//
// The second server has a chat template with a place for tools. The package is looked for from
// the current folder.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const OpenAI = require("openai").default;

const model = "moe-guide-q8_0";
const messages = [{ role: "user", content: "How do I keep the experts on the CPU?" }];
const [url, urlWithTools] = process.argv.slice(2);
const connect = (url) =>
  new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const client = connect(url);

const tests = {
  async models() {
    const list = await client.models.list();
    assert.deepEqual(list.data.map(({ id }) => id), [model]);
  },

  async chat() {
    const whole = await client.chat.completions.create({ model, messages, temperature: 0 });
    const text = whole.choices[0].message.content;
    assert.match(text, /cpu-moe/);
    const stream = await client.chat.completions.create({
      model, messages, temperature: 0, stream: true, stream_options: { include_usage: true },
    });
    let streamed = "";
    let usage = null;
    for await (const chunk of stream) {
      streamed += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(streamed, text);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  },

  async schema() {
    const schema = {
      type: "object",
      properties: { device: { enum: ["CPU", "GPU"] } },
      required: ["device"],
      additionalProperties: false,
    };
    const answer = await client.chat.completions.create({
      model, messages,
      response_format: { type: "json_schema", json_schema: { name: "plan", strict: true, schema } },
    });
    assert.match(JSON.parse(answer.choices[0].message.content).device, /^[CG]PU$/);
  },

  async embeddings() {
    const { data } = await client.embeddings.create({ model, input: ["an expert", "a router"] });
    const length = data[0].embedding.reduce((sum, x) => sum + x * x, 0);
    assert.ok(Math.abs(length - 1) < 1e-3, `${length}`);
  },

  async tools() {
    const tool = {
      type: "function",
      function: {
        name: "weather",
        parameters: {
          type: "object",
          properties: { city: { enum: ["Oslo", "Rome"] } },
          required: ["city"],
          additionalProperties: false,
        },
      },
    };
    const stream = connect(urlWithTools).chat.completions.stream({
      model, messages, tools: [tool], tool_choice: "required",
    });
    const calls = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
    assert.equal(calls[0].function.name, "weather");
    assert.match(JSON.parse(calls[0].function.arguments).city, /^(Oslo|Rome)$/);
  },

  async errors() {
    const ask = (more) => client.chat.completions.create({ model, messages, ...more });
    await assert.rejects(ask({ model: "gpt-4" }), { status: 404, code: "model_not_found" });
    await assert.rejects(ask({ temperature: 7 }), { status: 400, param: "temperature" });
  },

  async cancel() {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const _ of stream) break;
    await client.chat.completions.create({ model, messages, max_completion_tokens: 1 });
  },
};

const manifest = join(process.cwd(), "node_modules/openai/package.json");
const { version } = JSON.parse(readFileSync(manifest));
for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`openai ${version} (JavaScript): ${name} ok`);
}
