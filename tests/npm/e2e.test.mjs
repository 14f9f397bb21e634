// End-to-end tests with the official JavaScript client: every behaviour over polling only, over
// websocket only, and with the default transports (polling, then an upgrade to websocket).
//
// CORECAST_E2E_CMD is the shell command line of the server under test, run in the root of the
// repository with `--listen 127.0.0.1:0` appended (see fixture.mjs for what it has to do). Default:
// the reference, fixture.mjs in Node. CORECAST_E2E_PARSER is the parser of both sides: json (default),
// msgpack or counted, see parsers.mjs.
//
// Absence is proved by fences, not by waiting: see client.mjs.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Clients, event, fence, patiently, upgraded } from "./client.mjs";
import { parserName } from "./parsers.mjs";
import { reference, start } from "./server.mjs";

const server = process.env.CORECAST_E2E_CMD || reference("fixture.mjs");
const command = `${server} --parser ${parserName}`;
// Rounds of a loop that waits for the upgrade; reached only when something is broken.
const ENOUGH = 10_000;
const range = (n) => Array.from({ length: n }, (_, i) => i);

// What the watcher is told about the socket `id`: [event, reason, rooms] in order.
async function reports(watcher, id) {
  const mine = () => watcher.log.filter(([name, peer]) => /^peer:/.test(name) && peer.id === id);
  await watcher.until(() => mine().length >= 2, "the reports");
  return mine().map(([name, { reason, rooms }]) => [name.slice(5), reason, rooms]);
}

for (const [name, transports] of [
  ["polling", ["polling"]],
  ["websocket", ["websocket"]],
  ["default transports", undefined],
]) {
  describe(name, () => {
    let server;
    let clients;

    before(async () => {
      server = await start(command);
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

function suite(context) {
  const { transports } = context;
  const polls = transports?.[0] === "polling";

  describe("connection", () => {
    test("the connection handler runs and greets", async () => {
      for (const nsp of ["/", "/chat", "/notifications"]) {
        const client = await context.clients.connect(nsp);
        const [welcome] = await client.next("welcome");
        assert.deepEqual(welcome, { nsp, id: client.id, user: null });
        assert.match(client.id, /^[\w-]{20}$/);
      }
    });

    test("the connection runs on the transport it should", async () => {
      const client = await context.clients.connect("/");
      if (!transports) {
        await upgraded(client);
        assert.deepEqual(await client.ask("echo:ack", 1), 1);
      }
      assert.equal(client.transport, transports?.[0] ?? "websocket");
    });

    test("the handshake is what the client sent", async () => {
      const client = await context.clients.connect("/", {
        auth: { user: "ada", nested: { list: [1, "zwei"] } },
        query: { a: "1", "schlüssel": "w&e=r+t /ä" },
        extraHeaders: { "X-Test": "Some Value" },
      });
      const shake = await client.ask("handshake");
      assert.equal(shake.headers["x-test"], "Some Value");
      assert.match(shake.headers.host, /^127\.0\.0\.1:\d+$/);
      assert.equal(shake.query.a, "1");
      assert.equal(shake.query["schlüssel"], "w&e=r+t /ä");
      assert.equal(shake.query.EIO, "4");
      assert.equal(shake.query.transport, transports?.[0] ?? "polling");
      assert.deepEqual(shake.auth, { user: "ada", nested: { list: [1, "zwei"] } });
      assert.equal(shake.address, "127.0.0.1");
      assert.ok(shake.url.startsWith("/socket.io/?"), shake.url);
      assert.equal(shake.xdomain, false);
      assert.equal(shake.secure, false);
    });

    test("without auth the handshake's auth is empty", async () => {
      const client = await context.clients.connect("/chat");
      assert.deepEqual((await client.ask("handshake")).auth, {});
    });

    test("an unknown namespace is refused", async () => {
      const client = context.clients.idle("/unknown");
      client.socket.connect();
      const [error] = await event(client.socket, "connect_error");
      assert.equal(error.message, "Invalid namespace");
      assert.equal(client.socket.connected, false);
    });

    test("dynamic namespaces come into being by pattern and by predicate", async () => {
      const [first, second] = [
        await context.clients.connect("/room-1"),
        await context.clients.connect("/room-1"),
      ];
      const elsewhere = await context.clients.connect("/room-2");
      first.emit("all", "to one child");
      for (const client of [first, second]) {
        assert.deepEqual(await client.next("all"), ["to one child"]);
      }
      assert.deepEqual(await elsewhere.ask("heard"), ["heard"]);
      await context.clients.connect("/asked-x", { auth: { open: true } });
      for (const name of ["/room-x", "/asked-y"]) {
        const client = context.clients.idle(name);
        client.socket.connect();
        const [error] = await event(client.socket, "connect_error");
        assert.equal(error.message, "Invalid namespace");
      }
    });

    test("catch-all listeners hear what comes, also if it is refused, and what goes", async () => {
      const client = await context.clients.connect("/room-3");
      client.emit("forbidden");
      assert.deepEqual(await client.next("refused"), [{ message: "event refused" }]);
      client.emit("all", 1);
      await client.next("all");
      assert.equal(await client.ask("once"), "once");
      const [heard, sent] = await new Promise((resolve) => {
        client.socket.emit("heard", (...args) => resolve(args));
      });
      assert.deepEqual(heard, ["forbidden", "all", "once", "heard"]);
      assert.deepEqual(sent, ["refused", "all"]);
    });

    test("events without a handler are ignored", async () => {
      const client = await context.clients.connect("/");
      client.emit("nobody listens", { to: "this" }, Buffer.from("at all"));
      assert.equal(await client.ask("echo:ack", "still here"), "still here");
    });
  });

  describe("emit", () => {
    test("socket.emit reaches the one socket, arguments as they were", async () => {
      const [one, two] = await context.clients.many(2, "/");
      const args = [1, -2.5, "three", null, true, [4, [5]], { six: { seven: [] } }, ""];
      one.emit("echo", ...args);
      one.emit("echo");
      assert.deepEqual(await one.next("echo"), args);
      assert.deepEqual(await one.next("echo", 2), []);
      await fence(one, [one, two]);
      assert.equal(one.got("echo").length, 2);
      assert.equal(two.got("echo").length, 0);
    });

    test("io.emit reaches everyone of the namespace", async () => {
      const main = await context.clients.many(3, "/");
      const other = await context.clients.connect("/chat");
      main[0].emit("all", "to everyone", { n: 1 });
      for (const client of main) {
        assert.deepEqual(await client.next("all"), ["to everyone", { n: 1 }]);
      }
      await fence(main[0], main);
      other.emit("all", "other namespace");
      assert.deepEqual(await other.next("all"), ["other namespace"]);
      assert.equal(other.got("all").length, 1);
      await fence(main[1], main);
      for (const client of main) assert.equal(client.got("all").length, 3);
    });

    test("socket.broadcast.emit reaches everyone but the sender", async () => {
      const all = await context.clients.many(3, "/chat");
      all[0].emit("broadcast", "hi", 2);
      await fence(all[0], all);
      assert.deepEqual(all.map((client) => client.got("broadcast")), [
        [],
        [["hi", 2]],
        [["hi", 2]],
      ]);
    });

    test("unicode in values, event names and room names", async () => {
      const [one, two] = await context.clients.many(2, "/");
      const text = "ü 漢字 🎉👩‍👩‍👧 \u2028\u2029 \u0000\u001e\u007f \"\\/ \ud83d\ude00";
      assert.equal(await one.ask("echo:ack", text), text);
      one.emit("echo", { [text]: text });
      assert.deepEqual(await one.next("echo"), [{ [text]: text }]);
      assert.equal(await one.ask("ünïcode 🎉"), "gehört 👂");
      await two.ask("join", "räum 🎉");
      one.emit("relay", "räum 🎉", "schön");
      assert.deepEqual(await two.next("relay"), ["schön"]);
    });

    test("a burst keeps its order in both directions", async () => {
      const client = await context.clients.connect("/");
      for (const i of range(500)) client.emit("echo", i);
      client.emit("stream", 500, 0);
      await client.next("echo", 500);
      await client.next("stream", 500);
      assert.deepEqual(client.got("echo").flat(), range(500));
      assert.deepEqual(client.got("stream").flat(), range(500));
    });

    test("emits from a task between the client's events", async () => {
      const client = await context.clients.connect("/");
      client.emit("stream", 30, 1);
      await client.next("stream", 30);
      assert.deepEqual(client.got("stream").flat(), range(30));
    });

    test("volatile events may be lost, never reordered or repeated", async () => {
      const client = await context.clients.connect("/");
      if (!transports) await upgraded(client);
      await client.ask("echo:ack");
      client.emit("volatile", 50);
      assert.deepEqual(await client.next("volatile:end"), [50]);
      await client.ask("echo:ack");
      const got = client.got("volatile").flat();
      assert.deepEqual(got, [...new Set(got)].sort((a, b) => a - b));
      assert.equal(client.log.at(-1)[0], "volatile:end");
      // An idle websocket is writable: at least the first one is not lost.
      if (client.transport === "websocket") assert.equal(got[0], 0);
    });

    test("a 500 kB text goes there and back", async () => {
      const client = await context.clients.connect("/");
      const text = range(50_000).map((i) => String(i).padStart(9, "0") + "ü".slice(i & 1)).join("");
      assert.ok(Buffer.byteLength(text) >= 500_000);
      assert.ok((await client.ask("echo:ack", text)) === text);
      client.emit("echo", { text });
      assert.ok((await client.next("echo"))[0].text === text);
      assert.equal(client.socket.connected, true);
    });
  });

  describe("namespaces", () => {
    test("several namespaces share one connection and are apart", async () => {
      const manager = context.clients.manager();
      const main = await context.clients.connect("/", { manager });
      const chat = await context.clients.connect("/chat", { manager });
      const news = await context.clients.connect("/notifications", { manager });
      assert.equal(new Set([main.id, chat.id, news.id]).size, 3);
      main.emit("echo", "main");
      chat.emit("echo", "chat");
      news.emit("echo", "news");
      assert.deepEqual(await main.next("echo"), ["main"]);
      assert.deepEqual(await chat.next("echo"), ["chat"]);
      assert.deepEqual(await news.next("echo"), ["news"]);
      chat.emit("all", "only chat");
      await fence(chat, [chat]);
      await fence(main, [main]);
      assert.equal(main.got("all").length, 1);
      assert.equal(chat.got("all").length, 2);
    });

    test("rooms of one name in two namespaces are two rooms", async () => {
      const main = await context.clients.connect("/");
      const chat = await context.clients.connect("/chat");
      await main.ask("join", "same");
      await chat.ask("join", "same");
      chat.emit("say", "same", "in chat");
      assert.deepEqual(await chat.next("said"), [{ id: chat.id, user: null, text: "in chat" }]);
      await fence(main, [main]);
      assert.equal(main.got("said").length, 0);
    });

    test("one namespace emits into another", async () => {
      const main = await context.clients.connect("/");
      const [subscribed, plain] = await context.clients.many(2, "/notifications");
      await subscribed.ask("join", "weather");
      await main.ask("notify", { topic: "weather", text: "rain" });
      await main.ask("notify", { topic: null, text: "for all" });
      await subscribed.next("notification", 2);
      await plain.next("notification", 1);
      assert.deepEqual(subscribed.got("notification").flat(), ["rain", "for all"]);
      assert.deepEqual(plain.got("notification").flat(), ["for all"]);
    });
  });

  describe("rooms", () => {
    test("join, leave and the list of rooms", async () => {
      const client = await context.clients.connect("/");
      const sorted = (...rooms) => [client.id, ...rooms].sort();
      assert.deepEqual(await client.ask("rooms"), sorted());
      assert.deepEqual(await client.ask("join", "a"), sorted("a"));
      assert.deepEqual(await client.ask("join", ["b", "c", "a"]), sorted("a", "b", "c"));
      assert.deepEqual(await client.ask("leave", "b"), sorted("a", "c"));
      assert.deepEqual(await client.ask("leave", "never joined"), sorted("a", "c"));
      assert.deepEqual(await client.ask("rooms"), sorted("a", "c"));
    });

    test("io.to(room).emit reaches its members, the sender too", async () => {
      const all = await context.clients.many(3, "/chat");
      await all[0].ask("join", "room1");
      await all[1].ask("join", "room1");
      all[0].emit("say", "room1", "hello");
      await fence(all[0], all);
      const said = [{ id: all[0].id, user: null, text: "hello" }];
      assert.deepEqual(all.map((client) => client.got("said")), [[said], [said], []]);
      await all[1].ask("leave", "room1");
      all[2].emit("say", "room1", "from outside");
      await fence(all[2], all);
      assert.deepEqual(all.map((client) => client.got("said").length), [2, 1, 0]);
    });

    test("socket.to(room) leaves the sender out", async () => {
      const all = await context.clients.many(3, "/");
      await all[0].ask("join", "room1");
      await all[1].ask("join", "room1");
      all[0].emit("relay", "room1", "psst", 1);
      await fence(all[0], all);
      assert.deepEqual(all.map((client) => client.got("relay")), [[], [["psst", 1]], []]);
    });

    test("chained to and except", async () => {
      // Members: 0: –, 1: a, 2: b, 3: a b, 4: a c, 5: c
      const all = await context.clients.many(6, "/");
      const joins = [[], ["a"], ["b"], ["a", "b"], ["a", "c"], ["c"]];
      await Promise.all(joins.map((rooms, i) => rooms.length && all[i].ask("join", rooms)));
      const reached = async (sender, how) => {
        all[sender].emit("to", how, "x");
        await fence(all[sender], all);
        const who = range(6).flatMap((i) => all[i].got("to").map(() => i));
        for (const client of all) client.log.length = 0;
        return who;
      };
      const io = (to, except) => reached(0, { from: "io", to, except });
      assert.deepEqual(await io(["a"], []), [1, 3, 4]);
      assert.deepEqual(await io(["a", "b"], []), [1, 2, 3, 4]);
      assert.deepEqual(await io(["a", "b"], ["c"]), [1, 2, 3]);
      assert.deepEqual(await io(["a", "c"], ["b", "c"]), [1]);
      assert.deepEqual(await io([], ["a"]), [0, 2, 5]);
      assert.deepEqual(await io([], []), [0, 1, 2, 3, 4, 5]);
      assert.deepEqual(await io(["no such room"], []), []);
      assert.deepEqual(await io(["no such room", "c"], ["none either"]), [4, 5]);
      const socket = (to, except) => reached(3, { from: "socket", to, except });
      assert.deepEqual(await socket(["a"], []), [1, 4]);
      assert.deepEqual(await socket(["a", "b"], []), [1, 2, 4]);
      assert.deepEqual(await socket(["a", "b"], ["c"]), [1, 2]);
      assert.deepEqual(await socket([], ["c"]), [0, 1, 2]);
      assert.deepEqual(await socket([], []), [0, 1, 2, 4, 5]);
    });

    test("a socket's own id is a room", async () => {
      const [one, two, three] = await context.clients.many(3, "/");
      one.emit("to", { from: "io", to: [two.id, one.id] }, "direct");
      one.emit("to", { from: "socket", to: [one.id] }, "never to self");
      await fence(one, [one, two, three]);
      assert.deepEqual([one, two, three].map((c) => c.got("to").flat()), [
        ["direct"],
        ["direct"],
        [],
      ]);
    });

    test("a room joined in the connection handler reaches all windows of a user", async () => {
      const windows = await context.clients.many(2, "/chat", { auth: { user: "bob" } });
      const other = await context.clients.connect("/chat", { auth: { user: "eve" } });
      other.emit("say", "user:bob", "hello bob");
      await fence(other, [...windows, other]);
      const said = [[{ id: other.id, user: "eve", text: "hello bob" }]];
      assert.deepEqual(windows.map((client) => client.got("said")), [said, said]);
      assert.deepEqual(other.got("said"), []);
    });

    test("200 clients in rooms: members once, nobody else", async () => {
      const n = 200;
      const all = await context.clients.many(n, "/");
      // Everyone is in one of four rooms, every eighth also in "eighth".
      const rooms = (i) => (i % 8 ? [`r${i % 4}`] : [`r${i % 4}`, "eighth"]);
      await Promise.all(all.map((client, i) => client.ask("join", rooms(i))));
      const [sender] = all;
      sender.emit("to", { from: "io", to: ["r1"] }, "r1");
      sender.emit("to", { from: "io", to: ["r0", "eighth"] }, "r0+eighth");
      sender.emit("to", { from: "io", to: ["r0"], except: ["eighth"] }, "r0-eighth");
      sender.emit("to", { from: "socket", to: ["eighth"] }, "socket:eighth");
      sender.emit("broadcast", "everyone else");
      await fence(sender, all);
      for (const i of range(n)) {
        const expected = [];
        if (i % 4 === 1) expected.push("r1");
        if (i % 4 === 0) expected.push("r0+eighth");
        if (i % 4 === 0 && i % 8 !== 0) expected.push("r0-eighth");
        if (i % 8 === 0 && i !== 0) expected.push("socket:eighth");
        assert.deepEqual(all[i].got("to").flat(), expected, `client ${i}`);
        assert.equal(all[i].got("broadcast").length, i === 0 ? 0 : 1, `client ${i}`);
        assert.equal(all[i].got("all").length, 1, `client ${i}`);
      }
      // Everyone sends at once; everyone gets everything once.
      for (const [i, client] of all.entries()) client.emit("to", { from: "io", to: ["r2"] }, i);
      await Promise.all(all.map((client, i) => i % 4 === 2 && client.next("to", n)));
      await fence(sender, all);
      for (const i of range(n).filter((i) => i % 4 === 2)) {
        assert.deepEqual(all[i].got("to").flat().sort((a, b) => a - b), range(n), `client ${i}`);
      }
    });
  });

  describe("acknowledgements", () => {
    test("the server answers with what it was asked", async () => {
      const client = await context.clients.connect("/chat");
      const answers = await patiently(
        new Promise((resolve) => {
          client.emit("echo:ack", 1, "two", { three: [3] }, (...args) => resolve(args));
        }),
        () => "the ack",
      );
      assert.deepEqual(answers, [1, "two", { three: [3] }]);
      assert.equal(await client.ask("echo:ack"), undefined);
    });

    test("each answer finds its question", async () => {
      const client = await context.clients.connect("/");
      const delays = range(40).map((i) => (i * 7) % 20);
      const answers = await Promise.all(delays.map((ms, i) => client.ask("ack:delay", ms, i)));
      assert.deepEqual(answers, range(40));
    });

    test("the client's timeout strikes when the server does not answer", async () => {
      const client = await context.clients.connect("/");
      await assert.rejects(client.socket.timeout(50).emitWithAck("never", 1), {
        message: "operation has timed out",
      });
      await assert.rejects(client.socket.timeout(50).emitWithAck("no handler"), {
        message: "operation has timed out",
      });
      assert.equal(await client.socket.timeout(30_000).emitWithAck("echo:ack", 1), 1);
    });

    test("the server asks and reports the answer", async () => {
      const client = await context.clients.connect("/");
      client.socket.on("question", (question, answer) => answer({ heard: question }, 42));
      client.emit("ask:me", "how many?", 30_000);
      assert.deepEqual(await client.next("ask:result"), [
        { ok: true, answers: [{ heard: "how many?" }, 42] },
      ]);
      client.emit("ask:me", Buffer.from([1, 2]), 30_000);
      assert.deepEqual(await client.next("ask:result", 2), [
        { ok: true, answers: [{ heard: Buffer.from([1, 2]) }, 42] },
      ]);
    });

    test("an answer without arguments", async () => {
      const client = await context.clients.connect("/chat");
      client.socket.on("question", (_, answer) => answer());
      client.emit("ask:me", null, 30_000);
      assert.deepEqual(await client.next("ask:result"), [{ ok: true, answers: [] }]);
    });

    test("the server's timeout strikes, a late or second answer is ignored", async () => {
      const client = await context.clients.connect("/");
      const held = [];
      client.socket.on("question", (_, answer) => held.push(answer));
      client.emit("ask:me", "in vain", 50);
      assert.deepEqual(await client.next("ask:result"), [{ ok: false, error: "timeout" }]);
      assert.deepEqual(client.got("question"), [["in vain"]]);
      held[0]("too late");
      assert.equal(await client.ask("echo:ack", 1), 1);
      assert.equal(client.got("ask:result").length, 1);
      client.emit("ask:me", "once more", 30_000);
      await client.next("question", 2);
      held[1]("in time");
      assert.deepEqual(await client.next("ask:result", 2), [{ ok: true, answers: ["in time"] }]);
      assert.equal(await client.ask("echo:ack", 2), 2);
      assert.equal(client.got("ask:result").length, 2);
    });

    test("questions of both sides at once", async () => {
      const client = await context.clients.connect("/");
      client.socket.on("question", (question, answer) => answer(question));
      const answers = range(50).map((i) => {
        client.emit("ask:me", i, 30_000);
        return client.ask("echo:ack", i);
      });
      assert.deepEqual(await Promise.all(answers), range(50));
      await client.next("ask:result", 50);
      const results = client.got("ask:result").map(([result]) => result.answers[0]);
      assert.deepEqual(results.sort((a, b) => a - b), range(50));
    });
  });

  describe("middleware", () => {
    test("a namespace refuses with an error and data", async () => {
      for (const auth of [undefined, { token: "wrong" }, { token: { secret: true } }]) {
        const client = context.clients.idle("/admin", { auth });
        client.socket.connect();
        const [error] = await event(client.socket, "connect_error");
        assert.ok(error instanceof Error);
        assert.equal(error.message, "not authorized");
        assert.deepEqual(error.data, { code: 401, content: "retry later" });
        assert.equal(client.socket.connected, false);
        assert.deepEqual(client.got("welcome"), []);
      }
    });

    test("a namespace accepts the right token", async () => {
      const client = await context.clients.connect("/admin", { auth: { token: "secret" } });
      assert.deepEqual(await client.next("welcome"), [
        { nsp: "/admin", id: client.id, user: null },
      ]);
      assert.equal(await client.ask("data:get", "role"), "admin");
    });

    test("a refusal leaves the connection alone, a second try succeeds", async () => {
      const manager = context.clients.manager();
      const main = await context.clients.connect("/", { manager });
      const admin = context.clients.idle("/admin", { manager, auth: { token: "wrong" } });
      admin.socket.connect();
      await event(admin.socket, "connect_error");
      assert.equal(await main.ask("echo:ack", 1), 1);
      admin.socket.auth = { token: "secret" };
      admin.socket.disconnect().connect();
      await event(admin.socket, "connect");
      assert.equal(await admin.ask("echo:ack", 2), 2);
      assert.equal(await main.ask("echo:ack", 3), 3);
    });

    test("a refused socket gets no broadcast", async () => {
      const manager = context.clients.manager();
      const refused = context.clients.idle("/admin", { manager });
      refused.socket.connect();
      await event(refused.socket, "connect_error");
      const main = await context.clients.connect("/", { manager });
      const admin = await context.clients.connect("/admin", { auth: { token: "secret" } });
      await fence(admin, [admin]);
      assert.equal(await main.ask("echo:ack", 1), 1);
      assert.deepEqual(refused.log, []);
    });

    test("socket middleware refuses one event, the socket lives on", async () => {
      const [client, other] = await context.clients.many(2, "/");
      client.emit("forbidden", "fruit", () => assert.fail("a refused event was answered"));
      assert.deepEqual(await client.next("refused"), [{ message: "event refused" }]);
      assert.equal(await client.ask("echo:ack", 1), 1);
      assert.equal(client.got("refused").length, 1);
      await fence(client, [client, other]);
      assert.deepEqual(other.got("refused"), []);
    });
  });

  describe("binary", () => {
    test("nested binary values, there and back", async () => {
      const client = await context.clients.connect("/");
      const bytes = (...values) => Buffer.from(values);
      const args = [
        bytes(1, 2, 3),
        "text between",
        { deep: [{ er: bytes(0, 255, 30, 128) }, null, bytes()], same: "x" },
        Buffer.from(range(256)),
      ];
      client.emit("echo", ...args);
      assert.deepEqual(await client.next("echo"), args);
      assert.deepEqual(await client.ask("echo:ack", args), args);
      // Text behind binary on the same connection.
      client.emit("echo", "after");
      assert.deepEqual(await client.next("echo", 2), ["after"]);
    });

    test("the server reads binary values in order", async () => {
      const client = await context.clients.connect("/chat");
      const sums = await client.ask(
        "binary:sum",
        Buffer.from([1, 2]),
        { a: Buffer.from([250, 250]), b: [new Uint8Array([7]), new Uint8Array(0)] },
        "x",
        new Uint8Array([1, 2, 3]).buffer,
      );
      assert.deepEqual(sums, [
        { length: 2, sum: 3 },
        { length: 2, sum: 500 },
        { length: 1, sum: 7 },
        { length: 0, sum: 0 },
        { length: 3, sum: 6 },
      ]);
    });

    test("the server makes binary values", async () => {
      const client = await context.clients.connect("/");
      client.emit("binary:make", 300);
      const bytes = Buffer.from(range(300).map((i) => i & 255));
      assert.deepEqual(await client.next("binary:made"), [
        { n: 300, bytes, nested: [{ again: bytes }] },
      ]);
    });

    test("500 kB of binary, there and back", async () => {
      const client = await context.clients.connect("/");
      const bytes = Buffer.from(Uint32Array.from(range(125_000), (i) => i * 2654435761).buffer);
      assert.equal(bytes.length, 500_000);
      client.emit("echo", { bytes });
      assert.ok((await client.next("echo"))[0].bytes.equals(bytes));
      assert.ok((await client.ask("echo:ack", bytes)).equals(bytes));
    });

    test("arguments with binary are relayed to others as they were", async () => {
      const [one, two, three] = await context.clients.many(3, "/");
      await two.ask("join", "b");
      const args = [{ list: [Buffer.from("one"), "1"] }, Buffer.from("two"), 3, "vier 🎉"];
      one.emit("relay", "b", ...args);
      one.emit("broadcast", ...args);
      await fence(one, [one, two, three]);
      assert.deepEqual(two.got("relay"), [args]);
      assert.deepEqual(two.got("broadcast"), [args]);
      assert.deepEqual(three.got("relay"), []);
      assert.deepEqual(three.got("broadcast"), [args]);
    });

    test("binary broadcasts of many senders are not mixed up", async () => {
      const all = await context.clients.many(8, "/");
      for (const round of range(20)) {
        for (const [i, client] of all.entries()) {
          const mark = Buffer.alloc(50 + i, i);
          client.emit("all", { round, i, parts: [mark, Buffer.from([round, i]), mark] });
        }
      }
      await Promise.all(all.map((client) => client.next("all", 160)));
      for (const client of all) {
        const last = new Map();
        for (const [{ round, i, parts }] of client.got("all")) {
          const mark = Buffer.alloc(50 + i, i);
          assert.deepEqual(parts, [mark, Buffer.from([round, i]), mark]);
          assert.equal(round, (last.get(i) ?? -1) + 1);
          last.set(i, round);
        }
      }
    });
  });

  describe("data", () => {
    test("each socket has its own data", async () => {
      const manager = context.clients.manager();
      const main = await context.clients.connect("/", { manager });
      const chat = await context.clients.connect("/chat", { manager });
      const other = await context.clients.connect("/");
      await main.ask("data:set", "name", { first: "Ada" });
      await chat.ask("data:set", "name", "in chat");
      assert.deepEqual(await main.ask("data:get", "name"), { first: "Ada" });
      assert.equal(await chat.ask("data:get", "name"), "in chat");
      assert.equal(await other.ask("data:get", "name"), null);
      await main.ask("data:set", "name", 2);
      assert.equal(await main.ask("data:get", "name"), 2);
      assert.equal(await main.ask("data:get", "other"), null);
    });
  });

  describe("disconnection", () => {
    const expected = (reason, rooms) => [
      ["disconnecting", reason, [...rooms].sort()],
      ["disconnect", reason, []],
    ];

    test("the client leaves a namespace", async () => {
      const watcher = await context.clients.connect("/notifications");
      const manager = context.clients.manager();
      const chat = await context.clients.connect("/chat", { manager });
      const main = await context.clients.connect("/", { manager });
      const { id } = chat;
      await chat.ask("join", ["a", "b"]);
      chat.socket.disconnect();
      const reason = "client namespace disconnect";
      assert.deepEqual(await reports(watcher, id), expected(reason, [id, "a", "b"]));
      assert.equal(await main.ask("echo:ack", 1), 1);
      chat.socket.connect();
      await event(chat.socket, "connect");
      assert.notEqual(chat.id, id);
      assert.deepEqual(await chat.ask("rooms"), [chat.id]);
    });

    test("the server disconnects one namespace", async () => {
      const watcher = await context.clients.connect("/notifications");
      const manager = context.clients.manager();
      const chat = await context.clients.connect("/chat", { manager });
      const main = await context.clients.connect("/", { manager });
      const { id } = chat;
      await chat.ask("join", "a");
      chat.emit("disconnect:me", false);
      assert.equal((await event(chat.socket, "disconnect"))[0], "io server disconnect");
      assert.equal(chat.socket.active, false);
      const reason = "server namespace disconnect";
      assert.deepEqual(await reports(watcher, id), expected(reason, [id, "a"]));
      assert.equal(await main.ask("echo:ack", 1), 1);
    });

    test("the server disconnects and closes the connection", async () => {
      const watcher = await context.clients.connect("/notifications");
      const manager = context.clients.manager({ reconnection: true, reconnectionDelay: 1 });
      const chat = await context.clients.connect("/chat", { manager });
      const main = await context.clients.connect("/", { manager });
      const ids = [chat.id, main.id];
      const gone = [chat, main].map((client) => event(client.socket, "disconnect"));
      const closed = event(manager, "close");
      chat.emit("disconnect:me", true);
      const reasons = (await Promise.all(gone)).map(([reason]) => reason);
      assert.deepEqual(reasons, ["io server disconnect", "io server disconnect"]);
      await closed;
      for (const id of ids) {
        const reason = "server namespace disconnect";
        assert.deepEqual(await reports(watcher, id), expected(reason, [id]));
      }
      assert.deepEqual([chat.socket.active, main.socket.active], [false, false]);
    });

    test("the client's connection closes", async () => {
      const watcher = await context.clients.connect("/notifications");
      const client = await context.clients.connect("/");
      if (!transports) await upgraded(client);
      const { id } = client;
      await client.ask("join", "a");
      client.vanish();
      assert.deepEqual(await reports(watcher, id), expected("transport close", [id, "a"]));
    });

    test("the client's network is gone", async () => {
      const proxy = await context.clients.proxy(context.server.port);
      const watcher = await context.clients.connect("/notifications");
      const client = await context.clients.connect("/", { url: proxy.url });
      if (!transports) await upgraded(client);
      const { id } = client;
      await client.ask("join", "a");
      if (polls) await patiently(proxy.parked(), () => "a parked GET");
      await proxy.cut();
      const told = await reports(watcher, id);
      const reason = told[0][1];
      assert.ok(["transport close", "transport error"].includes(reason), reason);
      assert.deepEqual(told, expected(reason, [id, "a"]));
    });

    test("a socket that is gone gets nothing and leaves its rooms", async () => {
      const all = await context.clients.many(3, "/chat");
      const watcher = await context.clients.connect("/notifications");
      for (const client of all) await client.ask("join", "a");
      const { id } = all[2];
      all[2].socket.disconnect();
      await reports(watcher, id);
      all[0].emit("say", "a", "who is left?");
      await fence(all[0], [all[0], all[1]]);
      assert.deepEqual(all.map((client) => client.got("said").length), [1, 1, 0]);
    });

    test("a handler that panics ends its own socket only", async () => {
      const [bad, good] = await context.clients.many(2, "/");
      await good.ask("join", "a");
      const gone = event(bad.socket, "disconnect");
      bad.emit("panic");
      await gone;
      assert.equal(await good.ask("echo:ack", 1), 1);
      const late = await context.clients.connect("/");
      late.emit("relay", "a", "still served");
      assert.deepEqual(await good.next("relay"), ["still served"]);
    });
  });

  describe("reconnection", () => {
    const eager = { reconnection: true, reconnectionDelay: 10, reconnectionDelayMax: 50 };

    test("after the server closed the transport", async () => {
      const watcher = await context.clients.connect("/notifications");
      const client = await context.clients.connect("/", { ...eager, auth: { user: "ada" } });
      const { id } = client;
      await client.ask("join", "a");
      const again = event(client.socket.io, "reconnect");
      const gone = event(client.socket, "disconnect");
      client.emit("drop");
      assert.equal((await gone)[0], "transport close");
      // Sent while the connection is down: kept by the client, delivered in order.
      for (const i of range(10)) client.emit("echo", i);
      await again;
      await client.next("echo", 10);
      assert.deepEqual(client.got("echo").flat(), range(10));
      assert.notEqual(client.id, id);
      assert.deepEqual(await client.ask("rooms"), [client.id, "user:ada"].sort());
      assert.equal((await client.next("welcome", 2))[0].id, client.id);
      const [, reason] = (await reports(watcher, id))[0];
      assert.equal(reason, "forced close");
    });

    test("several namespaces come back", async () => {
      const manager = context.clients.manager(eager);
      const main = await context.clients.connect("/", { manager });
      const chat = await context.clients.connect("/chat", { manager });
      const back = [main, chat].map((client) => event(client.socket, "connect"));
      main.emit("drop");
      await Promise.all(back);
      assert.equal(await main.ask("echo:ack", 1), 1);
      assert.equal(await chat.ask("echo:ack", 2), 2);
    });

    test("after the network was down", async () => {
      const proxy = await context.clients.proxy(context.server.port);
      const client = await context.clients.connect("/", { ...eager, url: proxy.url });
      const attempts = [];
      client.socket.io.on("reconnect_attempt", (n) => attempts.push(n));
      const gone = event(client.socket, "disconnect");
      await proxy.cut();
      const [reason] = await gone;
      assert.ok(["transport close", "transport error"].includes(reason), reason);
      while (attempts.length < 3) await event(client.socket.io, "reconnect_attempt");
      const back = event(client.socket, "connect");
      await proxy.start();
      await back;
      assert.equal(await client.ask("echo:ack", "back"), "back");
    });

    test("many at once", async () => {
      const all = await context.clients.many(30, "/", eager);
      const back = all.map((client) => event(client.socket, "connect"));
      for (const client of all) client.emit("drop");
      await Promise.all(back);
      await fence(all[0], all);
      assert.ok(all.every((client) => client.got("all").length === 1));
    });
  });

  describe("heartbeat", () => {
    let quick;
    before(async () => {
      quick = await start(command, "--ping-interval 100 --ping-timeout 2000");
    });
    after(() => quick.stop());

    test("pings come and an answering client stays", async () => {
      const client = await context.clients.connect("/", { url: quick.url });
      let pings = 0;
      client.socket.io.on("ping", () => pings++);
      while (pings < 5) await event(client.socket.io, "ping");
      assert.equal(await client.ask("echo:ack", 1), 1);
      assert.equal(client.got("welcome").length, 1);
    });

    test("a client that falls silent is given up", async () => {
      const proxy = await context.clients.proxy(quick.port);
      const watcher = await context.clients.connect("/notifications", { url: quick.url });
      const client = await context.clients.connect("/", { url: proxy.url });
      if (!transports) await upgraded(client);
      await client.ask("join", "a");
      const { id } = client;
      proxy.freeze();
      const [disconnecting] = await reports(watcher, id);
      assert.deepEqual(disconnecting, ["disconnecting", "ping timeout", [id, "a"].sort()]);
    });
  });

  if (!transports) {
    describe("upgrade", () => {
      test("nothing is lost, repeated or reordered while upgrading", async () => {
        const all = await Promise.all(
          range(10).map(async () => {
            // The websocket is let through when both directions are busy on polling.
            let open;
            const busy = new Promise((resolve) => (open = resolve));
            const gate = (head) => (/\r\nupgrade: websocket/i.test(head) ? busy : undefined);
            const proxy = await context.clients.proxy(context.server.port, gate);
            const client = await context.clients.connect("/", { url: proxy.url });
            assert.equal(client.transport, "polling");
            client.emit("stream", 200, 1);
            let sent = 0;
            let after = 0;
            while (sent < 200 || after < 50) {
              assert.ok(sent < ENOUGH, "no upgrade");
              client.emit("echo", sent++);
              if (client.got("echo").length > 20 && client.got("stream").length > 5) open();
              if (client.transport === "websocket") after++;
              await sleep(1);
            }
            await client.next("echo", sent);
            await client.next("stream", 200);
            return { client, sent };
          }),
        );
        for (const { client, sent } of all) {
          assert.equal(await client.ask("echo:ack", 1), 1);
          assert.deepEqual(client.got("echo").flat(), range(sent));
          assert.deepEqual(client.got("stream").flat(), range(200));
          assert.equal(client.got("welcome").length, 1);
        }
      });

      test("binary and acks while upgrading", async () => {
        const client = await context.clients.connect("/");
        client.socket.on("question", (question, answer) => answer(question));
        const answers = [];
        let after = 0;
        for (let i = 0; i < 50 || after < 20; i++) {
          assert.ok(i < ENOUGH, "no upgrade");
          client.emit("echo", Buffer.from([i & 255]), i, { again: Buffer.alloc(i & 63, i) });
          client.emit("ask:me", Buffer.from([i & 255]), 30_000);
          answers.push(client.ask("echo:ack", i));
          if (client.transport === "websocket") after++;
          await sleep(0);
        }
        const n = answers.length;
        assert.deepEqual(await Promise.all(answers), range(n));
        await client.next("echo", n);
        await client.next("ask:result", n);
        for (const [i, args] of client.got("echo").entries()) {
          assert.deepEqual(args, [Buffer.from([i & 255]), i, { again: Buffer.alloc(i & 63, i) }]);
        }
        for (const [i, [result]] of client.got("ask:result").entries()) {
          assert.deepEqual(result, { ok: true, answers: [Buffer.from([i & 255])] });
        }
      });

      test("broadcasts of others while upgrading", async () => {
        const sender = await context.clients.connect("/", { transports: ["websocket"] });
        const joining = range(20).map(async () => {
          const client = await context.clients.connect("/");
          await client.ask("join", "late");
          return client;
        });
        const all = await Promise.all(joining);
        let sent = 0;
        while (sent < 100 || all.some((client) => client.transport !== "websocket")) {
          assert.ok(sent < ENOUGH, "no upgrade");
          sender.emit("to", { from: "io", to: ["late"] }, sent++);
          await sleep(0);
        }
        await fence(sender, [sender, ...all]);
        for (const client of all) assert.deepEqual(client.got("to").flat(), range(sent));
      });

      test("a client that starts on websocket needs no upgrade", async () => {
        const client = await context.clients.connect("/", {
          transports: ["websocket", "polling"],
        });
        assert.equal(client.transport, "websocket");
        assert.equal(await client.ask("echo:ack", 1), 1);
      });

      test("rooms and data survive the upgrade", async () => {
        const client = await context.clients.connect("/");
        const { id } = client;
        await client.ask("join", "kept");
        await client.ask("data:set", "kept", [1]);
        await upgraded(client);
        assert.equal(client.id, id);
        assert.deepEqual(await client.ask("rooms"), [id, "kept"].sort());
        assert.deepEqual(await client.ask("data:get", "kept"), [1]);
      });
    });
  }
  if (polls) {
    test("a polling client never upgrades", async () => {
      const client = await context.clients.connect("/");
      for (const i of range(30)) assert.equal(await client.ask("echo:ack", i), i);
      assert.equal(client.transport, "polling");
    });
  }
}

describe("answers with hooks", () => {
  let server;
  before(async () => {
    server = await start(command, "--hooks");
  });
  after(() => server.stop());

  const ask = (method, query, headers = {}) =>
    fetch(`${server.url}/socket.io/?EIO=4&${query}`, { method, headers });
  const headersOf = (response, ...names) => names.map((name) => response.headers.get(name));

  for (const transports of [["polling"], ["websocket"]]) {
    test(`allowRequest refuses or lets in, over ${transports}`, async () => {
      const clients = new Clients(server.url, transports);
      const outcome = async (extraHeaders, name) => {
        const socket = clients.manager({ extraHeaders }).socket("/");
        const outcome = event(socket, name);
        socket.connect();
        return outcome;
      };
      const [error] = await outcome({ "x-forbid": "not today" }, "connect_error");
      assert.match(error.message, /xhr poll error|websocket error/);
      await outcome({ "x-other": "1" }, "connect");
      await clients.close();
    });
  }

  test("a refusal has its reason", async () => {
    const response = await ask("GET", "transport=polling", { "x-forbid": "not today" });
    assert.equal(response.status, 403);
    assert.deepEqual(await response.json(), { code: 4, message: "not today" });
  });

  test("CORS for the origins that are named", async () => {
    for (const origin of ["http://page.test", "http://a.page.test"]) {
      for (const [method, query, status] of [
        ["GET", "transport=polling", 200],
        ["GET", "transport=unknown", 400],
        ["OPTIONS", "transport=polling", 204],
      ]) {
        const response = await ask(method, query, { origin });
        assert.equal(response.status, status);
        const [allowed, credentials, vary, methods] = headersOf(
          response,
          "access-control-allow-origin",
          "access-control-allow-credentials",
          "vary",
          "access-control-allow-methods",
        );
        assert.deepEqual([allowed, credentials], [origin, "true"]);
        assert.match(vary, /^Origin/);
        assert.equal(methods, method === "OPTIONS" ? "GET,HEAD,PUT,PATCH,POST,DELETE" : null);
      }
    }
    const response = await ask("GET", "transport=polling", { origin: "http://evil.test" });
    assert.deepEqual(headersOf(response, "access-control-allow-origin", "vary"), [null, "Origin"]);
  });

  test("the cookie and the headers of hooks", async () => {
    const first = await ask("GET", "transport=polling");
    const { sid } = JSON.parse((await first.text()).slice(1));
    const names = ["set-cookie", "x-first", "x-every"];
    const cookie = `io=${sid}; Path=/; HttpOnly; SameSite=Lax`;
    assert.deepEqual(headersOf(first, ...names), [cookie, "polling", "GET"]);
    const posted = await fetch(`${server.url}/socket.io/?EIO=4&transport=polling&sid=${sid}`, {
      method: "POST",
      body: "1",
    });
    assert.deepEqual(headersOf(posted, ...names), [null, null, "POST"]);
    const refused = await ask("GET", "transport=polling&sid=unknown");
    assert.deepEqual(headersOf(refused, ...names), [null, null, null]);
  });
});

describe("the client bundle", () => {
  const require = createRequire(import.meta.url);
  const { version } = require("socket.io/package.json");
  let server;
  before(async () => {
    server = await start(command);
  });
  after(() => server.stop());

  for (const file of [
    "socket.io.js",
    "socket.io.js.map",
    "socket.io.min.js",
    "socket.io.min.js.map",
    "socket.io.esm.min.js",
    "socket.io.esm.min.js.map",
    "socket.io.msgpack.min.js",
    "socket.io.msgpack.min.js.map",
  ]) {
    test(`${file} is served`, async () => {
      const url = `${server.url}/socket.io/${file}`;
      const response = await fetch(url);
      assert.equal(response.status, 200);
      const type = file.endsWith(".map") ? "application/json" : "application/javascript";
      assert.equal(response.headers.get("content-type"), `${type}; charset=utf-8`);
      assert.equal(response.headers.get("etag"), `"${version}"`);
      assert.equal(response.headers.get("cache-control"), "public, max-age=0");
      const path = require.resolve("socket.io/package.json").replace(
        "package.json",
        `client-dist/${file}`,
      );
      assert.ok((await readFile(path)).equals(Buffer.from(await response.arrayBuffer())));
      for (const tag of [`"${version}"`, `W/"${version}"`]) {
        const again = await fetch(`${url}?v=1`, { headers: { "If-None-Match": tag } });
        assert.equal(again.status, 304);
        assert.equal(await again.text(), "");
      }
      const stale = await fetch(url, { headers: { "If-None-Match": '"4.0.0"' } });
      assert.equal(stale.status, 200);
      await stale.arrayBuffer();
    });
  }

  for (const [accept, coding] of [
    ["br, gzip, deflate", "br"],
    ["gzip;q=0.5, deflate", "deflate"],
    ["gzip", "gzip"],
    ["identity", null],
  ]) {
    test(`K.1 it is compressed for "${accept}"`, async () => {
      const url = `${server.url}/socket.io/socket.io.js`;
      const response = await fetch(url, { headers: { "Accept-Encoding": accept } });
      assert.equal(response.status, 200);
      assert.equal(response.headers.get("content-encoding"), coding);
      assert.equal(response.headers.get("etag"), `"${version}"`);
      const path = require.resolve("socket.io/package.json").replace(
        "package.json",
        "client-dist/socket.io.js",
      );
      assert.ok((await readFile(path)).equals(Buffer.from(await response.arrayBuffer())));
    });
  }

  test("another file below the path is no file", async () => {
    const response = await fetch(`${server.url}/socket.io/package.json`);
    assert.equal(response.status, 400);
    assert.deepEqual(await response.json(), { code: 0, message: "Transport unknown" });
  });
});
