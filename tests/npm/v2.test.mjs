// End-to-end tests with old clients, socket.io-client 2.x and 1.x, against a server that allows
// Engine.IO 3; and of them together with the client of today. As in e2e.test.mjs, CORECAST_E2E_CMD
// is the server under test, by default the reference.
//
// The part in a browser (JSONP, and the binary form of polling, which only browsers use) needs
// Chromium; CHROMIUM names it (default /usr/bin/chromium).

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { launch } from "./chromium.mjs";
import { Clients, event, fence, patiently } from "./client.mjs";
import { reference, start } from "./server.mjs";

const require = createRequire(import.meta.url);
const io2 = require("socket.io-client-v2");
const io1 = require("socket.io-client-v1");

const command = process.env.CORECAST_E2E_CMD || reference("fixture.mjs");
const range = (n) => Array.from({ length: n }, (_, i) => i);
const WORDS = [
  "plain", "é", "😀", "👩‍👩‍👧", "\u2028\u2029", "\ud83d x", "a\\nb\n\"c\"", "\u0000\u001e", "",
];

// One socket of an old client, with a log like that of client.mjs.
class Old {
  log = [];
  #waiting = new Set();

  constructor(socket) {
    this.socket = socket;
    const onevent = socket.onevent;
    socket.onevent = (packet) => {
      this.log.push([...packet.data]);
      for (const check of this.#waiting) check();
      onevent.call(socket, packet);
    };
  }

  // 1.x says the first half of it only.
  get id() {
    const { nsp } = this.socket;
    return nsp === "/" ? this.socket.io.engine.id : `${nsp}#${this.socket.io.engine.id}`;
  }

  get transport() {
    return this.socket.io.engine.transport.name;
  }

  emit(...args) {
    this.socket.emit(...args);
  }

  ask(...args) {
    const answer = new Promise((resolve) => this.socket.emit(...args, resolve));
    return patiently(answer, () => `the ack of ${args[0]}`);
  }

  got(name) {
    return this.log.filter(([logged]) => logged === name).map(([, ...args]) => args);
  }

  async until(condition, what) {
    let check;
    const held = new Promise((resolve) => {
      check = () => condition(this) && resolve();
    });
    this.#waiting.add(check);
    check();
    return patiently(held, () => `${what}; arrived: ${JSON.stringify(this.log).slice(0, 2000)}`)
      .finally(() => this.#waiting.delete(check));
  }

  async next(name, nth = 1) {
    await this.until(() => this.got(name).length >= nth, `${name} number ${nth}`);
    return this.got(name)[nth - 1];
  }
}

class OldClients {
  #sockets = [];

  constructor(url, io, transports) {
    this.url = url;
    this.io = io;
    this.options = { forceNew: true, reconnection: false };
    if (transports) this.options.transports = transports;
  }

  idle(nsp = "/", options = {}) {
    const socket = this.io(this.url + nsp, { ...this.options, autoConnect: false, ...options });
    this.#sockets.push(socket);
    return new Old(socket);
  }

  async connect(nsp, options) {
    const client = this.idle(nsp, options);
    const outcome = new Promise((resolve, reject) => {
      client.socket.once("connect", resolve);
      client.socket.once("connect_error", reject);
      client.socket.once("error", (error) => reject(Object.assign(new Error("refused"), { error })));
    });
    client.socket.open();
    await patiently(outcome, () => `connect to ${nsp}`);
    return client;
  }

  close() {
    for (const socket of this.#sockets) {
      socket.io.reconnection(false);
      socket.close();
      socket.io.close();
    }
  }
}

const upgraded = async ({ socket }) => {
  const { engine } = socket.io;
  if (engine.transport.name !== "websocket") await event(engine, "upgrade");
};

for (const [version, io, transports] of [
  ["2.x over polling", io2, ["polling"]],
  ["2.x over websocket", io2, ["websocket"]],
  ["2.x with an upgrade", io2, undefined],
  ["1.x with an upgrade", io1, undefined],
]) {
  describe(`client ${version}`, () => {
    let server;
    let clients;
    let modern;
    const polls = transports?.[0] === "polling";

    before(async () => {
      server = await start(command, "--allow-eio3");
    });
    after(() => server.stop());
    beforeEach(() => {
      clients = new OldClients(server.url, io, transports);
      modern = new Clients(server.url, transports);
    });
    afterEach(async () => {
      clients.close();
      await modern.close();
    });

    test("H-1 H-10 H-11 it is let in and greeted", async () => {
      for (const nsp of ["/", "/chat"]) {
        const client = await clients.connect(nsp);
        const [welcome] = await client.next("welcome");
        assert.deepEqual(welcome, { nsp, id: client.id, user: null });
        if (io === io2) assert.equal(client.socket.id, client.id);
        assert.deepEqual(await client.ask("rooms"), [client.id]);
      }
    });

    test("it runs on the transport it should", async () => {
      const client = await clients.connect("/");
      if (!transports) {
        await upgraded(client);
        assert.deepEqual(await client.ask("echo:ack", 1), 1);
      }
      assert.equal(client.transport, transports?.[0] ?? "websocket");
    });

    test("H-2 events both ways, in order, with any text", async () => {
      const client = await clients.connect("/");
      // Old clients of 1.x encode UTF-8 twice on polling.
      const words = io === io1 ? ["plain", ""] : WORDS;
      for (const word of words) client.emit("echo", word, { [word]: [word] });
      await client.next("echo", words.length);
      const expected = words.map((word) => [word, { [word]: [word] }]);
      assert.deepEqual(client.got("echo"), expected);
      for (const i of range(300)) client.emit("echo", i);
      await client.next("echo", words.length + 300);
      assert.deepEqual(client.got("echo").slice(words.length).flat(), range(300));
    });

    test("H-3 H-6 binary both ways", async () => {
      const client = await clients.connect("/");
      const word = io === io1 ? "e" : "é";
      for (const n of [0, 1, 5, 300, 70_000]) {
        const bytes = Buffer.from(range(n).map((i) => i & 255));
        client.emit("echo", bytes, { nested: [bytes, 1] }, word);
      }
      await client.next("echo", 5);
      for (const [at, n] of [0, 1, 5, 300, 70_000].entries()) {
        const bytes = Buffer.from(range(n).map((i) => i & 255));
        assert.deepEqual(client.got("echo")[at], [bytes, { nested: [bytes, 1] }, word]);
      }
      const sums = await client.ask("binary:sum", Buffer.from([1, 2]), [Buffer.from([255])]);
      assert.deepEqual(sums, [{ length: 2, sum: 3 }, { length: 1, sum: 255 }]);
      client.emit("binary:make", 3);
      const [made] = await client.next("binary:made");
      const bytes = Buffer.from([0, 1, 2]);
      assert.deepEqual(made, { n: 3, bytes, nested: [{ again: bytes }] });
    });

    test("acks both ways", async () => {
      const client = await clients.connect("/chat");
      assert.deepEqual(await client.ask("echo:ack", { a: [1] }), { a: [1] });
      assert.deepEqual(await client.ask("echo:ack", Buffer.from([7])), Buffer.from([7]));
      client.socket.on("question", (question, answer) => answer(question, "yes"));
      client.emit("ask:me", Buffer.from([1]), 30_000);
      const [result] = await client.next("ask:result");
      assert.deepEqual(result, { ok: true, answers: [Buffer.from([1]), "yes"] });
      client.socket.off("question");
      client.emit("ask:me", "nobody", 20);
      const [late] = await client.next("ask:result", 2);
      assert.deepEqual(late, { ok: false, error: "timeout" });
    });

    test("H-12 a namespace with a query", async () => {
      const client = await clients.connect("/admin?token=secret&user=ad%20a");
      const shake = await client.ask("handshake");
      assert.equal(shake.auth.token, "secret");
      assert.equal(shake.auth.user, "ad a");
      assert.equal(shake.query.EIO, "3");
      assert.deepEqual(await client.ask("rooms"), [client.id, "user:ad a"].sort());
      assert.equal((await client.next("welcome"))[0].user, "ad a");
    });

    test("H-13 refusals", async () => {
      await assert.rejects(clients.connect("/admin?token=wrong"), {
        error: { code: 401, content: "retry later" },
      });
      await assert.rejects(clients.connect("/unknown?a=b"), {
        error: { message: "Invalid namespace" },
      });
    });

    test("two namespaces on one connection", async () => {
      const main = await clients.connect("/");
      const chat = new Old(main.socket.io.socket("/chat"));
      chat.socket.open();
      await event(chat.socket, "connect");
      assert.equal(await main.ask("echo:ack", 1), 1);
      assert.equal(await chat.ask("echo:ack", 2), 2);
      const gone = event(chat.socket, "disconnect");
      chat.emit("disconnect:me", false);
      assert.deepEqual(await gone, ["io server disconnect"]);
      assert.equal(await main.ask("echo:ack", 3), 3);
    });

    test("H-6 one room of old and new clients", async () => {
      const olds = await Promise.all(range(3).map(() => clients.connect("/")));
      const news = await modern.many(3, "/");
      const everyone = [...olds, ...news];
      const word = io === io1 ? "e" : "é😀";
      for (const client of everyone) {
        assert.deepEqual(await client.ask("join", "mixed"), [client.id, "mixed"].sort());
      }
      for (const sender of [olds[0], news[0]]) {
        for (const client of everyone) client.log.length = 0;
        for (const i of range(20)) sender.emit("relay", "mixed", i, word, Buffer.from([i, 255]));
        await fence(sender, everyone);
        for (const client of everyone) {
          const expected = range(20).map((i) => [i, word, Buffer.from([i, 255])]);
          assert.deepEqual(client.got("relay"), client === sender ? [] : expected);
        }
      }
    });

    test("H-11 an old client's id is a room", async () => {
      const [a, b] = await Promise.all([clients.connect("/chat"), clients.connect("/chat")]);
      const [c] = await modern.many(1, "/chat");
      c.emit("to", { from: "io", to: [a.id] }, "to a");
      c.emit("to", { from: "io", except: [a.id] }, "not to a");
      a.emit("broadcast", "not from me");
      await fence(c, [a, b, c]);
      await fence(a, [a, b, c]);
      assert.deepEqual(a.got("to"), [["to a"]]);
      assert.deepEqual(b.got("to"), [["not to a"]]);
      assert.deepEqual(c.got("to"), [["not to a"]]);
      assert.deepEqual([a, b, c].map((client) => client.got("broadcast").length), [0, 1, 1]);
    });

    test("it leaves, and the server hears why", async () => {
      const [watcher] = await modern.many(1, "/notifications");
      const reports = async (id) => {
        const mine = () => watcher.got("peer:disconnect").filter(([peer]) => peer.id === id);
        await watcher.until(() => mine().length > 0, "the report");
        return mine().map(([peer]) => peer.reason);
      };
      const leaver = await clients.connect("/");
      if (!transports) await upgraded(leaver);
      const { id } = leaver;
      leaver.socket.disconnect();
      // 2.x sends DISCONNECT and closes: whichever is read first.
      const [reason] = await reports(id);
      assert.ok(["client namespace disconnect", "transport close"].includes(reason), reason);
      const closer = await clients.connect("/");
      if (!transports) await upgraded(closer);
      const closed = closer.id;
      closer.socket.io.engine.close();
      assert.deepEqual(await reports(closed), ["transport close"]);
      for (const close of [false, true]) {
        const client = await clients.connect("/");
        const gone = event(client.socket, "disconnect");
        const { id } = client;
        client.emit("disconnect:me", close);
        assert.deepEqual(await gone, ["io server disconnect"]);
        assert.deepEqual(await reports(id), ["server namespace disconnect"]);
      }
    });

    test("it comes back", async () => {
      const eager = { reconnection: true, reconnectionDelay: 10, reconnectionDelayMax: 50 };
      const client = await clients.connect("/chat", eager);
      const { id } = client;
      const back = event(client.socket, "reconnect");
      client.emit("drop");
      await back;
      assert.equal(await client.ask("echo:ack", "back"), "back");
      assert.notEqual(client.id, id);
    });
    if (polls) {
      test("it stays on polling", async () => {
        const client = await clients.connect("/");
        for (const i of range(30)) assert.equal(await client.ask("echo:ack", i), i);
        assert.equal(client.transport, "polling");
      });
    }
  });
}

describe("H-9 clients that cannot do binary frames", () => {
  let server;
  before(async () => {
    server = await start(command, "--allow-eio3");
  });
  after(() => server.stop());

  for (const transport of ["polling", "websocket"]) {
    test(`old and new over ${transport}`, async () => {
      const clients = new OldClients(server.url, io2, [transport]);
      const modern = new Clients(server.url, [transport]);
      const old = await clients.connect("/", { forceBase64: true });
      const today = await modern.connect("/", { forceBase64: true });
      for (const client of [old, today]) {
        const bytes = Buffer.from([0, 1, 255]);
        assert.deepEqual(Buffer.from(await client.ask("echo:ack", bytes)), bytes);
        await client.ask("join", "base64");
      }
      today.emit("to", { from: "io", to: ["base64"] }, Buffer.from([7, 8]));
      for (const client of [old, today]) {
        assert.deepEqual(Buffer.from((await client.next("to"))[0]), Buffer.from([7, 8]));
      }
      clients.close();
      await modern.close();
    });
  }
});

describe("H-7 heartbeat of a 2.x client", () => {
  let server;
  before(async () => {
    server = await start(command, "--allow-eio3 --ping-interval 100 --ping-timeout 2000");
  });
  after(() => server.stop());

  for (const transport of ["polling", "websocket"]) {
    test(`it pings over ${transport} and stays`, async () => {
      const clients = new OldClients(server.url, io2, [transport]);
      const client = await clients.connect("/");
      let pongs = 0;
      client.socket.on("pong", () => pongs++);
      while (pongs < 5) await event(client.socket, "pong");
      assert.equal(await client.ask("echo:ack", 1), 1);
      assert.equal(client.got("welcome").length, 1);
      clients.close();
    });
  }

  test("one that does not ping is given up", async () => {
    const modern = new Clients(server.url);
    const watcher = await modern.connect("/notifications");
    const clients = new OldClients(server.url, io2, ["websocket"]);
    const client = await clients.connect("/");
    const { id } = client;
    const { engine } = client.socket.io;
    clearTimeout(engine.pingIntervalTimer);
    // It would give the server up at the same time.
    engine.off("heartbeat", engine.onHeartbeat);
    clearTimeout(engine.pingTimeoutTimer);
    const found = () => watcher.got("peer:disconnect").filter(([peer]) => peer.id === id);
    await watcher.until(() => found().length > 0, "the report");
    assert.equal(found()[0][0].reason, "ping timeout");
    clients.close();
    await modern.close();
  });
});

describe("U-1 A.3 without allowEIO3", () => {
  let server;
  before(async () => {
    server = await start(command);
  });
  after(() => server.stop());

  for (const transport of ["polling", "websocket"]) {
    test(`a 2.x client is refused over ${transport}`, async () => {
      const clients = new OldClients(server.url, io2, [transport]);
      await assert.rejects(clients.connect("/"));
      clients.close();
      const response = await fetch(`${server.url}/socket.io/?EIO=3&transport=polling`);
      assert.equal(response.status, 400);
      const message = "Unsupported protocol version";
      assert.deepEqual(await response.json(), { code: 5, message });
    });
  }
});

describe("2.x in a browser", () => {
  let server;
  let browser;
  before(async () => {
    server = await start(command, "--allow-eio3");
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  for (const [name, options] of [
    ["B-19 JSONP", { transports: ["polling"], forceJSONP: true }],
    ["H-4 H-5 polling with binary payloads", { transports: ["polling"] }],
    ["websocket", { transports: ["websocket"] }],
    ["an upgrade", {}],
  ]) {
    test(`${name}`, async () => {
      const page = await browser.newPage();
      page.setDefaultTimeout(30_000);
      const scripts = [];
      const bodies = new Set();
      page.on("request", (request) => {
        if (request.resourceType() === "script") scripts.push(request.url());
      });
      page.on("response", async (response) => {
        bodies.add(response.headers()["content-type"]);
      });
      const bundle = await readFile(require.resolve("socket.io-client-v2/dist/socket.io.js"));
      // Any page of that origin: this one is the client of today, shown as text.
      await page.goto(`${server.url}/socket.io/socket.io.js`);
      await page.addScriptTag({ content: bundle.toString() });
      const words = WORDS.filter((word) => !/\ud83d x/.test(word));
      const result = await page.evaluate(
        async ([url, options, words]) => {
          const socket = io(url, { forceNew: true, reconnection: false, ...options });
          const ask = (...args) => new Promise((resolve) => socket.emit(...args, resolve));
          await new Promise((resolve, reject) => {
            socket.once("connect", resolve);
            socket.once("connect_error", (error) => reject(new Error(`refused: ${error}`)));
          });
          const echoes = [];
          for (const word of words) echoes.push(await ask("echo:ack", word));
          const bytes = new Uint8Array(300).map((_, i) => i & 255);
          const back = new Uint8Array(await ask("echo:ack", bytes.buffer));
          const pushed = new Promise((resolve) => socket.once("binary:made", resolve));
          socket.emit("binary:make", 300);
          const made = new Uint8Array((await pushed).bytes);
          const equal = (one, other) =>
            one.length === other.length && one.every((x, i) => x === other[i]);
          const { engine } = socket.io;
          if (!options.transports && engine.transport.name !== "websocket") {
            await new Promise((resolve) => engine.once("upgrade", resolve));
          }
          const { name } = engine.transport;
          const gone = new Promise((resolve) => socket.once("disconnect", resolve));
          socket.emit("disconnect:me", true);
          return [echoes, equal(bytes, back), equal(bytes, made), name, await gone];
        },
        [server.url, options, words],
      );
      assert.deepEqual(result.slice(0, 3), [words, true, true]);
      assert.equal(result[4], "io server disconnect");
      assert.equal(result[3], options.transports?.[0] ?? "websocket");
      const polls = scripts.filter((url) => /[?&]j=\d/.test(url));
      assert.equal(polls.length > 0, Boolean(options.forceJSONP));
      if (name.startsWith("H-4")) assert.ok(bodies.has("application/octet-stream"), [...bodies]);
      await page.close();
    });
  }
});
