// Prints the vectors of src/proto/msgpack/vectors.txt: what npm's notepack.io 2.2, the encoder of
// socket.io-msgpack-parser, makes of JavaScript values, and what JSON.stringify makes of them.
//
//   node msgpack-vectors.mjs > ../../src/proto/msgpack/vectors.txt
//
// Columns are separated by tabs: how, JSON, bytes, bytes of each binary value.
//   both    the JSON is written as these bytes, and read from them
//   in      a client's bytes, read as this JSON
//   sized   instead of JSON a kind and a length; the bytes are the first eight, then their number

import notepack from "notepack.io";

const hex = (bytes) => Buffer.from(bytes).toString("hex");

// JSON with placeholders in the order in which corecast numbers them, and the binary values.
function json(value) {
  const found = [];
  const text = JSON.stringify(value, function (key) {
    const original = this[key];
    const isBinary = Buffer.isBuffer(original) || original instanceof ArrayBuffer;
    if (!isBinary) return this[key] instanceof Date ? this[key].toJSON() : this[key];
    found.push(hex(original));
    return { _placeholder: true, num: found.length - 1 };
  });
  return [text ?? "", ...found];
}

const lines = [];
const add = (how, value, bytes = notepack.encode(value)) => {
  const [text, ...found] = json(value);
  lines.push([how, text, hex(bytes), ...found].join("\t"));
};

const both = [
  null, true, false, "", "a", "hällo", "👂", "\"\\/\b\f\n\r\t\u0001\u007f\u2028", [], {}, [[]],
  [null, [true, [false]]], { a: 1 }, { "": "" }, { a: { b: { c: [{}] } } }, { ä: "ö", 1: 2 },
  JSON.parse('{"__proto__":1}'), { type: "x", data: [1], _placeholder: false, num: 0 },
  { _placeholder: true, num: 0 }, // No binary value, so a plain object.
  Buffer.from([]), Buffer.from([1, 2, 3]), [Buffer.from("a"), { b: [Buffer.from("b")] }],
];
for (const power of [0, 5, 7, 8, 15, 16, 31, 32, 52]) {
  for (const off of [-1, 0, 1]) both.push(2 ** power + off, -(2 ** power) + off);
}
both.push(2 ** 53 - 1, 1 - 2 ** 53, 0.5, -0.5, 1.1, 1e-7, 5e-324, 3.14159);
for (const value of [...new Set(both)]) if (!Object.is(value, -0)) add("both", value);

const day = 86_400_000;
const times = [0, 1, -1, 999, day - 1, day, -day, 951_782_400_000, 951_868_800_000, 1e12, 4_107_542_400_000,
  -62_167_219_200_000, -62_167_219_200_001, 253_402_300_799_999, 253_402_300_800_000, 8.64e15, -8.64e15];
add("in", undefined);
for (const time of times) add("in", new Date(time));
const beyond = Buffer.from("d7000000000000000000", "hex");
beyond.writeBigInt64BE(8_640_000_000_000_001n, 2);
add("in", new Date(NaN), beyond);
for (const value of [-0, NaN, Infinity, -Infinity, [undefined], [1, undefined, 2], { a: undefined },
  { a: undefined, b: 1 }, { b: 1, a: undefined, c: 2 }, [{ a: undefined }],
  new Uint8Array([1, 2, 3]).buffer, new ArrayBuffer(0), [Buffer.from("x"), new ArrayBuffer(300)]]) {
  add("in", value);
}
// Formats that notepack reads and never writes.
for (const [value, bytes] of [
  [1.5, "ca3fc00000"], [1, "ca3f800000"], [1, "cb3ff0000000000000"], [5, "cf0000000000000005"],
  [5, "cd0005"], [5, "ce00000005"], [-1, "d0ff"], [-1, "d1ffff"], [-1, "d2ffffffff"],
  [-1, "d3ffffffffffffffff"], ["a", "d90161"], ["a", "da000161"], ["a", "db0000000161"], [[1], "dc000101"],
  [[1], "dd0000000101"], [{ a: 1 }, "de0001a16101"], [{ a: 1 }, "df00000001a16101"],
  [Buffer.from("a"), "c5000161"], [Buffer.from("a"), "c60000000161"], [{ 7: 1 }, "810701"], [{ "-1": 1 }, "81ff01"],
]) {
  add("in", value, Buffer.from(bytes, "hex"));
}

const sized = {
  str: (n) => "s".repeat(n),
  bin: (n) => Buffer.alloc(n, 7),
  array: (n) => new Array(n).fill(null),
  map: (n) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`k${i}`, null])),
};
for (const [kind, make] of Object.entries(sized)) {
  for (const n of [15, 16, 31, 32, 33, 255, 256, 65_535, 65_536]) {
    const bytes = notepack.encode(make(n));
    lines.push(["sized", `${kind} ${n}`, hex(bytes.subarray(0, 8)), bytes.length].join("\t"));
  }
}
process.stdout.write(lines.join("\n") + "\n");
