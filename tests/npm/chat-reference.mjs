// The server side of the chat demo, written with the reference implementation (npm socket.io). The
// corecast binary does the same in Rust; demo/chat.html runs on either.
//
//   node chat-reference.mjs [--listen 127.0.0.1:PORT]
//
// Serves demo/chat.html at `/` (text/html; charset=utf-8), 404 elsewhere. The first line on stdout is
// `listening on http://127.0.0.1:PORT`.
//
// NAMESPACES: `/` and `/private`, with the same events and with rooms of their own. `/private` has a
// middleware: auth.token must be the string "letmein", or else the connection is refused with
// connect_error, message "wrong token", data {"code":401,"hint":"try letmein"}.
//
// A socket is in one chat room at most. The Socket.IO room of the chat room `general` is called
// `room:general`, since the bare names are socket ids.
//
// State: people: (namespace, room) → list of {id, name} in order of joining; and one counter,
// `version`, that grows by 1 with every change of any list, under the same lock. A socket's own data:
// {name, room}, empty until it joined.
//
// CLIENT → SERVER
// | event   | argument       | what the server does                                             |
// |---------|----------------|------------------------------------------------------------------|
// | join    | {"room",       | Leaves the room it is in if that is another one. Joins; in the   |
// |         | "name"}, ack   | same room again only the name changes, the place in the list     |
// |         |                | stays. Broadcasts `users`. ack({"ok":true,"room","name",         |
// |         |                | "version","users"}) with room and name as they were stored.      |
// |         |                | Both are trimmed; 1 to 40 characters are left, or nothing        |
// |         |                | happens but ack({"ok":false,"error":"name: 1 to 40 characters"}) |
// |         |                | or "room: 1 to 40 characters" (name is looked at first).         |
// | message | {"text"}, ack  | `message` to the room, the sender too; ack({"ok":true}).         |
// |         |                | Trimmed; else ack({"ok":false,"error":...}) with "join a room    |
// |         |                | first" or "text: 1 to 2000 characters", in this order.           |
// | typing  | boolean        | `typing` to the others in the room; ignored without a room       |
// | leave   | ack            | Leaves the room, if any. Broadcasts `users`. ack({"ok":true}).   |
//
// Characters are Unicode code points. A field that is missing or no string counts as empty. Without
// an ack asked for, nobody is told. Losing the connection is a `leave`.
//
// SERVER → CLIENT
// | event   | argument                              | to                                    |
// |---------|---------------------------------------|---------------------------------------|
// | message | {"id","name","text","at"}             | the room; at = ms since 1970, id =    |
// |         |                                       | the sender's socket id                |
// | typing  | {"id","name","typing"}                | the room without the sender           |
// | users   | {"room","version","users":[{"id",     | the room, whenever its list changed   |
// |         | "name"},…]}                           | (after a leave: those who are left)   |
//
// Lists of one room may overtake each other on their way. The page takes a list only if its version
// is greater than that of the last one it took, and if it is of the room the page is in.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { Server } from "socket.io";

const page = readFileSync(new URL("../../demo/chat.html", import.meta.url));
const http = createServer((request, response) => {
  if (request.url.split("?")[0] !== "/") return response.writeHead(404).end();
  response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end(page);
});
const io = new Server(http);

const people = new Map(); // "namespace room" → Map of id → name
let version = 0;

const listOf = (key) => [...(people.get(key) ?? [])].map(([id, name]) => ({ id, name }));

// The string, trimmed, or null if it is not 1 to `max` characters.
function bounded(value, max) {
  const text = typeof value === "string" ? value.trim() : "";
  return text && [...text].length <= max ? text : null;
}

function serve(nsp) {
  nsp.on("connection", (socket) => {
    const key = (room) => `${nsp.name} ${room}`;
    const tell = (room) => {
      const users = { room, version, users: listOf(key(room)) };
      nsp.to(`room:${room}`).emit("users", users);
      return users;
    };
    const leave = () => {
      const { room } = socket.data;
      if (room === undefined) return;
      socket.data = {};
      socket.leave(`room:${room}`);
      const list = people.get(key(room));
      list.delete(socket.id);
      if (list.size === 0) people.delete(key(room));
      version++;
      tell(room);
    };
    const on = (event, handler) =>
      socket.on(event, (...args) => {
        const ack = typeof args.at(-1) === "function" ? args.pop() : () => {};
        handler(args[0], ack);
      });

    on("join", (request, ack) => {
      const name = bounded(request?.name, 40);
      if (!name) return ack({ ok: false, error: "name: 1 to 40 characters" });
      const room = bounded(request?.room, 40);
      if (!room) return ack({ ok: false, error: "room: 1 to 40 characters" });
      if (socket.data.room !== room) leave();
      socket.data = { name, room };
      socket.join(`room:${room}`);
      if (!people.has(key(room))) people.set(key(room), new Map());
      people.get(key(room)).set(socket.id, name);
      version++;
      ack({ ok: true, name, ...tell(room) });
    });
    on("message", (request, ack) => {
      const { name, room } = socket.data;
      if (room === undefined) return ack({ ok: false, error: "join a room first" });
      const text = bounded(request?.text, 2000);
      if (!text) return ack({ ok: false, error: "text: 1 to 2000 characters" });
      nsp.to(`room:${room}`).emit("message", { id: socket.id, name, text, at: Date.now() });
      ack({ ok: true });
    });
    on("typing", (typing) => {
      const { name, room } = socket.data;
      if (room === undefined || typeof typing !== "boolean") return;
      socket.to(`room:${room}`).emit("typing", { id: socket.id, name, typing });
    });
    on("leave", (_, ack) => {
      leave();
      ack({ ok: true });
    });
    socket.on("disconnect", leave);
  });
}

io.of("/private").use((socket, next) => {
  if (socket.handshake.auth.token === "letmein") return next();
  const error = new Error("wrong token");
  error.data = { code: 401, hint: "try letmein" };
  next(error);
});
serve(io.of("/"));
serve(io.of("/private"));

const at = process.argv.indexOf("--listen");
const [host, port] = (at < 0 ? "127.0.0.1:0" : process.argv[at + 1]).split(":");
http.listen(Number(port), host, () => {
  console.log(`listening on http://${host}:${http.address().port}`);
});
process.on("SIGTERM", () => process.exit(0));
