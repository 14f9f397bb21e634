// The official admin UI in headless Chromium, served from its npm package, against a server.
//
// CORECAST_ADMIN_CMD is the shell command line of the server under test, run in the root of the
// repository with `--listen 127.0.0.1:0` and options appended. Default: the reference,
// admin-reference.mjs. CHROMIUM and ARTIFACTS as in browser.test.mjs.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { io } from "socket.io-client";

import { reference, start } from "./server.mjs";

const command = process.env.CORECAST_ADMIN_CMD || reference("admin-reference.mjs");
const artifacts =
  process.env.ARTIFACTS || fileURLToPath(new URL("../../artifacts", import.meta.url));
mkdirSync(artifacts, { recursive: true });
const dist = fileURLToPath(new URL("node_modules/@socket.io/admin-ui/ui/dist", import.meta.url));
const types = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".png": "image/png",
};

// Serves the UI's files; its origin is another one than the server's.
async function serveUi() {
  const web = createServer(async (request, response) => {
    const path = new URL(request.url, "http://ui").pathname;
    const file = path === "/" ? "/index.html" : path;
    try {
      const body = await readFile(join(dist, file));
      response.writeHead(200, { "content-type": types[extname(file)] ?? "text/plain" });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => web.listen(0, "127.0.0.1", resolve));
  return web;
}

const once = (socket, event) => new Promise((resolve) => socket.once(event, resolve));

// A client that has been welcomed.
async function client(url, options) {
  const socket = io(url, { forceNew: true, ...options });
  await once(socket, "welcome");
  return socket;
}

describe("admin UI", () => {
  let web;
  let browser;
  let server;
  let page;
  let ada; // in `/`, websocket
  const errors = [];

  async function open() {
    const context = await browser.newContext({ viewport: { width: 1400, height: 1000 } });
    context.setDefaultTimeout(30_000);
    const opened = await context.newPage();
    opened.on("pageerror", (error) => errors.push(String(error)));
    // Its fonts come from elsewhere; nothing here does.
    await opened.route("**/*", (route) =>
      route.request().url().startsWith("http://127.0.0.1") ? route.continue() : route.abort(),
    );
    await opened.goto(`http://127.0.0.1:${web.address().port}/`);
    return opened;
  }

  async function login(page, url, password) {
    await page.getByLabel("Server URL").fill(url);
    await page.getByLabel("Username").fill("admin");
    await page.getByLabel("Password").fill(password);
    await page.getByRole("button", { name: "Connect" }).click();
  }

  const connected = (page) => page.locator("header").getByText(/^\s*connected\s*$/i).first().waitFor();
  const menu = (page, name) => page.locator("nav a", { hasText: name }).first().click();
  const row = (page, text) => page.locator("tr", { hasText: text }).first();
  const button = (inside, icon) => inside.locator(`button:has(.mdi-${icon})`);
  const rooms = (socket) => socket.emitWithAck("rooms");

  // Waits until the client is in those rooms beside its own.
  async function isIn(socket, expected) {
    const all = [socket.id, ...expected].sort();
    for (const deadline = Date.now() + 20_000; ; ) {
      const found = await rooms(socket);
      if (JSON.stringify(found) === JSON.stringify(all)) return;
      assert.ok(Date.now() < deadline, `${found} is not ${all}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  before(async () => {
    [web, browser, server] = await Promise.all([
      serveUi(),
      chromium.launch({
        executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
        headless: true,
        args: [
          "--no-sandbox",
          "--disable-gpu",
          "--disable-quic",
          "--no-first-run",
          "--disable-background-networking",
          "--disable-component-update",
          "--disable-sync",
        ],
      }),
      start(command),
    ]);
    ada = await client(server.url, { transports: ["websocket"] });
    page = await open();
  });
  after(async () => {
    ada?.close();
    await browser?.close();
    web?.close();
    await server?.stop();
  });

  test("s3: a wrong password is refused", async () => {
    await login(page, server.url, "wrong");
    await page.getByText("invalid credentials").waitFor();
  });

  test("s5, s6: the dashboard shows the server, its clients and namespaces", async () => {
    await login(page, server.url, "open sesame");
    await connected(page);
    await row(page, "HEALTHY").getByText("1", { exact: true }).waitFor();
    for (const name of ["/admin", "/chat"]) await row(page, name).waitFor();
    await page.getByText("Connection and disconnection events").waitFor();
    await page.screenshot({ path: join(artifacts, "admin-dashboard.png") });
    await menu(page, "Servers");
    await row(page, "the server").getByText("HEALTHY").waitFor();
  });

  test("s8: sockets come and go, transports change", async () => {
    await menu(page, "Sockets");
    await row(page, ada.id).getByText("WebSocket").waitFor();
    const ben = await client(server.url); // polling first
    await row(page, ben.id).getByText("WebSocket").waitFor();
    const { id } = ben;
    ben.close();
    await row(page, id).waitFor({ state: "detached" });
    const carl = await client(server.url, { transports: ["polling"] });
    await row(page, carl.id).getByText("HTTP long-polling").waitFor();
    carl.close();
  });

  // Shows a socket's page; what a page shows of a socket's data does not change while it is open.
  async function details(socket) {
    await menu(page, "Sockets");
    await row(page, socket.id).click();
    await page.getByText("Initial HTTP request").waitFor();
  }

  test("s9, s11: a socket's details and data", async () => {
    ada.emit("name", "Ada Lovelace");
    await isIn(ada, ["lobby"]);
    await details(ada);
    await row(page, "transport").getByText("websocket").waitFor();
    await row(page, "host").waitFor();
    await page.getByText("Ada Lovelace").waitFor();
    await page.screenshot({ path: join(artifacts, "admin-socket.png") });
  });

  test("s10: a socket joins a room and leaves it", async () => {
    await page.getByLabel("Join a room").fill("attic");
    await button(page, "tag-plus-outline").click();
    await isIn(ada, ["attic", "lobby"]);
    await button(row(page, "attic"), "tag-off-outline").click();
    await isIn(ada, ["lobby"]);
    // The click has led to the page of the room.
    await details(ada);
    await row(page, "lobby").waitFor();
    assert.equal(await row(page, "attic").count(), 0);
  });

  test("s10: a room is cleared", async () => {
    await menu(page, "Rooms");
    await row(page, "lobby").waitFor();
    await page.screenshot({ path: join(artifacts, "admin-rooms.png") });
    await button(row(page, "lobby"), "tag-off-outline").click();
    await isIn(ada, []);
    await menu(page, "Rooms");
    await row(page, "lobby").waitFor({ state: "detached" });
  });

  test("s8: events are live", async () => {
    await menu(page, "Events");
    ada.emit("echo", { a: [1] });
    await once(ada, "echo");
    await row(page, "Event sent").getByText("Event name: echo").waitFor();
    await row(page, "Event received").getByText("Event name: echo").waitFor();
    await page.screenshot({ path: join(artifacts, "admin-events.png") });
  });

  test("s10: a socket is disconnected", async () => {
    await menu(page, "Sockets");
    const gone = once(ada, "disconnect");
    await button(row(page, ada.id), "logout").click();
    assert.equal(await gone, "io server disconnect");
    await row(page, ada.id ?? "no socket").waitFor({ state: "detached" });
  });

  test("s10: a whole client is disconnected", async () => {
    const dora = await client(`${server.url}/chat`, { transports: ["websocket"] });
    await menu(page, "Clients");
    const gone = once(dora, "disconnect");
    const others = page.locator("tbody tr", { hasText: "WebSocket" });
    // The UI's own client has two namespaces' worth of sockets or one; it came first.
    await button(others.last(), "logout").click();
    assert.match(await gone, /io server disconnect|transport close/);
    dora.close();
  });

  // The reference says `session` before the UI listens, so its users log in again each time.
  const isReference = !process.env.CORECAST_ADMIN_CMD;
  test("s3: a page that is loaded again needs no password", { skip: isReference }, async () => {
    await page.reload();
    await connected(page);
    await menu(page, "Servers");
    await row(page, "the server").getByText("HEALTHY").waitFor();
  });

  test("s5: in production mode there are figures and no sockets", async () => {
    const production = await start(command, "--mode production");
    const other = await open();
    await login(other, production.url, "open sesame");
    await connected(other);
    await row(other, "HEALTHY").waitFor();
    await row(other, "/chat").waitFor();
    assert.equal(await other.locator("nav a", { hasText: "Sockets" }).count(), 0);
    await other.context().close();
    await production.stop();
  });

  test("no page has failed", () => assert.deepEqual(errors, []));
});
