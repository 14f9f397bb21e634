// permessage-deflate (C-9) as the official client sees it: what is agreed on, that it saves bytes,
// and that everything arrives as it was sent.
//
//   CORECAST_E2E_CMD="target/debug/examples/e2e_server" npm run test:deflate
//
// Without CORECAST_E2E_CMD the reference server of fixture.mjs is tested.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { io } from "socket.io-client";

import { event, patiently } from "./client.mjs";
import { reference, start } from "./server.mjs";

const command = process.env.CORECAST_E2E_CMD || reference("fixture.mjs");
const open = new Set();

async function connect(server, options = {}) {
  const socket = io(server.url, { transports: ["websocket"], forceNew: true, ...options });
  open.add(socket);
  await event(socket, "connect");
  return socket;
}

const ask = (socket, ...args) => patiently(socket.emitWithAck(...args), () => `ack of ${args[0]}`);
const websocket = (socket) => socket.io.engine.transport.ws;
// Bytes that arrived from the server and left for it.
const traffic = (socket) => {
  const { bytesRead, bytesWritten } = websocket(socket)._socket;
  return { bytesRead, bytesWritten };
};

afterEach(() => {
  for (const socket of open) socket.disconnect();
  open.clear();
});

describe("C-9 permessage-deflate", () => {
  let server;
  before(async () => {
    server = await start(command, "--deflate");
  });
  after(() => server.stop());

  test("is agreed on, and large messages cost few bytes", async () => {
    const socket = await connect(server);
    assert.equal(websocket(socket).extensions, "permessage-deflate");
    const before = traffic(socket);
    const text = "the same again and again, ".repeat(4_000);
    assert.equal(await ask(socket, "echo:ack", text), text);
    const after = traffic(socket);
    assert.ok(after.bytesRead - before.bytesRead < text.length / 10);
    assert.ok(after.bytesWritten - before.bytesWritten < text.length / 10);
  });

  test("text, attachments and small messages arrive as they were sent", async () => {
    const socket = await connect(server);
    const noise = Buffer.from(Array.from({ length: 20_000 }, (_, i) => (i * i * 7919) >> 3));
    const values = ["", "é".repeat(3_000), { deep: ["x".repeat(2_000)] }, noise, Buffer.alloc(9_000)];
    for (const value of values) {
      assert.deepEqual(await ask(socket, "echo:ack", value), value);
    }
    const many = Array.from({ length: 200 }, (_, i) => `${i} `.repeat(10 * (i % 100)));
    const answers = await Promise.all(many.map((value) => ask(socket, "echo:ack", value)));
    assert.deepEqual(answers, many);
  });

  test("a broadcast reaches those with it and those without", async () => {
    const sockets = [
      await connect(server),
      await connect(server, { perMessageDeflate: { clientMaxWindowBits: 9, serverMaxWindowBits: 10 } }),
      await connect(server, { perMessageDeflate: false }),
      await connect(server, { transports: ["polling"] }),
    ];
    const agreed = sockets.slice(0, 3).map((socket) => websocket(socket).extensions);
    assert.deepEqual(agreed, ["permessage-deflate", "permessage-deflate", ""]);
    const payload = { list: Array.from({ length: 500 }, (_, i) => `item ${i % 10}`) };
    const heard = sockets.map((socket) => event(socket, "all"));
    sockets[0].emit("all", payload);
    for (const arguments_ of await Promise.all(heard)) assert.deepEqual(arguments_, [payload]);
  });

  test("an upgraded connection has it too", async () => {
    const socket = io(server.url, { forceNew: true });
    open.add(socket);
    await event(socket, "connect");
    if (socket.io.engine.transport.name === "polling") await event(socket.io.engine, "upgrade");
    assert.equal(websocket(socket).extensions, "permessage-deflate");
    const text = "upgraded ".repeat(1_000);
    const before = traffic(socket);
    assert.equal(await ask(socket, "echo:ack", text), text);
    assert.ok(traffic(socket).bytesRead - before.bytesRead < text.length / 5);
  });
});

describe("C-9 without the option", () => {
  let server;
  before(async () => {
    server = await start(command);
  });
  after(() => server.stop());

  test("offers are declined", async () => {
    const socket = await connect(server);
    assert.equal(websocket(socket).extensions, "");
    const text = "plain ".repeat(1_000);
    const before = traffic(socket);
    assert.equal(await ask(socket, "echo:ack", text), text);
    assert.ok(traffic(socket).bytesRead - before.bytesRead > text.length);
  });
});
