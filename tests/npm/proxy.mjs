// A TCP proxy on loopback whose network a test can cut, freeze and restore.

import net from "node:net";

export class Proxy {
  #pairs = new Set();
  #server = null;
  #target;
  #gate;
  #port = 0;
  #frozen = false;
  #changed = () => {};

  // `target` is the port on 127.0.0.1 that connections are forwarded to. `gate`, if given, is
  // called with the first bytes of each connection; they are forwarded when its promise resolves.
  constructor(target, gate = () => {}) {
    this.#target = target;
    this.#gate = gate;
  }

  get url() {
    return `http://127.0.0.1:${this.#port}`;
  }

  // Starts to listen; after cut(), on the same port as before.
  async start() {
    this.#frozen = false;
    this.#server = net.createServer((inner) => {
      const outer = net.connect(this.#target, "127.0.0.1");
      const pair = { inner, outer, head: "" };
      this.#pairs.add(pair);
      const end = () => {
        inner.destroy();
        outer.destroy();
        this.#pairs.delete(pair);
      };
      for (const side of [inner, outer]) {
        side.setNoDelay(true);
        side.on("error", end);
        side.on("close", end);
      }
      inner.once("data", async (first) => {
        inner.pause();
        await this.#gate(first.toString("latin1"));
        if (this.#frozen) return;
        // What the server got last: a GET without its response is a parked one.
        outer.on("data", () => (pair.head = ""));
        outer.write(first, () => {
          pair.head = first.toString("latin1");
          this.#changed();
        });
        inner.on("data", (chunk) => (pair.head = chunk.toString("latin1")));
        inner.pipe(outer);
        outer.pipe(inner);
      });
    });
    await new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(this.#port, "127.0.0.1", resolve);
    });
    this.#port = this.#server.address().port;
  }

  // Waits until a polling GET of the session has passed that is not answered.
  parked() {
    return new Promise((resolve) => {
      this.#changed = () => {
        const pairs = [...this.#pairs];
        if (pairs.some(({ head }) => /^GET .*&sid=/.test(head))) resolve();
      };
      this.#changed();
    });
  }

  // Closes every connection and refuses new ones.
  async cut() {
    if (!this.#server.listening) return;
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const { inner, outer } of [...this.#pairs]) {
      inner.destroy();
      outer.destroy();
    }
    await closed;
  }

  // Connections stay open and are still accepted, but no byte passes any more.
  freeze() {
    this.#frozen = true;
    for (const { inner, outer } of this.#pairs) {
      inner.unpipe(outer);
      outer.unpipe(inner);
      inner.pause();
      outer.pause();
    }
  }
}
