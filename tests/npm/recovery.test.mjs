// Connection-state recovery (L-5 … L-15) with the official JavaScript client. The command of the
// server under test and the default are as in e2e.test.mjs; `--recovery MS` is appended.
//
// With several shards a client comes back to any of them; tests with several rounds see both cases.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Clients, event, fence, upgraded } from "./client.mjs";
import { parserName } from "./parsers.mjs";
import { reference, start } from "./server.mjs";

const server = process.env.CORECAST_E2E_CMD || reference("fixture.mjs");
const command = `${server} --parser ${parserName}`;
const isReference = !process.env.CORECAST_E2E_CMD;
const range = (n) => Array.from({ length: n }, (_, i) => i);

// The offset is one more argument of recoverable events (L-7).
const bare = (args) => args.slice(0, -1);

for (const [name, transports] of [
  ["polling", ["polling"]],
  ["websocket", ["websocket"]],
  ["default transports", undefined],
]) {
  describe(name, () => {
    let server;
    let clients;

    before(async () => {
      // A client whose websocket goes after the probe's pong, while it waits for its last poll, has
      // neither then (`_probe` of engine.io-client), and only misses the pings: for 15 s here.
      server = await start(command, "--recovery 60000 --ping-interval 5000 --ping-timeout 10000");
    });
    after(() => server.stop());
    beforeEach(() => {
      clients = new Clients(server.url, transports);
    });
    afterEach(() => clients.close());

    suite({
      transports,
      get server() {
        return server;
      },
      get clients() {
        return clients;
      },
    });
  });
}

// Two clients: one that will go, and one that stays, with a watcher of disconnections.
async function cast(context, nsp = "/", options) {
  const watcher = await context.clients.connect("/notifications");
  const stayer = await context.clients.connect(nsp, options);
  const leaver = await context.clients.connect(nsp, options);
  await leaver.next("welcome");
  if (!context.transports) await upgraded(leaver);
  return { watcher, stayer, leaver };
}

// The client's connection ends; returns when the server knows.
async function vanish(leaver, watcher) {
  const { id } = leaver;
  const left = event(leaver.socket, "disconnect");
  leaver.vanish();
  // At once, or when a request that is under way has been answered: to connect before that would be
  // in vain.
  await left;
  if (!watcher) return;
  const gone = ([name, peer]) => name === "peer:disconnect" && peer.id === id;
  await watcher.until(() => watcher.log.some(gone), "the disconnection");
}

async function comeBack(client) {
  const connected = event(client.socket, "connect");
  client.socket.connect();
  await connected;
}

function suite(context) {
  test("a first connection has not recovered", async () => {
    const client = await context.clients.connect("/");
    assert.equal(client.socket.recovered, false);
    assert.equal(await client.ask("recovered"), false);
  });

  test("id, rooms and data are kept, missed events come in order", async () => {
    const { watcher, stayer, leaver } = await cast(context);
    const { id } = leaver;
    for (const round of range(6)) {
      const room = `room ${round}`;
      await leaver.ask("join", room);
      await leaver.ask("data:set", "round", round);
      const rooms = await leaver.ask("rooms");
      const before = leaver.got("to").length + leaver.got("all").length;
      await vanish(leaver, watcher);
      stayer.emit("to", { from: "io", to: [room] }, round, "room");
      stayer.emit("to", { from: "io", to: [id] }, round, "id");
      stayer.emit("to", { from: "io", to: ["elsewhere"] }, round, "not for it");
      stayer.emit("to", { from: "io", to: [room], except: [id] }, round, "but it");
      stayer.emit("all", round, "all");
      await fence(stayer, [stayer]);
      await comeBack(leaver);
      assert.equal(leaver.socket.recovered, true, `round ${round}`);
      assert.equal(leaver.id, id);
      assert.equal(await leaver.ask("recovered"), true);
      assert.deepEqual(await leaver.ask("rooms"), rooms);
      assert.equal(await leaver.ask("data:get", "round"), round);
      await fence(stayer, [leaver]);
      const log = leaver.log.filter(([name]) => name === "to" || name === "all");
      const expected = ["room", "id", "all"].map((what) => [round, what]);
      const got = log.slice(before).map((entry) => bare(entry.slice(1)));
      assert.deepEqual(got.filter((args) => args.length === 2), expected);
      // And it is reached by its old id, wherever it is now.
      stayer.emit("to", { from: "io", to: [id] }, round, "again");
      await leaver.until(
        () => leaver.got("to").some(([n, what]) => n === round && what === "again"),
        "an event by id",
      );
    }
  });

  test("binary events are replayed", async () => {
    const { watcher, stayer, leaver } = await cast(context);
    await vanish(leaver, watcher);
    stayer.emit("all", Buffer.from([1, 2, 3]), { nested: [Buffer.from("ü")] }, "text");
    await fence(stayer, [stayer]);
    await comeBack(leaver);
    assert.equal(leaver.socket.recovered, true);
    await leaver.until(() => leaver.got("all").length >= 1, "the event");
    const [bytes, { nested }, text] = leaver.got("all")[0];
    assert.deepEqual([...Buffer.from(bytes)], [1, 2, 3]);
    assert.equal(Buffer.from(nested[0]).toString(), "ü");
    assert.equal(text, "text");
  });

  test("volatile events are not", async () => {
    const { watcher, stayer, leaver } = await cast(context);
    await vanish(leaver, watcher);
    stayer.emit("all:volatile", 1);
    await fence(stayer, [stayer]);
    await comeBack(leaver);
    assert.equal(leaver.socket.recovered, true);
    await fence(stayer, [leaver]);
    assert.deepEqual(leaver.got("all:volatile"), []);
  });

  test("a client that has received nothing yet", { skip: isReference }, async () => {
    for (const round of range(4)) {
      const stayer = await context.clients.connect("/quiet");
      const leaver = await context.clients.connect("/quiet");
      if (!context.transports) await upgraded(leaver);
      const { id } = leaver;
      await vanish(leaver);
      stayer.emit("all", round);
      await fence(stayer, [stayer]);
      await comeBack(leaver);
      assert.equal(leaver.socket.recovered, true);
      assert.equal(leaver.id, id);
      await fence(stayer, [leaver]);
      assert.deepEqual(bare(leaver.got("all")[0]), [round]);
    }
  });

  // The reference does not know of the session before it has noticed that the connection is gone.
  const noticed = { skip: isReference };
  test("a connection that is cut without a word, again and again", noticed, async () => {
    const proxy = await context.clients.proxy(context.server.port);
    const stayer = await context.clients.connect("/");
    const leaver = await context.clients.connect("/", { url: proxy.url });
    if (!context.transports) await upgraded(leaver);
    const { id } = leaver;
    let sent = 0;
    for (const round of range(8)) {
      for (const _ of range(20)) stayer.emit("all", sent++);
      if (round % 2) await fence(stayer, [stayer]);
      const lost = leaver.socket.connected && event(leaver.socket, "disconnect");
      await proxy.cut();
      await lost;
      for (const _ of range(20)) stayer.emit("all", sent++);
      await proxy.start();
      await comeBack(leaver);
      assert.equal(leaver.socket.recovered, true, `round ${round}`);
      assert.equal(leaver.id, id);
    }
    await fence(stayer, [leaver]);
    const numbers = leaver.got("all").map(([n]) => n).filter((n) => typeof n === "number");
    assert.deepEqual(numbers, range(sent));
  });

  test("a namespace that was left is not recovered", async () => {
    const client = await context.clients.connect("/");
    const { id } = client;
    const gone = event(client.socket, "disconnect");
    client.emit("disconnect:me", false);
    await gone;
    await comeBack(client);
    assert.equal(client.socket.recovered, false);
    assert.notEqual(client.id, id);
  });

  test("middleware is not asked again", async () => {
    const { watcher, leaver } = await cast(context, "/admin", { auth: { token: "secret" } });
    leaver.socket.auth = { token: "forgotten" };
    await vanish(leaver, watcher);
    await comeBack(leaver);
    assert.equal(leaver.socket.recovered, true);
    assert.equal(await leaver.ask("data:get", "role"), "admin");
  });

  test("garbage gets a new session", async () => {
    const { watcher, leaver } = await cast(context);
    const { id } = leaver;
    for (const [pid, offset] of [
      ["x".repeat(100_000), "y"],
      [leaver.socket._pid, "z".repeat(100_000)],
      [leaver.socket._pid, "AAAAAAAAAAA"],
    ]) {
      await vanish(leaver, id === leaver.id ? watcher : undefined);
      leaver.socket._pid = pid;
      leaver.socket._lastOffset = offset;
      await comeBack(leaver);
      assert.equal(leaver.socket.recovered, false);
      assert.notEqual(leaver.id, id);
      assert.equal(await leaver.ask("echo:ack", "well"), "well");
    }
  });
}

test("after its time a session is gone", async () => {
  const server = await start(command, "--recovery 300");
  const clients = new Clients(server.url, ["websocket"]);
  try {
    const watcher = await clients.connect("/notifications");
    const leaver = await clients.connect("/");
    const { id } = leaver;
    await vanish(leaver, watcher);
    await sleep(700);
    await comeBack(leaver);
    assert.equal(leaver.socket.recovered, false);
    assert.notEqual(leaver.id, id);
  } finally {
    await clients.close();
    await server.stop();
  }
});
