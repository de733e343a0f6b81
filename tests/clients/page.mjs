// The server's page in a browser without a window.
//
// PAGE_URL is a server as it comes, with the bundled model; KEY_URL one that wants the key in
// OPENAI_API_KEY; CHROMIUM the browser.
//
//     PAGE_URL=... KEY_URL=... OPENAI_API_KEY=... CHROMIUM=... node --test page.mjs

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import puppeteer from "puppeteer-core";

const { PAGE_URL, KEY_URL, OPENAI_API_KEY, CHROMIUM } = process.env;
const question = "How do I keep the experts on the CPU?";
const answer = /with_cpu_moe_all/;

let browser;
let page;
let problems;

before(async () => {
  browser = await puppeteer.launch({
    executablePath: CHROMIUM,
    // The sandbox does not work for root, as whom CI runs.
    args: process.getuid() === 0 ? ["--no-sandbox"] : [],
  });
});

after(() => browser?.close());

beforeEach(async () => {
  await page?.close();
  page = await browser.newPage();
  page.setDefaultTimeout(30_000);
  problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(message.text());
  });
  page.on("request", (request) => {
    const { origin, protocol } = new URL(request.url());
    const isOwn = [PAGE_URL, KEY_URL].some((url) => new URL(url).origin === origin);
    if (!isOwn && protocol !== "blob:") problems.push(`a request to ${request.url()}`);
  });
});

// Waits until an element's text is as it should be.
const text = (selector, expected) =>
  page.waitForFunction(
    (selector, source) => new RegExp(source).test(document.querySelector(selector)?.textContent),
    {},
    selector,
    expected.source,
  );

const all = (selector) =>
  page.$$eval(selector, (elements) => elements.map((element) => element.textContent));

async function ask(words) {
  await page.type("#text", words);
  await page.click("#send");
}

// The model is random where nothing else is said; this is for answers that are known.
async function withoutChance() {
  await page.$eval("#temperature", (input) => (input.value = "0"));
}

// From now on the first answer is what `window.grow` is given, until it is stopped; the others come
// from the server. `window.sent` has the conversations that were sent.
async function answerByHand() {
  await page.evaluate(() => {
    const send = window.fetch;
    window.sent = [];
    window.fetch = async (url, options) => {
      if (!String(url).endsWith("/chat/completions")) return send(url, options);
      window.sent.push(JSON.parse(options.body).messages);
      if (window.sent.length > 1) return send(url, options);
      const event = (chunk) => new TextEncoder().encode(`data: ${JSON.stringify(chunk)}\n\n`);
      const stream = new ReadableStream({
        start(controller) {
          window.grow = (content) => controller.enqueue(event({ choices: [{ delta: { content } }] }));
          options.signal.addEventListener("abort", () => controller.error(options.signal.reason));
        },
      });
      return new Response(stream);
    };
  });
}

test("a chat", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  await withoutChance();
  await ask(question);
  await text("#messages .assistant", answer);
  await text("#speed", /^[0-9]+ tokens.*tokens\/s/);
  await page.waitForFunction(() => !document.querySelector("#send").disabled);
  assert.deepEqual(await all("#messages .user"), [question]);
  assert.equal((await all("#messages .error")).length, 0);

  // The whole conversation is sent, and the page takes a second question.
  await ask("What is a router?");
  await page.waitForFunction(() => document.querySelectorAll("#messages .assistant").length === 2);

  await page.click("#clear");
  await page.waitForFunction(() => document.querySelector("#messages").children.length === 0);
  assert.deepEqual(problems, []);
});

test("Enter sends, Shift and Enter does not", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  await page.type("#text", "one");
  await page.keyboard.down("Shift");
  await page.keyboard.press("Enter");
  await page.keyboard.up("Shift");
  assert.equal((await all("#messages .user")).length, 0);
  await page.type("#text", "two");
  await page.keyboard.press("Enter");
  await text("#messages .user", /one\s*two/);
  await page.waitForSelector("#messages .assistant");
  assert.deepEqual(problems, []);
});

test("Enter that ends a composition does not send", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  await page.type("#text", "one");
  const enter = (isComposing) =>
    page.$eval(
      "#text",
      (box, isComposing) =>
        box.dispatchEvent(
          new KeyboardEvent("keydown", { key: "Enter", isComposing, bubbles: true, cancelable: true }),
        ),
      isComposing,
    );
  await enter(true);
  assert.equal((await all("#messages .user")).length, 0);
  await enter(false);
  await text("#messages .user", /one/);
  await page.waitForSelector("#messages .assistant");
  assert.deepEqual(problems, []);
});

test("what is said is text, not markup", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  await ask("<img src=x onerror=alert(1)><b>bold</b>");
  await text("#messages .user", /<b>bold<\/b>/);
  assert.equal(await page.$("#messages img, #messages b"), null);
  await page.waitForFunction(() => !document.querySelector("#send").disabled);
  assert.deepEqual(problems, []);
});

test("the picture of the placement", async () => {
  await page.goto(PAGE_URL);
  const image = await page.waitForSelector("#placement img");
  await page.waitForFunction((image) => image.complete && image.naturalWidth > 100, {}, image);
  assert.deepEqual(problems, []);
});

// Whoever presses a button would miss it otherwise.
test("the buttons stay where they are while an answer grows", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  await answerByHand();
  const places = () =>
    page.$$eval("#ask button", (buttons) => buttons.map((button) => button.getBoundingClientRect().top));
  const before = await places();
  await ask(question);
  await page.waitForFunction(() => window.grow);
  await page.evaluate(() => window.grow("first"));
  await text("#messages .assistant", /first/);
  await page.evaluate(() => window.grow("\none more line".repeat(100) + "\nlast"));
  await text("#messages .assistant", /last/);
  assert.deepEqual(await places(), before);
  // The end of the answer is what is seen.
  assert.ok(
    await page.$eval("#messages", (list) => list.scrollHeight - list.scrollTop - list.clientHeight < 2),
  );
  // Where the reader has scrolled away from the end, the view stays there.
  await page.$eval("#messages", (list) => (list.scrollTop = 100));
  await page.evaluate(() => window.grow("\nand more"));
  await text("#messages .assistant", /and more/);
  assert.equal(await page.$eval("#messages", (list) => list.scrollTop), 100);

  await page.click("#clear");
  await page.waitForFunction(() => document.querySelector("#messages").children.length === 0);
  assert.deepEqual(problems, []);
});

test("an answer is stopped", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  // Slow enough to be stopped: the answer is held back until then.
  await page.evaluate(() => {
    const send = window.fetch;
    window.fetch = async (url, options) => {
      if (String(url).endsWith("/chat/completions")) {
        await new Promise((resolve, reject) => {
          options.signal.addEventListener("abort", () => reject(options.signal.reason));
        });
      }
      return send(url, options);
    };
  });
  await ask(question);
  await page.waitForFunction(() => !document.querySelector("#stop").disabled);
  await page.click("#stop");
  await text("#messages .error", /stopped/);
  await page.waitForFunction(() => !document.querySelector("#send").disabled);
  assert.deepEqual(problems, []);
});

test("what came of an answer that is stopped is part of the conversation", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  await withoutChance();
  await answerByHand();
  await ask("What is an expert?");
  // The first answer begins, and then nothing more comes.
  await page.waitForFunction(() => window.grow);
  await page.evaluate(() => window.grow("Half an"));
  await text("#messages .assistant", /Half an/);
  await page.click("#stop");
  await text("#messages .error", /stopped/);
  await page.waitForFunction(() => !document.querySelector("#send").disabled);
  await ask(question);
  await page.waitForFunction(() => document.querySelectorAll("#messages .assistant").length === 2);
  assert.deepEqual(
    (await page.evaluate(() => window.sent))[1],
    [
      { role: "user", content: "What is an expert?" },
      { role: "assistant", content: "Half an" },
      { role: "user", content: question },
    ],
  );
  await page.waitForFunction(() => !document.querySelector("#send").disabled);
  assert.deepEqual(problems, []);
});

test("a refused request says why", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  await page.$eval("#max", (input) => (input.value = "0"));
  await ask(question);
  await text("#messages .error", /max/);
  // The browser itself reports the status.
  assert.ok(problems.every((problem) => problem.includes("400")), problems.join("\n"));
});

test("a key is asked for", async () => {
  await page.goto(KEY_URL);
  await page.waitForSelector("#key", { visible: true });
  await page.type("#key", OPENAI_API_KEY);
  await page.keyboard.press("Tab");
  await text("#model", /moe-guide/);
  await withoutChance();
  await ask(question);
  await text("#messages .assistant", answer);
  assert.ok(problems.every((problem) => problem.includes("401")), problems.join("\n"));
});

test("the page runs nothing but its own script", async () => {
  await page.goto(PAGE_URL);
  await text("#model", /moe-guide/);
  await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.foreign = true";
    document.body.append(script);
  });
  assert.equal(await page.evaluate(() => window.foreign), undefined);
  assert.ok(problems.some((problem) => /Content Security Policy/.test(problem)), "no policy");
});
