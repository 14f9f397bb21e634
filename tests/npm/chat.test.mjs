// The chat that is a configuration file and a page (examples/gateway/chat), in headless Chromium.
//
// CORECAST_CHAT_CMD is the shell command line of the gateway, run in the root of the repository with
// `--listen 127.0.0.1:0` appended. CHROMIUM names the browser (default /usr/bin/chromium), ARTIFACTS
// the folder for screenshots (default artifacts/ in the root of the repository).

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";

import { launch } from "./chromium.mjs";
import { start } from "./server.mjs";

const command =
  process.env.CORECAST_CHAT_CMD ||
  "target/debug/corecast serve --config examples/gateway/chat/corecast.toml --api 127.0.0.1:0";
const artifacts =
  process.env.ARTIFACTS || fileURLToPath(new URL("../../artifacts", import.meta.url));
mkdirSync(artifacts, { recursive: true });

describe("chat without code", () => {
  let server;
  let browser;
  let ada;
  let ben;
  const errors = []; // exceptions and console errors of the pages

  before(async () => {
    server = await start(command);
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  async function enter(name, room, options) {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    context.setDefaultTimeout(30_000);
    const page = await context.newPage();
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => {
      if (message.type() === "error") errors.push(message.text());
    });
    await page.goto(server.url);
    await page.getByLabel("Your name").fill(name);
    await page.getByLabel("Room").fill(room);
    await page.getByRole("button", { name: "Join" }).click();
    await seen(page, `You joined ${room}`);
    return page;
  }
  const log = (page) => page.getByRole("log", { name: "Messages" });
  const seen = (page, text) => log(page).getByText(text).first().waitFor();
  const say = async (page, text) => {
    await page.getByLabel("Message", { exact: true }).fill(text);
    await page.getByRole("button", { name: "Send" }).click();
  };
  const shot = (page, name) => page.screenshot({ path: join(artifacts, `gateway-${name}.png`) });

  test("two windows talk", async () => {
    ada = await enter("Ada", "general", { viewport: { width: 1000, height: 780 } });
    ben = await enter("Ben", "general", {
      viewport: { width: 390, height: 780 },
      colorScheme: "dark",
    });
    await seen(ada, "Ben joined");
    await ada.getByText("with Ben").waitFor();
    await ben.getByText("with Ada").waitFor();
    await say(ada, "Hello Ben, <b>how</b> are you?");
    await seen(ben, "Hello Ben, <b>how</b> are you?");
    await seen(ada, "Hello Ben, <b>how</b> are you?");
    await ben.getByLabel("Message", { exact: true }).pressSequentially("Fine, tha");
    await ada.getByText("Ben is typing…").waitFor();
    await shot(ada, "chat");
    await say(ben, "Fine, thank you!");
    await seen(ada, "Fine, thank you!");
    await ada.getByText("Ben is typing…").waitFor({ state: "hidden" });
    await shot(ben, "chat-phone");
  });

  test("another room hears nothing", async () => {
    const cy = await enter("Cy", "other");
    await say(ben, "only for general");
    await seen(ada, "only for general");
    await say(cy, "only for other");
    await seen(cy, "only for other");
    assert.equal(await log(cy).getByText("only for general").count(), 0);
    assert.equal(await log(ada).getByText("only for other").count(), 0);
    await cy.context().close();
  });

  test("who talks too much is told so, and who goes is missed", async () => {
    for (let n = 0; n < 14; n += 1) await say(ada, `message ${n}`);
    await seen(ada, "too many events of this kind");
    await ben.context().close();
    await seen(ada, "Ben left");
    await ada.getByText("only you are here").waitFor();
  });

  test("what the page does not send is refused", async () => {
    const socket = io(server.url, { transports: ["websocket"], forceNew: true });
    const ask = (event, ...args) => socket.timeout(10_000).emitWithAck(event, ...args);
    const code = async (event, ...args) => (await ask(event, ...args)).error?.code;
    assert.equal(await code("message", { room: "general", name: "Eve", text: "x" }), "not_in_room");
    assert.equal(await code("join", { room: "general" }), "bad_arguments");
    assert.equal(await code("join", { room: "a:b", name: "Eve" }), "bad_arguments");
    assert.equal(await code("here", { to: "user:1", name: "Eve" }), "bad_arguments");
    assert.equal(await code("shutdown"), "no_route");
    assert.equal((await ask("join", { room: "general", name: "Eve" })).ok, true);
    socket.disconnect();
    await seen(ada, "Eve left");
  });

  test("no page has complained", () => assert.deepEqual(errors, []));
});
