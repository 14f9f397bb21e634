// What one client makes the server do with many sockets (K.2, L-3): acknowledgements of broadcasts,
// fetchSockets, socketsJoin and their kin. As e2e.test.mjs, against CORECAST_E2E_CMD or fixture.mjs.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { Clients, event, patiently } from "./client.mjs";
import { parserName } from "./parsers.mjs";
import { reference, start } from "./server.mjs";

const fixture = process.env.CORECAST_E2E_CMD || reference("fixture.mjs");
const command = `${fixture} --parser ${parserName}`;
const byId = (a, b) => (a.id < b.id ? -1 : 1);

for (const [name, transports] of [
  ["polling", ["polling"]],
  ["websocket", ["websocket"]],
  ["default transports", undefined],
]) {
  describe(`many sockets over ${name}`, () => {
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

    // Sockets in `room`, each with the number it answers questions with.
    async function crowd(room, n) {
      const members = await clients.many(n, "/chat");
      await Promise.all(members.map((client) => client.ask("join", room)));
      members.forEach((client, i) => {
        client.socket.on("question", (question, answer) => answer({ question, i }, "ignored"));
      });
      return members;
    }

    test("L-3: everyone in a room answers", async () => {
      const members = await crowd("answering", 6);
      const [outsider] = await crowd("another", 1);
      members[0].emit("ask:room", "answering", { of: "all" }, 30_000);
      const [{ ok, responses }] = await members[0].next("ask:room:result");
      assert.equal(ok, true);
      responses.sort((a, b) => a.i - b.i);
      assert.deepEqual(responses, members.map((_, i) => ({ question: { of: "all" }, i })));
      assert.equal(outsider.got("question").length, 0);
    });

    test("L-3: nobody is there to answer", async () => {
      const client = await clients.connect("/");
      client.emit("ask:room", "nobody", 1, 30_000);
      assert.deepEqual(await client.next("ask:room:result"), [{ ok: true, responses: [] }]);
    });

    test("L-3: binary answers", async () => {
      const members = await crowd("binary", 3);
      for (const client of members) {
        client.socket.off("question");
        client.socket.on("question", (bytes, answer) => answer({ bytes, more: [bytes] }));
      }
      members[0].emit("ask:room", "binary", Buffer.from([1, 2, 3]), 30_000);
      const [{ ok, responses }] = await members[0].next("ask:room:result");
      const bytes = Buffer.from([1, 2, 3]);
      assert.deepEqual({ ok, responses }, {
        ok: true,
        responses: members.map(() => ({ bytes, more: [bytes] })),
      });
    });

    test("L-3: one is silent, the others' answers are there", async () => {
      const members = await crowd("silent", 4);
      members[3].socket.off("question");
      members[0].emit("ask:room", "silent", 1, 1_500);
      const [{ ok, responses }] = await members[0].next("ask:room:result");
      assert.equal(ok, false);
      assert.deepEqual(responses.map(({ i }) => i).sort(), [0, 1, 2]);
      // Too late, and a second time: nothing comes of it.
      members[0].emit("ask:room", "silent", 2, 1_500);
      assert.equal((await members[0].next("ask:room:result", 2))[0].ok, false);
    });

    test("L-3: one leaves instead of answering", async () => {
      const members = await crowd("leaving", 3);
      members[2].socket.off("question");
      members[2].socket.on("question", () => members[2].socket.disconnect());
      members[0].emit("ask:room", "leaving", 1, 1_500);
      const [{ ok, responses }] = await members[0].next("ask:room:result");
      assert.equal(ok, false);
      assert.deepEqual(responses.map(({ i }) => i).sort(), [0, 1]);
    });

    test("fetchSockets: ids, rooms, data, handshake", async () => {
      const members = [
        await clients.connect("/chat", { auth: { user: "ada" } }),
        await clients.connect("/chat"),
        await clients.connect("/chat"),
      ];
      for (const [i, client] of members.entries()) {
        await client.ask("join", ["fetched", `own ${i}`]);
        await client.ask("data:set", "number", { i });
      }
      const expected = members.map((client, i) => ({
        id: client.id,
        rooms: [client.id, "fetched", `own ${i}`, ...(i === 0 ? ["user:ada"] : [])].sort(),
        data: { number: { i } },
        user: i === 0 ? "ada" : null,
      }));
      const fetch = (room) => members[1].ask("fetch", room);
      assert.deepEqual(await fetch("fetched"), [...expected].sort(byId));
      assert.deepEqual(await fetch("own 2"), [expected[2]]);
      assert.deepEqual(await fetch(members[0].id), [expected[0]]);
      assert.deepEqual(await fetch("nobody"), []);
      const all = await fetch(null);
      assert.deepEqual(all.filter(({ rooms }) => rooms.includes("fetched")), expected.sort(byId));
    });

    test("socketsJoin and socketsLeave of others", async () => {
      const members = await crowd("moved", 4);
      const [client] = await clients.many(1, "/chat");
      await client.ask("sockets", "join", "moved", ["new", "newer"]);
      const fetched = await client.ask("fetch", "new");
      assert.deepEqual(fetched.map(({ id }) => id), members.map(({ id }) => id).sort());
      await client.ask("sockets", "leave", "newer", "new");
      assert.deepEqual(await client.ask("fetch", "new"), []);
      assert.equal((await client.ask("fetch", "newer")).length, 4);
      assert.deepEqual(await members[0].ask("rooms"), [members[0].id, "moved", "newer"].sort());
    });

    test("disconnectSockets of others", async () => {
      const members = await crowd("thrown out", 3);
      const [client] = await crowd("staying", 1);
      const gone = members.map(({ socket }) => event(socket, "disconnect"));
      await client.ask("sockets", "disconnect", "thrown out", false);
      for (const [reason] of await Promise.all(gone)) assert.equal(reason, "io server disconnect");
      assert.deepEqual(await client.ask("fetch", "thrown out"), []);
      assert.equal(client.socket.connected, true);
    });

    test("disconnectSockets closes connections", async () => {
      const members = await crowd("closed", 2);
      const [client] = await clients.many(1, "/chat");
      const closed = members.map(({ socket }) => event(socket.io, "close"));
      await client.ask("sockets", "disconnect", "closed", true);
      await patiently(Promise.all(closed), () => "the connections to close");
      assert.equal(client.socket.connected, true);
    });

    test("a remote socket: emit, ask, join, leave, disconnect", async () => {
      const [client, other, third] = await crowd("remote", 3);
      const remote = (...args) => client.ask("remote", other.id, ...args);
      assert.equal(await remote("emit", { to: ["one"] }), true);
      assert.deepEqual(await other.next("remote"), [{ to: ["one"] }]);
      assert.deepEqual(await remote("ask", "alone?"), { question: "alone?", i: 1 });
      assert.equal(await remote("join", "alone"), true);
      assert.deepEqual((await client.ask("fetch", "alone")).map(({ id }) => id), [other.id]);
      assert.equal(await remote("leave", "alone"), true);
      assert.deepEqual(await client.ask("fetch", "alone"), []);
      const gone = event(other.socket, "disconnect");
      assert.equal(await client.ask("remote", other.id, "disconnect", false), true);
      assert.deepEqual((await gone)[0], "io server disconnect");
      assert.equal(third.got("remote").length + third.got("question").length, 0);
      assert.equal(await client.ask("remote", "nobody", "emit", 1), false);
    });
  });
}
