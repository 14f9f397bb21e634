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
import { io } from "socket.io-client";

import { launch } from "./chromium.mjs";
import { reference, start } from "./server.mjs";

const command = process.env.CORECAST_ADMIN_CMD || reference("admin-reference.mjs");
const isReference = !process.env.CORECAST_ADMIN_CMD;
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

const rooms = (socket) => socket.emitWithAck("rooms");

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
      launch(),
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

describe("admin protocol", () => {
  let server;
  const open = [];

  // A page without a page: the events it has got so far, by name.
  function page(auth, url = server.url) {
    const socket = io(`${url}/admin`, { forceNew: true, reconnection: false, auth });
    const got = {};
    socket.onAny((event, ...args) => (got[event] ??= []).push(args));
    open.push(socket);
    return { socket, got };
  }
  const credentials = { username: "admin", password: "open sesame" };

  async function until(holds, what) {
    for (const deadline = Date.now() + 20_000; !holds(); ) {
      assert.ok(Date.now() < deadline, `waited for ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  before(async () => {
    server = await start(command);
  });
  after(async () => {
    for (const socket of open) socket.close();
    await server?.stop();
  });

  test("s3: only the right name with the right password, or a session, is let in", async () => {
    for (const auth of [
      {},
      // The reference does not survive this one.
      ...(isReference ? [] : [{ username: "admin" }, { ...credentials, password: 7 }]),
      { ...credentials, username: "root" },
      { ...credentials, password: "open" },
      { sessionId: "0123456789abcdef" },
    ]) {
      const error = await once(page(auth).socket, "connect_error");
      assert.equal(error.message, "invalid credentials", JSON.stringify(auth));
    }
    const first = page(credentials);
    await once(first.socket, "connect");
    await until(() => first.got.session, "a session");
    const [sessionId] = first.got.session[0];
    assert.match(sessionId, /^[0-9a-f]{16,}$/);
    await once(page({ sessionId }).socket, "connect");
  });

  test("s5, s6, s7, s9: what a page is told", async () => {
    const ada = await client(server.url, { transports: ["websocket"], query: { a: "b" } });
    const { got } = page(credentials);
    await until(() => got.config && got.all_sockets && got.server_stats, "the first events");
    assert.deepEqual(got.config[0][0].supportedFeatures, [
      "EMIT",
      "JOIN",
      "LEAVE",
      "DISCONNECT",
      "MJOIN",
      "MLEAVE",
      "MDISCONNECT",
      "AGGREGATED_EVENTS",
      "ALL_EVENTS",
    ]);
    const socket = got.all_sockets[0][0].find((socket) => socket.id === ada.id);
    assert.equal(socket.clientId.length, 12);
    assert.deepEqual([socket.transport, socket.nsp, socket.data], ["websocket", "/", {}]);
    assert.deepEqual(socket.rooms.sort(), [ada.id, "lobby"].sort());
    const { handshake } = socket;
    assert.deepEqual(
      [handshake.address, handshake.query.a, handshake.secure, handshake.xdomain],
      ["127.0.0.1", "b", false, false],
    );
    assert.ok(handshake.headers.host && handshake.url.startsWith("/socket.io/?"));
    assert.ok(Math.abs(new Date(handshake.time) - handshake.issued) < 1_001);

    // Figures come again and again, with what has happened between.
    ada.emit("echo", "x".repeat(500));
    const events = () => (got.server_stats ?? []).flatMap(([stats]) => stats.aggregatedEvents);
    const sum = (type) =>
      events().reduce((sum, event) => sum + (event.type === type ? event.count : 0), 0);
    await until(() => sum("bytesIn") >= 500 && sum("bytesOut") >= 500, "bytes");
    ada.close();
    await until(
      () => events().some((e) => e.type === "rawDisconnection" && e.subType === "transport close"),
      "a disconnection",
    );
    assert.ok(sum("packetsIn") > 0 && sum("packetsOut") > 0);
    assert.ok(events().every((event) => event.timestamp % 1_000 === 0));
    const [stats] = got.server_stats.at(-1);
    assert.equal(stats.serverId, "the server");
    assert.equal(typeof stats.hostname, "string");
    assert.ok(stats.pid > 0 && stats.uptime > 0 && stats.clientsCount >= 1);
    assert.equal(typeof stats.pollingClientsCount, "number");
    const names = stats.namespaces.map(({ name }) => name).sort();
    assert.deepEqual(names, ["/", "/admin", "/chat"]);
  });

  test("s8: what happens is told, with dates", async () => {
    const { got } = page(credentials);
    await until(() => got.all_sockets, "the list");
    const socket = await client(`${server.url}/chat`);
    const { id } = socket;
    socket.emit("echo", 1, { a: Buffer.from("x") });
    socket.emit("say", "hi");
    await once(socket, "said");
    socket.emit("name", "Ada");
    await socket.emitWithAck("rooms");
    socket.close();
    const of = (event) => (got[event] ?? []).filter((args) => args.includes(id));
    await until(() => of("socket_disconnected").length && of("room_left").length > 1, "the end");
    const isDate = (text) => !Number.isNaN(Date.parse(text)) && text.endsWith("Z");
    const [connected, date] = got.socket_connected.find(([socket]) => socket.id === id);
    assert.ok(connected.nsp === "/chat" && isDate(date));
    assert.deepEqual(of("room_joined").at(-1).slice(0, 2), ["/chat", "lobby"]);
    assert.ok(isDate(of("room_joined").at(-1)[3]));
    const received = of("event_received").map((args) => args[2][0]);
    assert.deepEqual(received, ["echo", "say", "name", "rooms"]);
    const sent = of("event_sent").map((args) => args[2]);
    assert.ok(sent.some(([name, text]) => name === "said" && text === "hi"));
    assert.ok(sent.some(([name, one]) => name === "echo" && one === 1));
    const updates = got.socket_updated.map(([update]) => update).filter((it) => it.id === id);
    assert.ok(updates.some((update) => update.data?.name === "Ada"));
    assert.ok(updates.some((update) => update.transport === "websocket"));
    assert.equal(of("socket_disconnected")[0][2], "client namespace disconnect");
  });

  test("s10: commands", async () => {
    const { socket: admin } = page(credentials);
    await once(admin, "connect");
    const one = await client(server.url);
    const two = await client(server.url);
    const heard = (socket, event) => once(socket, event);
    let said = [heard(one, "news"), heard(two, "news")];
    admin.emit("emit", "/", undefined, "news", "all", 2);
    assert.deepEqual(await Promise.all(said), ["all", "all"]);
    said = heard(one, "news");
    admin.emit("emit", "/", one.id, "news", "one");
    assert.equal(await said, "one");
    admin.emit("join", "/", "attic", two.id);
    admin.emit("join", "/", "cellar");
    admin.emit("leave", "/", "lobby", "attic");
    admin.emit("emit", "/", "cellar", "news", "both");
    await Promise.all([heard(one, "news"), heard(two, "news")]);
    assert.deepEqual(await rooms(one), ["cellar", "lobby", one.id].sort());
    assert.deepEqual(await rooms(two), ["attic", "cellar", two.id].sort());
    if (!isReference) {
      // What makes no sense is ignored; it ends the reference.
      admin.emit("emit", "/nowhere", undefined, "news");
      admin.emit("emit", "/", undefined, "disconnect");
      admin.emit("join", 1, { a: 1 });
    }
    const gone = heard(two, "disconnect");
    admin.emit("_disconnect", "/", false, "attic");
    assert.equal(await gone, "io server disconnect");
    assert.ok(one.connected);
    one.close();
  });
});
