// The chat demo in headless Chromium: two windows talk to each other through the server.
//
// CORECAST_DEMO_CMD is the shell command line of the server under test, run in the root of the
// repository with `--listen 127.0.0.1:0` appended. Default: the reference, chat-reference.mjs.
// CHROMIUM names the browser (default /usr/bin/chromium), ARTIFACTS the folder for screenshots
// (default artifacts/ in the root of the repository).

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { launch } from "./chromium.mjs";
import { Proxy } from "./proxy.mjs";
import { reference, start } from "./server.mjs";

const command = process.env.CORECAST_DEMO_CMD || reference("chat-reference.mjs");
const artifacts =
  process.env.ARTIFACTS || fileURLToPath(new URL("../../artifacts", import.meta.url));
mkdirSync(artifacts, { recursive: true });

describe("chat demo", () => {
  let server;
  let proxy; // between Ben's window and the server
  let browser;
  let ada;
  let ben;
  const foreign = []; // requests to anywhere but the server
  const errors = []; // exceptions and console errors of the pages

  async function open(url, options) {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    context.setDefaultTimeout(30_000);
    const page = await context.newPage();
    page.on("request", (request) => {
      if (!request.url().startsWith(`${url}/`) && !request.url().startsWith("data:")) {
        foreign.push(request.url());
      }
    });
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => {
      // A network that is cut on purpose is no error of the page.
      const network = /net::ERR_(CONNECTION|EMPTY_RESPONSE|SOCKET|INVALID_HTTP)|WebSocket/;
      if (message.type() === "error" && !network.test(message.text())) errors.push(message.text());
    });
    await page.goto(url);
    return page;
  }

  async function enter(page, name) {
    const dialog = page.getByRole("dialog", { name: "What shall we call you?" });
    await dialog.waitFor();
    assert.match(await dialog.getByLabel("Your name").inputValue(), /^\w+ \w+$/);
    await dialog.getByLabel("Your name").fill(name);
    await dialog.getByRole("button", { name: "Start chatting" }).click();
    await seen(page, "You joined #general");
  }

  const log = (page) => page.getByRole("log", { name: "Messages" });
  const seen = (page, text, nth = 0) => log(page).getByText(text).nth(nth).waitFor();
  const say = async (page, text) => {
    await page.getByLabel("Message", { exact: true }).fill(text);
    await page.getByRole("button", { name: "Send" }).click();
  };
  const room = (page, name) =>
    page.getByRole("navigation", { name: "Rooms" }).getByRole("button", { name, exact: true });
  const status = (page, text) => page.getByRole("status").filter({ hasText: text }).waitFor();
  // Waits until the list of people reads `names`.
  const here = (page, names) =>
    page.waitForFunction((expected) => {
      const shown = [...document.querySelectorAll("#people .name")].map((item) => item.textContent);
      return JSON.stringify(shown.sort()) === expected;
    }, JSON.stringify(names.sort()));
  const count = (page, text) => log(page).getByText(text).count();

  before(async () => {
    server = await start(command);
    proxy = new Proxy(server.port);
    await proxy.start();
    browser = await launch();
    ada = await open(server.url, { colorScheme: "light", viewport: { width: 1240, height: 820 } });
    ben = await open(proxy.url, { colorScheme: "dark", viewport: { width: 1000, height: 720 } });
  });
  after(async () => {
    await browser?.close();
    await proxy?.cut();
    await server?.stop();
  });

  test("two windows join and end up on websocket", async () => {
    await ada.screenshot({ path: join(artifacts, "name.png") });
    await enter(ada, "Ada Lovelace");
    await here(ada, ["Ada Lovelace"]);
    await enter(ben, "Ben");
    await status(ada, "connected · websocket");
    await status(ben, "connected · websocket");
  });

  test("who is here is live", async () => {
    await here(ada, ["Ada Lovelace", "Ben"]);
    await here(ben, ["Ada Lovelace", "Ben"]);
    await seen(ada, "Ben joined");
  });

  test("messages arrive in both windows", async () => {
    await say(ada, "Hello Ben, can you read this?");
    await seen(ben, "Hello Ben, can you read this?");
    await seen(ada, "Hello Ben, can you read this?");
    await say(ben, "Loud and clear 🎉");
    await seen(ada, "Loud and clear 🎉");
    assert.equal(await count(ada, "Loud and clear 🎉"), 1);
    assert.equal(await count(ben, "Hello Ben, can you read this?"), 1);
    await ben.getByLabel("Message", { exact: true }).fill("sent with the Enter key");
    await ben.getByLabel("Message", { exact: true }).press("Enter");
    await seen(ada, "sent with the Enter key");
  });

  test("what people write is text, never markup", async () => {
    const text = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>";
    await say(ada, text);
    await seen(ben, text);
    assert.equal(await log(ben).locator("img, b").count(), 0);
    assert.equal(await ben.title(), "corecast chat");
  });

  test("typing is seen by the other and ends", async () => {
    const typing = ada.getByText("Ben is typing");
    await ben.getByLabel("Message", { exact: true }).pressSequentially("I am thinking abo");
    await typing.waitFor();
    await ada.screenshot({ path: join(artifacts, "typing.png") });
    assert.equal(await ben.getByText("is typing").count(), 0);
    await say(ben, "I was thinking about rooms.");
    await seen(ada, "I was thinking about rooms.");
    await typing.waitFor({ state: "detached" });
  });

  test("a room has its own people and messages", async () => {
    await room(ben, "random").click();
    await seen(ben, "You joined #random");
    await here(ben, ["Ben"]);
    await here(ada, ["Ada Lovelace"]);
    await seen(ada, "Ben left");
    await say(ada, "only for general");
    await seen(ada, "only for general");
    await room(ada, "random").click();
    await seen(ada, "You joined #random");
    await seen(ben, "Ada Lovelace joined");
    await say(ada, "and now in random");
    await seen(ben, "and now in random");
    assert.equal(await count(ben, "only for general"), 0);
    // Rooms of one's own.
    for (const page of [ada, ben]) {
      await page.getByLabel("Create or join a room").fill("#reading club");
      await page.getByRole("button", { name: "Join this room" }).click();
      await seen(page, "You joined #reading club");
    }
    await here(ada, ["Ada Lovelace", "Ben"]);
    await say(ben, "a room of one's own");
    await seen(ada, "a room of one's own");
    for (const page of [ada, ben]) await room(page, "general").click();
    await here(ada, ["Ada Lovelace", "Ben"]);
    // What was said before is still shown.
    await seen(ben, "Loud and clear 🎉");
  });

  test("a new name is told to the others", async () => {
    await ben.getByRole("button", { name: "Change name" }).click();
    const dialog = ben.getByRole("dialog", { name: "What shall we call you?" });
    await dialog.getByLabel("Your name").fill("Benjamin");
    await dialog.getByRole("button", { name: "Start chatting" }).click();
    await seen(ada, "Ben is now Benjamin");
    await here(ada, ["Ada Lovelace", "Benjamin"]);
  });

  test("the private namespace refuses a wrong token and shows why", async () => {
    await room(ada, "lounge").click();
    const dialog = ada.getByRole("dialog", { name: "The private lounge" });
    await dialog.getByLabel("Token").fill("sesame");
    await dialog.getByRole("button", { name: "Enter" }).click();
    const refusal = dialog.getByRole("alert");
    await refusal.getByText("Refused: wrong token").waitFor();
    await refusal.getByText('"code": 401').waitFor();
    await refusal.getByText("try letmein").waitFor();
    await ada.screenshot({ path: join(artifacts, "refused.png") });
    // Ada is still in #general meanwhile.
    await say(ben, "are you still there?");
    await seen(ada, "are you still there?");
  });

  test("the private namespace admits the right token", async () => {
    for (const page of [ada, ben]) {
      if (page === ben) await room(ben, "lounge").click();
      const dialog = page.getByRole("dialog", { name: "The private lounge" });
      await dialog.getByLabel("Token").fill("letmein");
      await dialog.getByRole("button", { name: "Enter" }).click();
      await seen(page, "You joined lounge, in /private");
    }
    await here(ada, ["Ada Lovelace", "Benjamin"]);
    await say(ben, "nobody hears us here");
    await seen(ada, "nobody hears us here");
    await room(ada, "general").click();
    await seen(ada, "You joined #general", 1);
    await here(ada, ["Ada Lovelace"]);
    await here(ben, ["Benjamin"]);
    assert.equal(await count(ada, "nobody hears us here"), 0);
  });

  test("a window that lost its network says so and comes back", async () => {
    await room(ben, "general").click();
    await here(ada, ["Ada Lovelace", "Benjamin"]);
    await proxy.cut();
    await status(ben, "reconnecting");
    await seen(ben, "Connection lost");
    await here(ada, ["Ada Lovelace"]);
    await status(ben, "reconnecting, attempt 2");
    await ben.getByLabel("Message", { exact: true }).fill("written while offline");
    assert.equal(await ben.getByRole("button", { name: "Send" }).isDisabled(), true);
    await ben.screenshot({ path: join(artifacts, "reconnecting.png") });
    await say(ada, "Ben has fallen off");
    await seen(ada, "Ben has fallen off");
    await proxy.start();
    await status(ben, "connected · websocket");
    await seen(ben, "Reconnected");
    await here(ada, ["Ada Lovelace", "Benjamin"]);
    await here(ben, ["Ada Lovelace", "Benjamin"]);
    // What was in the field is still there and can be sent now.
    const send = ben.getByRole("button", { name: "Send" });
    await send.click();
    await seen(ada, "written while offline");
    await say(ada, "welcome back");
    await seen(ben, "welcome back");
    for (const text of ["written while offline", "welcome back"]) {
      assert.equal(await count(ada, text), 1);
      assert.equal(await count(ben, text), 1);
    }
  });

  test("the name is remembered for the window, a closed window leaves", async () => {
    await ben.reload();
    await seen(ben, "You joined #general");
    await here(ben, ["Ada Lovelace", "Benjamin"]);
    await say(ben, "reloaded");
    await seen(ada, "reloaded");
    const third = await open(server.url, { viewport: { width: 900, height: 700 } });
    await enter(third, "Carla");
    await here(ada, ["Ada Lovelace", "Benjamin", "Carla"]);
    // Between two polls nobody can know that a window has gone, but for the heartbeat.
    await status(third, "connected · websocket");
    await third.context().close();
    await here(ada, ["Ada Lovelace", "Benjamin"]);
    await seen(ada, "Carla left");
  });

  test("it fits a phone", async () => {
    const phone = await open(server.url, {
      viewport: { width: 375, height: 667 },
      deviceScaleFactor: 2,
      hasTouch: true,
      isMobile: true,
      colorScheme: "light",
    });
    await enter(phone, "Dora on the bus with a rather long name");
    await say(ben, "Hi Dora, does a longer message wrap nicely on such a narrow screen as yours?");
    await seen(phone, "Hi Dora");
    await say(phone, "It does.");
    await seen(ben, "It does.");
    const overflow = () =>
      phone.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
    assert.equal(await overflow(), false);
    await phone.screenshot({ path: join(artifacts, "phone.png") });
    const send = await phone.getByRole("button", { name: "Send" }).boundingBox();
    assert.ok(send.x + send.width <= 375 && send.y + send.height <= 667);
    assert.equal(await room(phone, "random").count(), 0); // the drawer is closed
    await phone.getByRole("button", { name: "Rooms and people" }).click();
    await room(phone, "random").waitFor();
    await phone.waitForFunction(
      () => document.getElementById("side").getBoundingClientRect().left === 0,
    );
    await phone.screenshot({ path: join(artifacts, "phone-menu.png") });
    await room(phone, "random").click();
    await seen(phone, "You joined #random");
    await room(phone, "general").waitFor({ state: "hidden" });
    await phone.context().close();
  });

  test("nothing was fetched from elsewhere, no error in any page", async () => {
    await ada.screenshot({ path: join(artifacts, "ada.png") });
    await ben.screenshot({ path: join(artifacts, "ben.png") });
    assert.deepEqual(foreign, []);
    assert.deepEqual(errors, []);
  });
});
