// What the msgpack parser does beyond what e2e.test.mjs, which runs with it as well, shows for every
// parser: values that JSON has not, and the bundle that the server hands out.
//
// CORECAST_E2E_CMD as for e2e.test.mjs. With the reference in its place, values come back as they
// were; corecast gives what JSON has of them.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";

import { Clients, event, patiently, upgraded } from "./client.mjs";
import { parserNamed } from "./parsers.mjs";
import { reference, start } from "./server.mjs";

const command = `${process.env.CORECAST_E2E_CMD || reference("fixture.mjs")} --parser msgpack`;
const isReference = !process.env.CORECAST_E2E_CMD;
const here = (path) => fileURLToPath(new URL(path, import.meta.url));

let server;
let clients;
before(async () => {
  server = await start(command);
});
after(() => server.stop());
beforeEach(() => {
  clients = new Clients(server.url);
  clients.options.parser = parserNamed("msgpack");
});
afterEach(() => clients.close());

test("the vectors of src/proto/msgpack are those of this encoder", async () => {
  const made = execFileSync(process.execPath, [here("msgpack-vectors.mjs")], { encoding: "utf8" });
  const kept = await readFile(here("../../src/proto/msgpack/vectors.txt"), "utf8");
  assert.equal(made, kept);
});

for (const transports of [["polling"], ["websocket"], undefined]) {
  describe(transports?.[0] ?? "default transports", () => {
    beforeEach(() => {
      if (transports) clients.options.transports = transports;
    });

    // [what is sent, what comes back from corecast]; an array is the list of arguments.
    for (const [name, sent, got] of [
      ["undefined", [1, undefined, { a: undefined, b: [undefined] }], [1, null, { b: [null] }]],
      ["dates", [new Date(1e12), { at: new Date(-1) }], ["2001-09-09T01:46:40.000Z",
        { at: "1969-12-31T23:59:59.999Z" }]],
      ["not numbers", [NaN, Infinity, -Infinity], [null, null, null]],
      ["minus zero", [-0, 1], [0, 1]],
      ["edges of integers", [2 ** 31, -(2 ** 31) - 1, 2 ** 32, 2 ** 53 - 1, 1 - 2 ** 53]],
      ["floats", [0.1, -1.5, 1e-7, 5e-324, 123456789.125]],
      ["an object like a placeholder", [{ _placeholder: true, num: 0 }]],
      ["a key called __proto__", [JSON.parse('{"__proto__x":1,"constructor":2}')]],
      ["ArrayBuffer", [new Uint8Array([1, 2]).buffer], [Buffer.from([1, 2])]],
      ["more binary values than text packets may have", Array.from({ length: 300 }, (_, i) =>
        Buffer.from([i & 255]))],
      ["empty text, list, object and bytes", ["", [], {}, Buffer.alloc(0)]],
      ["text at the edges of formats", [31, 32, 255, 256, 65_535, 65_536].map((n) =>
        "é".repeat(n).slice(0, n))],
      ["lists at the edges of formats", [15, 16, 65_535, 65_536].map((n) => new Array(n).fill(7))],
    ]) {
      test(name, { skip: isReference && got !== undefined }, async () => {
        const client = await clients.connect("/");
        client.emit("echo", ...sent);
        assert.deepEqual(await client.next("echo"), got ?? sent);
        client.emit("echo:ack", ...sent, () => {});
        assert.deepEqual(await client.ask("echo:ack", sent[0]), (got ?? sent)[0]);
      });
    }

    test("a refusal has its data", async () => {
      const client = clients.idle("/admin", { auth: { token: "wrong" } });
      const refused = event(client.socket, "connect_error");
      client.socket.connect();
      const [error] = await refused;
      assert.equal(error.message, "not authorized");
      assert.deepEqual(error.data, { code: 401, content: "retry later" });
    });

    test("a packet that is none ends the connection", async () => {
      const client = await clients.connect("/");
      if (!transports) await upgraded(client);
      const reason = event(client.socket, "disconnect");
      client.socket.io.engine.write(Buffer.from([0xdd, 255, 255, 255, 255]));
      assert.match((await reason)[0], /^transport (close|error)$/);
      const other = await clients.connect("/");
      assert.equal(await other.ask("echo:ack", "alive"), "alive");
    });

    test("names of the library's own events reach no handler", { skip: isReference }, async () => {
      const client = await clients.connect("/");
      const reason = event(client.socket, "disconnect");
      client.socket.packet({ type: 2, data: ["disconnect", "faked"] });
      await reason;
    });
  });
}

test("the bundle socket.io.msgpack.min.js", async () => {
  const response = await fetch(`${server.url}/socket.io/socket.io.msgpack.min.js`);
  const module = { exports: {} };
  // The bundle is for browsers, which have one.
  const { WebSocket: before } = globalThis;
  globalThis.WebSocket = WebSocket;
  new Function("module", "exports", await response.text())(module, module.exports);
  const socket = module.exports(server.url, { transports: ["websocket"], forceNew: true });
  try {
    await event(socket, "connect");
    const bytes = new Uint8Array([1, 2, 3]);
    const answer = await patiently(socket.emitWithAck("echo:ack", { a: [bytes.buffer, "ö"] }), () => "ack");
    assert.deepEqual(new Uint8Array(answer.a[0]), bytes);
    assert.equal(answer.a[1], "ö");
  } finally {
    globalThis.WebSocket = before;
    socket.disconnect();
  }
});
