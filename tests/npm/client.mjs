// The official client, with a log of everything that arrived and ways to wait for it.

import { randomUUID } from "node:crypto";
import { Manager } from "socket.io-client";

import { parserName, parserNamed } from "./parsers.mjs";
import { Proxy } from "./proxy.mjs";

// Bound of every wait; reached only when something is broken.
const PATIENCE = 30_000;

export function patiently(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited in vain for ${what()}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export const event = (emitter, name) =>
  patiently(new Promise((resolve) => emitter.once(name, (...args) => resolve(args))), () => name);

// One socket of one namespace. `log` holds [event, ...args] in order of arrival.
export class Client {
  log = [];
  #waiting = new Set();

  constructor(socket) {
    this.socket = socket;
    socket.onAny((...entry) => {
      if (typeof entry.at(-1) === "function") entry.pop();
      this.log.push(entry);
      for (const check of this.#waiting) check();
    });
  }

  get id() {
    return this.socket.id;
  }

  get transport() {
    return this.socket.io.engine.transport.name;
  }

  emit(...args) {
    this.socket.emit(...args);
  }

  // Emits and returns the first value of the acknowledgement.
  ask(...args) {
    return patiently(this.socket.emitWithAck(...args), () => `the ack of ${args[0]}`);
  }

  // What arrived under `name`, as arrays of arguments.
  got(name) {
    return this.log.filter(([logged]) => logged === name).map(([, ...args]) => args);
  }

  // Waits until `condition(this)` holds; it is looked at after every event.
  until(condition, what) {
    let check;
    const held = new Promise((resolve) => {
      check = () => condition(this) && resolve();
    });
    this.#waiting.add(check);
    check();
    return patiently(held, () => `${what}; arrived: ${JSON.stringify(this.log).slice(0, 2000)}`)
      .finally(() => this.#waiting.delete(check));
  }

  // Waits for the `nth` event called `name` and returns its arguments.
  async next(name, nth = 1) {
    await this.until(() => this.got(name).length >= nth, `${name} number ${nth}`);
    return this.got(name)[nth - 1];
  }

  // Ends the connection at its lowest level, as a closed browser tab does.
  vanish() {
    this.socket.io.engine.close();
  }
}

// The clients of one test and their proxies; closed together when it ends.
export class Clients {
  #managers = [];
  #proxies = [];

  constructor(url, transports) {
    this.url = url;
    this.options = { forceNew: true, reconnection: false, parser: parserNamed(parserName) };
    if (transports) this.options.transports = transports;
  }

  // A connection without sockets yet.
  manager(options = {}) {
    const manager = new Manager(options.url ?? this.url, {
      ...this.options,
      autoConnect: false,
      ...options,
    });
    this.#managers.push(manager);
    return manager;
  }

  // A socket that is not connected yet; `options.auth` and the manager's options.
  idle(nsp = "/", { auth, manager, ...options } = {}) {
    manager ??= this.manager(options);
    return new Client(manager.socket(nsp, auth ? { auth } : {}));
  }

  // A socket that is connected.
  async connect(nsp, options) {
    const client = this.idle(nsp, options);
    const outcome = new Promise((resolve, reject) => {
      client.socket.once("connect", resolve);
      client.socket.once("connect_error", reject);
    });
    client.socket.connect();
    await patiently(outcome, () => `connect to ${nsp}`);
    return client;
  }

  async many(n, nsp, options) {
    return Promise.all(Array.from({ length: n }, () => this.connect(nsp, options)));
  }

  // A proxy in front of the server at `port`.
  async proxy(port, gate) {
    const proxy = new Proxy(port, gate);
    await proxy.start();
    this.#proxies.push(proxy);
    return proxy;
  }

  async close() {
    for (const manager of this.#managers) {
      manager.reconnection(false);
      manager._close();
    }
    await Promise.all(this.#proxies.map((proxy) => proxy.cut()));
  }
}

// Everything that `sender` emitted to anyone of `receivers` before has arrived when this returns:
// packets of one sender to one receiver keep their order, and the fence is the last of them.
export async function fence(sender, receivers) {
  const token = randomUUID();
  sender.emit("all", token);
  const passed = (client) => client.got("all").some(([got]) => got === token);
  await Promise.all(receivers.map((client) => client.until(passed, "the fence")));
}

// Waits until the connection runs on websocket.
export async function upgraded(client) {
  const { engine } = client.socket.io;
  if (engine.transport.name !== "websocket") await event(engine, "upgrade");
}
