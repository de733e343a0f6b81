// The server's own page in a headless Chromium.
//
// Usage: node page.mjs URL URL_WITH_KEY KEY CHROMIUM
//
// The package puppeteer-core is looked for from the current folder.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const puppeteer = require("puppeteer-core");

const [url, urlWithKey, key, executablePath] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath,
  headless: true,
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});

// A page whose every complaint and request to elsewhere is kept.
async function open(address) {
  const page = await browser.newPage();
  page.setDefaultTimeout(60_000);
  const faults = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") faults.push(message.text());
  });
  page.on("request", (request) => {
    const own = [address, "blob:", "data:"].some((begin) => request.url().startsWith(begin));
    if (!own) faults.push(`asks ${request.url()}`);
  });
  await page.goto(address);
  return { page, faults };
}

const has = (page, selector, text) =>
  page.waitForFunction(
    (selector, text) => document.querySelector(selector)?.textContent.includes(text),
    {},
    selector,
    text,
  );

async function pictureIsThere(page) {
  await page.waitForFunction(() => document.querySelector("#placement img")?.naturalWidth > 0);
}

async function ask(page, text) {
  await page.type("#text", text);
  await page.click("#send");
}

const tests = {
  async chat() {
    const { page, faults } = await open(url);
    await has(page, "#model", "moe-guide");
    await pictureIsThere(page);
    await page.$eval("#temperature", (input) => (input.value = "0"));
    await ask(page, "How do I keep the experts on the CPU?");
    await has(page, ".assistant", "--cpu-moe");
    await has(page, "#speed", "tokens/s");
    await has(page, "#speed", "cached");
    // A second turn goes on from the first.
    await page.waitForSelector("#send:not([disabled])");
    await ask(page, "Hello");
    await page.waitForFunction(() => document.querySelectorAll(".assistant").length === 2);
    // In the midst of the answer, while the page still moves.
    await page.$eval("#clear", (button) => button.click());
    assert.equal((await page.$$(".message")).length, 0);
    assert.deepEqual(faults, []);
  },

  async markupIsText() {
    const { page, faults } = await open(url);
    await has(page, "#model", "moe-guide");
    await ask(page, "<img src=x onerror=alert(1)>");
    await has(page, ".user", "<img src=x");
    assert.equal(await page.$(".message img"), null);
    await page.waitForSelector("#send:not([disabled])");
    assert.deepEqual(faults, []);
  },

  async errors() {
    const { page } = await open(url);
    await has(page, "#model", "moe-guide");
    await page.$eval("#temperature", (input) => (input.value = "7"));
    await ask(page, "Hello");
    await has(page, ".error", "temperature");
  },

  async key() {
    const { page } = await open(urlWithKey);
    await has(page, "#status", "API key");
    await page.type("#key", key);
    await page.$eval("#key", (input) => input.dispatchEvent(new Event("change")));
    await has(page, "#model", "moe-guide");
    await pictureIsThere(page);
    await ask(page, "Hello");
    await has(page, ".assistant", "Hello");
  },
};

try {
  const version = await browser.version();
  for (const [name, test] of Object.entries(tests)) {
    await test();
    console.log(`page in ${version}: ${name} ok`);
  }
} finally {
  await browser.close();
}
