// The parsers that the end-to-end tests run with: CORECAST_E2E_PARSER names one for the clients, and
// the server is told by `--parser`. examples/support/counted.rs is the second of them in Rust.

import { Emitter } from "@socket.io/component-emitter";
import msgpack from "socket.io-msgpack-parser";

// A parser as an application may have: one text, `[binaries, type, id, namespace]` and the data on a
// line of its own, then so many binary messages.
function detach(value, found) {
  const isBinary = value instanceof ArrayBuffer || ArrayBuffer.isView(value);
  if (isBinary) return { _placeholder: true, num: found.push(Buffer.from(value)) - 1 };
  if (Array.isArray(value)) return value.map((item) => detach(item, found));
  if (value === null || typeof value !== "object" || value.toJSON) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, detach(item, found)]));
}

function attach(value, found) {
  if (value === null || typeof value !== "object") return value;
  if (value._placeholder === true) return found[value.num];
  if (Array.isArray(value)) return value.map((item) => attach(item, found));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, attach(item, found)]));
}

class Encoder {
  encode({ type, id, nsp, data }) {
    const found = [];
    const text = JSON.stringify(detach(data, found)) ?? "";
    return [`${JSON.stringify([found.length, type, id ?? null, nsp])}\n${text}`, ...found];
  }
}

class Decoder extends Emitter {
  #packet;

  add(message) {
    if (typeof message === "string") {
      const at = message.indexOf("\n");
      const [count, type, id, nsp] = JSON.parse(message.slice(0, at));
      const text = message.slice(at + 1);
      const packet = { type, nsp, data: text === "" ? undefined : JSON.parse(text) };
      this.#packet = { count, packet: id === null ? packet : { ...packet, id }, found: [] };
    } else {
      this.#packet.found.push(message);
    }
    const { count, packet, found } = this.#packet;
    if (found.length < count) return;
    this.emit("decoded", { ...packet, data: attach(packet.data, found) });
  }

  destroy() {}
}

const parsers = { json: undefined, msgpack, counted: { Encoder, Decoder } };

export function parserNamed(name) {
  if (!(name in parsers)) throw new Error(`no parser ${name}`);
  return parsers[name];
}

export const parserName = process.env.CORECAST_E2E_PARSER || "json";
