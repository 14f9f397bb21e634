// What the test suites of the Engine.IO and Socket.IO protocols look at, over fetch and bare
// websockets: no client library takes part. CORECAST_PROTOCOL_CMD starts the server
// (examples/protocol_suite.rs); without it the reference is tested.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";

import { reference, start } from "./server.mjs";

const isReference = process.env.CORECAST_PROTOCOL_CMD === undefined;
const command = process.env.CORECAST_PROTOCOL_CMD ?? reference("protocol-reference.mjs");

// The server of the tests that follow. Only those of the heartbeat want a quick one: a slow
// machine must not lose its sessions in the others.
let server;
const serve = (interval, timeout) => {
  before(async () => {
    server = await start(command, `--ping-interval ${interval} --ping-timeout ${timeout}`);
  });
  after(() => server.stop());
};

const url = (query) => `${server.url}/socket.io/?${query}`;
const ask = async (query, options) => {
  const response = await fetch(url(query), options);
  return [response.status, await response.text()];
};
const polling = "EIO=4&transport=polling";
const get = (sid) => ask(`${polling}&sid=${sid}`);
const post = (sid, body) => ask(`${polling}&sid=${sid}`, { method: "POST", body });
const open = async () => JSON.parse((await ask(polling))[1].slice(1)).sid;

// A websocket whose messages wait until somebody asks for them; `null` is its end.
class Peer {
  constructor(query) {
    this.waiting = [];
    this.asked = [];
    this.socket = new WebSocket(url(query).replace("http", "ws"));
    this.opened = new Promise((resolve) => this.socket.once("open", resolve));
    this.socket.on("error", () => {});
    this.socket.on("message", (data, isBinary) => this.put(isBinary ? [...data] : `${data}`));
    this.socket.on("close", () => this.put(null));
  }
  put(message) {
    const resolve = this.asked.shift();
    if (resolve) resolve(message);
    else this.waiting.push(message);
  }
  next() {
    if (this.waiting.length > 0) return Promise.resolve(this.waiting.shift());
    return new Promise((resolve) => this.asked.push(resolve));
  }
  async ends() {
    while ((await this.next()) !== null);
  }
  static async joined() {
    const peer = new Peer("EIO=4&transport=websocket");
    await peer.next();
    peer.socket.send("40");
    assert.match(await peer.next(), /^40\{"sid":"/);
    assert.equal(await peer.next(), '42["auth",{}]');
    return peer;
  }
}

const checkOpen = (text, upgrades, pingInterval, pingTimeout) => {
  const { sid, ...rest } = JSON.parse(text.slice(1));
  assert.equal(typeof sid, "string");
  const expected = { upgrades, pingInterval, pingTimeout, maxPayload: 1_000_000 };
  assert.deepEqual([text[0], rest], ["0", expected]);
};

describe("Engine.IO", { concurrency: false, timeout: 60_000 }, () => {
  serve(25_000, 20_000);

  test("a session opens on either transport", async () => {
    const [status, body] = await ask(polling);
    assert.equal(status, 200);
    checkOpen(body, ["websocket"], 25_000, 20_000);
    const peer = new Peer("EIO=4&transport=websocket");
    checkOpen(await peer.next(), [], 25_000, 20_000);
    peer.socket.close();
  });

  test("what is no handshake is refused", async () => {
    for (const query of ["transport=polling", "EIO=abc&transport=polling", "EIO=4"]) {
      assert.equal((await ask(query))[0], 400, query);
    }
    assert.equal((await ask("EIO=4&transport=abc"))[0], 400);
    for (const method of ["POST", "PUT"]) assert.equal((await ask(polling, { method }))[0], 400);
    for (const query of ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4"]) {
      await new Peer(query).ends();
    }
  });

  test("messages over polling: one, several, binary", async () => {
    const sid = await open();
    assert.deepEqual(await post(sid, "40"), [200, "ok"]);
    let greeting = "";
    while (!greeting.includes("auth")) greeting += (await get(sid))[1];
    const there = (name) => `42["message","${name}"]`;
    const back = (name) => `42["message-back","${name}"]`;
    const binary = (event) => `451-["${event}",{"_placeholder":true,"num":0}]\x1ebAQIDBA==`;
    for (const [sent, expected] of [
      [there("a"), back("a")],
      [["a", "b", "c"].map(there).join("\x1e"), ["a", "b", "c"].map(back).join("\x1e")],
      [`${there("a")}\x1e${binary("message")}`, `${back("a")}\x1e${binary("message-back")}`],
    ]) {
      assert.deepEqual(await post(sid, sent), [200, "ok"]);
      assert.deepEqual(await get(sid), [200, expected]);
    }
  });

  test("a bad packet, a second poll and a dropped poll end the session", async () => {
    const bad = await open();
    await post(bad, "abc").catch(() => {});
    assert.equal((await get(bad))[0], 400);

    const twice = await open();
    const first = get(twice);
    await sleep(50);
    assert.ok([400, 500].includes((await get(twice))[0]));
    assert.deepEqual(await first, [200, "1"]);
    assert.equal((await get(twice))[0], 400);

    const dropped = await open();
    const stop = new AbortController();
    const poll = fetch(url(`${polling}&sid=${dropped}`), { signal: stop.signal }).catch(() => {});
    await sleep(50);
    stop.abort();
    await poll;
    assert.equal((await get(dropped))[0], 400);

    const peer = new Peer("EIO=4&transport=websocket");
    await peer.next();
    peer.socket.send("abc");
    await peer.ends();
  });

  test("the client closes", async () => {
    const sid = await open();
    const poll = get(sid);
    await sleep(50);
    assert.deepEqual(await post(sid, "1"), [200, "ok"]);
    assert.deepEqual(await poll, [200, "6"]);
    assert.equal((await get(sid))[0], 400);
    if (isReference) return; // The reference ignores it (W-6).
    const peer = new Peer("EIO=4&transport=websocket");
    await peer.next();
    peer.socket.send("1");
    await peer.ends();
  });

  test("an upgrade, and what comes too late for it", async () => {
    const sid = await open();
    const peer = new Peer(`EIO=4&transport=websocket&sid=${sid}`);
    await peer.opened;
    peer.socket.send("2probe");
    assert.equal(await peer.next(), "3probe");
    assert.deepEqual(await get(sid), [200, "6"]);
    peer.socket.send("5");
    peer.socket.send("40");
    assert.match(await peer.next(), /^40/);
    assert.equal((await get(sid))[0], 400);
    await new Peer(`EIO=4&transport=websocket&sid=${sid}`).ends();
    assert.equal(await peer.next(), '42["auth",{}]');
    peer.socket.send('42["message",1]');
    assert.equal(await peer.next(), '42["message-back",1]');
    peer.socket.close();
  });
});

describe("Socket.IO", { concurrency: false, timeout: 60_000 }, () => {
  serve(25_000, 20_000);

  test("namespaces are joined, with and without a payload", async () => {
    for (const [sent, prefix, auth] of [
      ["40", "40", "{}"],
      ['40{"token":"123"}', "40", '{"token":"123"}'],
      ["40/custom,", "40/custom,", "{}"],
      ['40/custom,{"token":"abc"}', "40/custom,", '{"token":"abc"}'],
    ]) {
      const peer = new Peer("EIO=4&transport=websocket");
      await peer.next();
      peer.socket.send(sent);
      const answer = await peer.next();
      assert.ok(answer.startsWith(prefix), answer);
      assert.deepEqual(Object.keys(JSON.parse(answer.slice(prefix.length))), ["sid"]);
      const event = `${prefix.replace("40", "42")}["auth",${auth}]`;
      assert.equal(await peer.next(), event);
      peer.socket.close();
    }
    const peer = new Peer("EIO=4&transport=websocket");
    await peer.next();
    peer.socket.send("40/random");
    assert.equal(await peer.next(), '44/random,{"message":"Invalid namespace"}');
    peer.socket.close();
  });

  test("leaving one namespace leaves the others alone", async () => {
    const peer = await Peer.joined();
    peer.socket.send("40/custom");
    assert.match(await peer.next(), /^40\/custom,/);
    await peer.next();
    peer.socket.send("41/custom");
    peer.socket.send('42["message","to the main one"]');
    assert.equal(await peer.next(), '42["message-back","to the main one"]');
    peer.socket.close();
  });

  test("events and acknowledgements, text and binary", async () => {
    const peer = await Peer.joined();
    peer.socket.send('42["message",1,"2",{"3":[true]}]');
    assert.equal(await peer.next(), '42["message-back",1,"2",{"3":[true]}]');
    peer.socket.send('42456["message-with-ack",1,"2",{"3":[false]}]');
    assert.equal(await peer.next(), '43456[1,"2",{"3":[false]}]');
    const two = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}';
    for (const [sent, expected] of [
      [`452-["message",${two}]`, `452-["message-back",${two}]`],
      [`452-789["message-with-ack",${two}]`, `462-789[${two}]`],
    ]) {
      peer.socket.send(sent);
      peer.socket.send(Uint8Array.from([1, 2, 3]));
      peer.socket.send(Uint8Array.from([4, 5, 6]));
      assert.equal(await peer.next(), expected);
      assert.deepEqual(await peer.next(), [1, 2, 3]);
      assert.deepEqual(await peer.next(), [4, 5, 6]);
    }
    peer.socket.close();
  });

  test("what is no packet ends the connection", async () => {
    const early = new Peer("EIO=4&transport=websocket");
    await early.next();
    early.socket.send("4abc");
    await early.ends();
    for (const bad of ["4abc", "42{}", '42abc["message-with-ack",1]']) {
      const peer = await Peer.joined();
      peer.socket.send(bad);
      await peer.ends();
    }
  });
});

describe("heartbeat", { concurrency: false, timeout: 60_000 }, () => {
  serve(300, 200);

  test("the server pings, and who is silent is gone in the announced time", async () => {
    const [asking, silent] = [await open(), await open()];
    const peer = new Peer("EIO=4&transport=websocket");
    const quiet = new Peer("EIO=4&transport=websocket");
    await peer.next();
    for (let i = 0; i < 3; i++) {
      assert.deepEqual(await get(asking), [200, "2"]);
      assert.equal((await post(asking, "3"))[0], 200);
      assert.equal(await peer.next(), "2");
      peer.socket.send("3");
    }
    peer.socket.close();
    await quiet.ends();
    assert.equal((await get(silent))[0], 400);
    if (isReference) return; // Its timers may be late.
    const late = await open();
    await sleep(500);
    assert.equal((await get(late))[0], 400);
  });
});
