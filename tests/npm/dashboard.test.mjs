// The gateway's dashboard in headless Chromium, with clients of the official library connected.
//
// CORECAST_GATEWAY names the binary (default target/debug/corecast in the root of the repository).
// CHROMIUM names the browser (default /usr/bin/chromium), ARTIFACTS the folder for screenshots
// (default artifacts/ in the root).

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";

import { launch } from "./chromium.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const program = process.env.CORECAST_GATEWAY || join(root, "target/debug/corecast");
const artifacts = process.env.ARTIFACTS || join(root, "artifacts");
const folder = mkdtempSync(join(tmpdir(), "dashboard-"));
const KEY = "a key of the tests, long enough";
const CLIENTS = 12;
const CONFIG = `
[[api.key]]
name = "all"
key = "${KEY}"
[[api.key]]
name = "no reading"
key = "another key of the tests"
actions = ["emit"]
[[namespace]]
name = "/"
[[namespace]]
name = "/chat"
route = [{ event = "say", do = "broadcast" }]
`;

describe("dashboard", () => {
  let gateway;
  let api;
  let browser;
  const sockets = [];
  const foreign = []; // requests to anywhere but the API
  const errors = []; // exceptions and console errors of the pages

  async function command(name, body) {
    const headers = { authorization: `Bearer ${KEY}`, "content-type": "application/json" };
    const options = { method: "POST", headers, body: JSON.stringify(body) };
    const response = await fetch(`${api}/v1/${name}`, options);
    assert.ok(response.ok, await response.text());
  }

  async function open(options) {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    context.setDefaultTimeout(30_000);
    const page = await context.newPage();
    page.on("request", (request) => {
      const isOurs = request.url().startsWith(`${api}/`) || request.url().startsWith("data:");
      if (!isOurs) foreign.push(request.url());
    });
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => {
      // That a key is needed is found out by asking.
      const isAsked = /status of 40[13]/.test(message.text());
      if (message.type() === "error" && !isAsked) errors.push(message.text());
    });
    await page.goto(api);
    return page;
  }

  async function unlock(page) {
    const dialog = page.getByRole("dialog", { name: "A key is needed" });
    await dialog.getByLabel("Key").fill(KEY);
    await dialog.getByRole("button").click();
    await page.getByRole("status").filter({ hasText: /^ready$/ }).waitFor();
  }

  const tile = (page, name) =>
    page.locator(".tile", { has: page.getByText(name, { exact: true }) }).locator("dd");
  const shows = (place, text) => place.filter({ hasText: text }).first().waitFor();

  before(async () => {
    mkdirSync(artifacts, { recursive: true });
    const config = join(folder, "corecast.toml");
    writeFileSync(config, CONFIG);
    const ports = ["--listen", "127.0.0.1:0", "--api", "127.0.0.1:0"];
    gateway = spawn(program, ["serve", "--config", config, ...ports], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let data;
    for await (const line of createInterface(gateway.stdout)) {
      const [, name, url] = /^(.*) on (http:.*)$/.exec(line);
      if (name === "listening") data ??= url;
      else api = url;
      if (api) break;
    }
    assert.ok(api, "the gateway has started");
    for (let number = 0; number < CLIENTS; number += 1) {
      const path = number % 3 === 0 ? "/chat" : "";
      const transports = number % 4 === 0 ? ["polling"] : ["websocket"];
      sockets.push(io(data + path, { transports, forceNew: true }));
    }
    await Promise.all(sockets.map((socket) => new Promise((done) => socket.on("connect", done))));
    await command("join", { join: ["lobby"] });
    for (let room = 0; room < 30; room += 1) {
      const join = [`a room with number ${String(room).padStart(2, "0")}`];
      await command("join", { namespace: "/chat", sockets: [sockets[0].id], join });
    }
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    sockets.forEach((socket) => socket.disconnect());
    if (gateway && gateway.exitCode === null) {
      gateway.kill("SIGKILL");
      await once(gateway, "exit");
    }
    rmSync(folder, { recursive: true, force: true });
  });

  test("it shows nothing without a key, and says why", async () => {
    const page = await open({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
    const dialog = page.getByRole("dialog", { name: "A key is needed" });
    await dialog.waitFor();
    assert.equal(await page.locator(".tile").count(), 0);
    await page.screenshot({ path: join(artifacts, "dashboard-key.png") });
    for (const [key, reason] of [["wrong", /not known/], ["another key of the tests", /read/]]) {
      await dialog.getByLabel("Key").fill(key);
      await dialog.getByRole("button").click();
      await page.getByRole("alert").filter({ hasText: reason }).waitFor();
    }
    await unlock(page);
    await page.reload();
    await shows(tile(page, "Connections"), String(CLIENTS));
    await page.getByRole("button", { name: "Forget key" }).click();
    await dialog.waitFor();
    await page.context().close();
  });

  test("what it shows is what there is, and it is live", async () => {
    const page = await open({ viewport: { width: 1280, height: 1150 }, colorScheme: "light" });
    await unlock(page);
    await shows(tile(page, "Connections"), String(CLIENTS));
    await shows(tile(page, "Sockets"), String(CLIENTS));
    const namespaces = page.getByRole("region", { name: "Namespaces" });
    await shows(namespaces.getByRole("row"), /^\/chat\s*4\s*30/);
    const rooms = page.getByRole("region", { name: "Rooms" });
    await shows(rooms.getByRole("row"), /^lobby\s*8/);
    await page.getByLabel("Namespace of the rooms").selectOption("/chat");
    await shows(rooms.getByRole("row"), /^a room with number 19\s*1/);
    assert.equal(await rooms.getByText("a room with number 20").count(), 0);
    await page.getByRole("button", { name: "More rooms" }).click();
    await rooms.getByText("a room with number 29").waitFor();

    for (let number = 0; number < 40; number += 1) {
      await command("emit", { event: "news", args: [number] });
      sockets[0].emit("say", `hello ${number}`);
    }
    await tile(page, "Sent to clients").filter({ hasNotText: /^0\/s/ }).waitFor();
    await tile(page, "Fan-out p99").filter({ hasText: /≤/ }).waitFor();
    const shards = page.getByRole("region", { name: "Shards" });
    await shows(shards.getByRole("row"), /^0/);
    const sent = page.locator("#rates svg");
    await sent.and(page.locator('[aria-label^="highest"]')).waitFor();
    await page.waitForFunction(() => /L/.test(document.querySelector("#rates path.one").getAttribute("d")));
    sockets[1].disconnect();
    await shows(tile(page, "Connections"), String(CLIENTS - 1));
    await page.screenshot({ path: join(artifacts, "dashboard.png"), fullPage: true });
    await page.context().close();
  });

  test("it fits a phone, in the dark", async () => {
    const page = await open({
      viewport: { width: 390, height: 844 },
      deviceScaleFactor: 2,
      hasTouch: true,
      isMobile: true,
      colorScheme: "dark",
    });
    await unlock(page);
    await shows(tile(page, "Connections"), String(CLIENTS - 1));
    const widths = () => page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.deepEqual(await widths(), [390, 390]);
    await page.screenshot({ path: join(artifacts, "dashboard-phone.png"), fullPage: true });
    await page.context().close();
  });

  test("a gateway that has gone is told", async () => {
    const page = await open({ viewport: { width: 1280, height: 800 }, colorScheme: "dark" });
    await unlock(page);
    await page.route("**/v1/stats", (route) => route.abort());
    await page.getByRole("status").filter({ hasText: "no answer" }).waitFor();
    await page.unroute("**/v1/stats");
    await page.getByRole("status").filter({ hasText: /^ready$/ }).waitFor();
    await page.context().close();
  });

  test("nothing was fetched, no error in any page", () => {
    assert.deepEqual(foreign, []);
    const unexpected = errors.filter((error) => !/net::ERR_FAILED/.test(error));
    assert.deepEqual(unexpected, []);
  });
});
