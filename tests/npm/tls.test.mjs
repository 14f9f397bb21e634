// The official client over `https:` and `wss:`, against several shards, whatever the transport.
//
// CORECAST_E2E_CMD is the command line of the server of the end-to-end tests (examples/e2e_server.rs),
// which is started with `--tls FILE`: it makes up a certificate and writes it to that file.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { Clients, upgraded } from "./client.mjs";
import { start } from "./server.mjs";

const command = process.env.CORECAST_E2E_CMD;
assert.ok(command, "CORECAST_E2E_CMD is not set");

let folder;
let server;
let ca;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "corecast-tls-"));
  const file = join(folder, "ca.pem");
  server = await start(command, `--tls '${file}'`);
  ca = await readFile(file);
});
after(async () => {
  await server.stop();
  await rm(folder, { recursive: true });
});

for (const [name, transports] of [
  ["polling", ["polling"]],
  ["websocket", ["websocket"]],
  ["default transports", undefined],
]) {
  describe(name, () => {
    let clients;

    beforeEach(() => {
      clients = new Clients(server.url, transports);
      clients.options.ca = ca;
    });
    afterEach(() => clients.close());

    test("twenty clients find their sessions, events come in order", async () => {
      assert.match(server.url, /^https:/);
      const all = await Promise.all(Array.from({ length: 20 }, () => clients.connect("/")));
      for (const client of all) {
        if (!transports) await upgraded(client);
        for (let round = 0; round < 20; round++) client.emit("echo", round);
      }
      for (const client of all) {
        await client.next("echo", 20);
        const rounds = client.got("echo").map(([round]) => round);
        assert.deepEqual(rounds, Array.from({ length: 20 }, (_, round) => round));
        assert.equal(client.transport, transports?.[0] ?? "websocket");
        assert.equal((await client.ask("handshake")).secure, true);
      }
    });

    test("a broadcast reaches everybody once", async () => {
      const all = await Promise.all(Array.from({ length: 10 }, () => clients.connect("/chat")));
      all[0].emit("all", "to everybody");
      for (const client of all) {
        assert.deepEqual(await client.next("all"), ["to everybody"]);
        await client.ask("echo:ack", 1);
        assert.equal(client.got("all").length, 1);
      }
    });

    test("large and binary messages pass unchanged", async () => {
      const client = await clients.connect("/");
      const text = "ä".repeat(200_000);
      assert.equal(await client.ask("echo:ack", text), text);
      const bytes = randomBytes(300_000);
      const sum = bytes.reduce((sum, byte) => sum + byte, 0);
      assert.deepEqual(await client.ask("binary:sum", bytes), [{ length: 300_000, sum }]);
      assert.deepEqual(Buffer.from(await client.ask("echo:ack", bytes)), bytes);
    });

    test("a client that does not know the certificate does not connect", async () => {
      await assert.rejects(clients.connect("/", { ca: undefined }), /error/);
    });
  });
}
