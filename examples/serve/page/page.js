// A chat with the server that this page comes from.
"use strict";

const element = (id) => document.getElementById(id);
// Another list for each chat, so that an answer that comes late does not get into the next one.
let messages = [];
let running = null;

function headers() {
  const key = element("key").value;
  const all = { "Content-Type": "application/json" };
  if (key) all.Authorization = `Bearer ${key}`;
  return all;
}

async function get(path) {
  const response = await fetch(path, { headers: headers() });
  if (response.status === 401) element("key-label").hidden = false;
  if (!response.ok) throw new Error(await reason(response));
  return response;
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `status ${response.status}`;
  }
}

function show(kind, text) {
  const paragraph = document.createElement("p");
  paragraph.className = `message ${kind}`;
  paragraph.textContent = text;
  const list = element("messages");
  list.append(paragraph);
  list.scrollTop = list.scrollHeight;
  return paragraph;
}

// Adds to what is shown, and stays at its end unless the reader has scrolled away from it.
function extend(paragraph, text) {
  const list = element("messages");
  const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 8;
  paragraph.textContent += text;
  if (follows) list.scrollTop = list.scrollHeight;
}

// The values of a stream of server-sent events, up to [DONE].
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      yield JSON.parse(line.slice("data: ".length));
    }
  }
}

// Shows an answer as it comes, and adds its text to `reply`.
async function answer(turns, reply, signal) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: headers(),
    signal,
    body: JSON.stringify({
      messages: turns,
      stream: true,
      stream_options: { include_usage: true },
      temperature: Number(element("temperature").value),
      max_completion_tokens: Number(element("max").value),
    }),
  });
  if (!response.ok) throw new Error(await reason(response));

  const shown = {};
  const add = (kind, text) => {
    if (!text) return;
    shown[kind] ??= show(kind, "");
    extend(shown[kind], text);
  };
  let begin = null;
  let pieces = 0;
  for await (const chunk of events(response.body)) {
    // What comes after a new chat was begun is not of that chat.
    if (turns !== messages) return;
    if (chunk.error) throw new Error(chunk.error.message);
    for (const choice of chunk.choices) {
      const { content, reasoning_content: reasoning } = choice.delta;
      if (content || reasoning) {
        begin ??= performance.now();
        pieces += 1;
        const seconds = (performance.now() - begin) / 1000;
        if (pieces > 1) speed(`about ${((pieces - 1) / seconds).toFixed(1)} tokens/s`);
      }
      add("reasoning", reasoning);
      add("assistant", content);
      reply.content += content ?? "";
    }
    if (chunk.usage) summary(chunk.usage, chunk.timings);
  }
}

function speed(text) {
  element("speed").textContent = text;
}

function summary(usage, timings) {
  const parts = [`${usage.completion_tokens} tokens`];
  if (timings.tokens_per_second) parts.push(`${timings.tokens_per_second.toFixed(1)} tokens/s`);
  if (timings.ttft_ms) parts.push(`first after ${timings.ttft_ms.toFixed(0)} ms`);
  const cached = usage.prompt_tokens_details.cached_tokens;
  parts.push(`prompt ${usage.prompt_tokens}, ${cached} of it cached`);
  speed(parts.join(", "));
}

async function ask(text) {
  const turns = messages;
  const reply = { role: "assistant", content: "" };
  turns.push({ role: "user", content: text });
  show("user", text);
  speed("");
  running = new AbortController();
  element("send").disabled = true;
  element("stop").disabled = false;
  try {
    await answer(turns, reply, running.signal);
    turns.push(reply);
  } catch (error) {
    // What came of an answer is part of the conversation; without any, the question is not either.
    if (reply.content) turns.push(reply);
    else turns.pop();
    if (turns === messages) show("error", error.name === "AbortError" ? "stopped" : error.message);
  } finally {
    running = null;
    element("send").disabled = false;
    element("stop").disabled = true;
  }
}

async function showModel() {
  const list = await (await get("/v1/models")).json();
  const model = list.data[0];
  element("model").textContent = model.id;
  element("status").textContent = model.meta.description;
  const picture = await (await get("/placement.svg")).blob();
  const image = document.createElement("img");
  image.alt = "Layers by roles, area by bytes, colour by memory";
  image.src = URL.createObjectURL(picture);
  element("placement").replaceChildren(image);
}

// Waits until the model is loaded.
async function start() {
  for (;;) {
    try {
      const health = await (await fetch("/health")).json();
      if (health.status === "ok") break;
      const share = Math.round((health.loaded ?? 0) * 100);
      element("status").textContent = `${health.status} ${share} %`;
    } catch {
      element("status").textContent = "the server does not answer";
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  try {
    await showModel();
  } catch (error) {
    element("status").textContent = error.message;
  }
}

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("text").value.trim();
  if (!text || running) return;
  element("text").value = "";
  ask(text);
});
element("text").addEventListener("keydown", (event) => {
  // Enter may also choose what an input method proposes.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("ask").requestSubmit();
  }
});
element("stop").addEventListener("click", () => running?.abort());
element("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  element("messages").replaceChildren();
  speed("");
});
element("key").addEventListener("change", start);
start();
