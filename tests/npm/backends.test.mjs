// Backends of the gateway with what a Node.js program has: workers with the official client, and
// webhooks checked by the code of examples/backends.
//
//   CORECAST_GATEWAY_CMD=target/debug/corecast node --test backends.test.mjs

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { io } from "socket.io-client";

import { comesFromCorecast } from "../../examples/backends/verify.mjs";
import { Client, event } from "./client.mjs";
import { startGateway } from "./gateway.mjs";

const KEY = "a key for workers in tests";
const SECRET = "whsec_" + Buffer.from("a secret of the two").toString("base64");

const requests = [];
let answer = () => ({});
const backend = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const seen = { headers: request.headers, body };
  requests.push(seen);
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(answer(JSON.parse(body))));
});

let gateway;

before(async () => {
  await new Promise((resolve) => backend.listen(0, "127.0.0.1", resolve));
  gateway = await startGateway(`
[[namespace]]
name = "/"
[[namespace.route]]
event = "sum"
do = "webhook"
webhook = "app"
[[namespace.route]]
event = "*"
do = "worker"

[[webhook]]
name = "app"
url = "http://127.0.0.1:${backend.address().port}/hook"
secret = "another secret of the tests"
other_secret = "${SECRET}"

[workers]
[[workers.key]]
name = "tests"
key = "${KEY}"
`);
});

after(async () => {
  await gateway?.stop();
  backend.close();
});

const open = [];
function dial(url, options) {
  const socket = io(url, { forceNew: true, reconnection: false, ...options });
  open.push(socket);
  return socket;
}

async function connect(namespace = "/", auth = {}, url = gateway.url, more = {}) {
  const socket = dial(url + namespace, { auth, ...more });
  const client = new Client(socket);
  await event(socket, "connect");
  return client;
}

const worker = (name, more = {}) =>
  connect("/workers", { key: KEY, name, events: ["*"], ...more });

const done = () => open.splice(0).forEach((socket) => socket.disconnect());

describe("workers", () => {
  test("an event goes to a worker, and its ack to the client, bytes included", async () => {
    const [app, ada] = [await worker("app"), await connect()];
    app.socket.on("event", ({ socket, event, args }, ack) => {
      ack({ from: socket, event, first: args[0] }, Buffer.concat([args[1], Buffer.from([3])]));
    });
    const [said, bytes] = await new Promise((resolve) => {
      ada.emit("work", { n: 1.5 }, Buffer.from([1, 2]), (...answer) => resolve(answer));
    });
    assert.deepEqual(said, { from: ada.id, event: "work", first: { n: 1.5 } });
    assert.deepEqual(Buffer.from(bytes), Buffer.from([1, 2, 3]));
    done();
  });

  test("a wrong key is refused", async () => {
    const auth = { key: "no key of anybody", name: "x" };
    const [error] = await event(dial(`${gateway.url}/workers`, { auth }), "connect_error");
    assert.equal(error.message, "not authorized");
    done();
  });

  test("workers act on clients", async () => {
    const [app, ada] = [await worker("app"), await connect()];
    const joined = await app.ask("join", { sockets: [ada.id], join: ["room"] });
    assert.equal(joined.result.sockets, 1);
    const bytes = Buffer.from([9]);
    await app.ask("command", { do: "emit", rooms: ["room"], event: "news", args: [1, bytes] });
    const [number, got] = await ada.next("news");
    assert.deepEqual([number, Buffer.from(got)], [1, bytes]);
    const wrong = await app.ask("emit", { rooms: ["room"] });
    assert.equal(wrong.error.status, 422);
    const ended = event(ada.socket, "disconnect");
    await app.ask("kick", { sockets: [ada.id] });
    assert.deepEqual((await ended)[0], "io server disconnect");
    done();
  });

  test("two share the work, and one takes over what the other leaves", async () => {
    const [one, two] = [await worker("pair"), await worker("pair")];
    const heard = { one: [], two: [] };
    // Nobody answers until each has its share.
    let go;
    const gone = new Promise((resolve) => (go = resolve));
    one.socket.on("event", (work) => heard.one.push(work));
    two.socket.on("event", async (work, ack) => {
      heard.two.push(work);
      await gone;
      ack(work.args[0]);
    });
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect()));
    const answers = clients.map((client, n) => client.ask("work", n));
    await one.until(() => one.got("event").length === 10, "half of the work");
    await two.until(() => two.got("event").length === 10, "the other half");
    one.vanish();
    go();
    assert.deepEqual(await Promise.all(answers), Array.from({ length: 20 }, (_, n) => n));
    const again = heard.two.filter((work) => work.redelivered).map((work) => work.id);
    assert.deepEqual(again.toSorted(), heard.one.map((work) => work.id).toSorted());
    done();
  });
});

describe("TLS", () => {
  const folder = mkdtempSync(join(tmpdir(), "corecast-tls-"));
  const [chain, key] = ["chain.pem", "key.pem"].map((name) => join(folder, name));
  let secure;

  before(async () => {
    const names = ["-subj", "/CN=corecast", "-addext", "subjectAltName=IP:127.0.0.1"];
    const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    const files = ["-keyout", key, "-out", chain];
    execFileSync("openssl", ["req", "-x509", "-days", "2", ...curve, ...names, ...files], {
      stdio: "ignore",
    });
    secure = await startGateway(`
[server.tls]
listen = ["127.0.0.1:0"]
[[server.tls.certificate]]
chain = "${chain}"
key = "${key}"
[[namespace]]
name = "/"
[[namespace.route]]
event = "say"
do = "reply"
ack = "{args[0]}"
`);
  });
  after(async () => {
    await secure?.stop();
    rmSync(folder, { recursive: true });
  });

  for (const transport of ["polling", "websocket"]) {
    test(`the official client over ${transport}`, async () => {
      const transports = [transport];
      assert.match(secure.secure, /^https:/);
      const ca = readFileSync(chain);
      const client = await connect("/", {}, secure.secure, { transports, ca });
      assert.deepEqual(await client.ask("say", { text: "ü" }), { text: "ü" });
      // Nobody else vouches for the certificate.
      await event(dial(secure.secure, { transports }), "connect_error");
      done();
    });
  }
});

describe("webhooks", () => {
  test("requests are verified by the code of the examples", async () => {
    const ada = await connect();
    answer = ({ args }) => args.reduce((sum, n) => sum + n, 0);
    assert.equal(await ada.ask("sum", 1, 2, 3), 6);
    const { headers, body } = requests.at(-1);
    for (const secret of [SECRET, "another secret of the tests"]) {
      assert.ok(comesFromCorecast(secret, headers, body));
    }
    assert.ok(!comesFromCorecast("wrong", headers, body));
    assert.ok(!comesFromCorecast(SECRET, headers, Buffer.concat([body, Buffer.from(" ")])));
    const late = { ...headers, "webhook-timestamp": String(headers["webhook-timestamp"] - 400) };
    assert.ok(!comesFromCorecast(SECRET, late, body));
    assert.ok(!comesFromCorecast(SECRET, { ...headers, "webhook-signature": "" }, body));
    done();
  });
});
