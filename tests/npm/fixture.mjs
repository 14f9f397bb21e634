// The server of the end-to-end tests, written with the reference implementation (npm socket.io).
// examples/e2e_server.rs is the same program on corecast; e2e.test.mjs runs against either.
//
//   node fixture.mjs [--listen 127.0.0.1:PORT] [--ping-interval MS] [--ping-timeout MS]
//                    [--allow-eio3] [--deflate] [--recovery MS]
//                    [--parser json|msgpack|counted]
//
// Default of --listen is 127.0.0.1:0, a free port. The first line on stdout, written when it accepts
// connections, is `listening on http://127.0.0.1:PORT`. SIGTERM ends the program. Every option not
// named here has its default (path /socket.io, serveClient on, both transports, upgrades on).
//
// With --hooks: `cors` for http://page.test and its subdomains, with credentials; the cookie `io`;
// allowRequest refuses handshakes with a header `x-forbid`, whose value is the message; answers to
// handshakes have the header `x-first` (the transport), those of the transports `x-every` (method).
//
// NAMESPACES: `/`, `/chat`, `/notifications`, `/admin`, and dynamic ones: `/room-<digits>` by a
// pattern, `/asked-<word>` by a function that agrees if auth.open === true. Any other is refused
// ("Invalid namespace"). Dynamic ones have one event of their own and those of catch-all listeners:
// | heard         | ack                     | ack([names of the events that onAny has heard, in order, |
// |               |                         | this one in], [names that onAnyOutgoing has heard])      |
// | once          | ...args, ack            | the first time ack("once"), later nothing                |
//
// `/admin` has a middleware. If the auth object has token === "secret" (a string), it sets the
// socket's data `role` = "admin" and accepts. Otherwise the connection is refused with
// connect_error, message "not authorized", data {"code":401,"content":"retry later"}.
//
// Every namespace has a middleware on incoming events (socket.use): the event named `forbidden` is
// refused with Error("event refused"); its handler does not run, its ack is never answered. The
// socket's "error" listener then emits to that socket: `refused` {"message":"event refused"}.
//
// ON CONNECTION, in every namespace, in this order:
//   1. if auth.user is a string: join the room `user:<auth.user>`
//   2. emit to the socket: `welcome` {"nsp": "/chat", "id": <socket id>, "user": <user or null>}
//
// ON DISCONNECTION, in every namespace, reports to all sockets of `/notifications`:
//   disconnecting (rooms are still set): `peer:disconnecting` {"id","nsp","reason","rooms"}
//   disconnect    (rooms are gone):      `peer:disconnect`    {"id","nsp","reason","rooms"}
//   rooms = names of the socket's rooms at that moment, own id included, sorted by code unit (in
//   `peer:disconnect` always []). reason = the server side's text, such as "transport close".
//
// EVENTS. "ack" is the acknowledgement if the client asked for one; where no ack is named, none is
// sent. `...args` means any number of values of any kind, binary included, passed on unchanged
// (raw). "nsp" is the namespace the event came in on.
//
// In every namespace:
// | event         | arguments               | what the server does                                     |
// |---------------|-------------------------|----------------------------------------------------------|
// | echo          | ...args                 | socket.emit("echo", ...args)                             |
// | echo:ack      | ...args, ack            | ack(...args)                                             |
// | all           | ...args                 | nsp.emit("all", ...args): everyone, the sender too       |
// | broadcast     | ...args                 | socket.broadcast.emit("broadcast", ...args)              |
// | relay         | room, ...args           | socket.to(room).emit("relay", ...args)                   |
// | to            | how, ...args            | how = {"from","to","except"}: from "io" → nsp, "socket"  |
// |               |                         | → socket (never the sender itself); chain .to(r) for     |
// |               |                         | each r of the array how.to, then .except(r) for each of  |
// |               |                         | how.except, then .emit("to", ...args). Empty to = all.   |
// | join          | room or [rooms], ack    | join; ack(sorted list of the socket's rooms, own id in)  |
// | leave         | room, ack               | leave; ack(the same list)                                |
// | rooms         | ack                     | ack(the same list)                                       |
// | ask:me        | question, ms            | asks the client: socket.timeout(ms).emit("question",     |
// |               |                         | question, cb); when it answers (...answers):             |
// |               |                         | socket.emit("ask:result", {"ok":true,"answers":[...]});  |
// |               |                         | after ms without: {"ok":false,"error":"timeout"}.        |
// |               |                         | Question and answers are raw (may hold binary).          |
// | ask:room      | room, question, ms      | nsp.to(room), or nsp if room is null, .timeout(ms)       |
// |               |                         | .emit("question", question, cb); then socket.emit(       |
// |               |                         | "ask:room:result", {"ok","responses"}): ok = nobody's    |
// |               |                         | answer is missing, responses as they came                |
// | fetch         | room, ack               | fetchSockets of the room, or of nsp if null;             |
// |               |                         | ack([{"id","rooms","data","user"}]) sorted by id, rooms  |
// |               |                         | sorted, user = auth.user or null                         |
// | sockets       | what, room, how, ack    | of the sockets of the room, or of nsp if null: "join",   |
// |               |                         | "leave": socketsJoin(how), socketsLeave(how), a room or  |
// |               |                         | [rooms]; "disconnect": disconnectSockets(how), a bool;   |
// |               |                         | then ack()                                               |
// | remote        | id, what, how, ack      | on the remote socket that fetchSockets of id finds:      |
// |               |                         | "emit": emit("remote", how); "join", "leave": (how);     |
// |               |                         | "disconnect": disconnect(how); then ack(true); "ask":    |
// |               |                         | ack(the answer of timeout(30000).emitWithAck("question", |
// |               |                         | how)); ack(false) if there is no such socket             |
// | ack:delay     | ms, value, ack          | ack(value) after ms milliseconds, others are served      |
// | never         | ...args, ack            | nothing, the ack is not answered                         |
// | stream        | n, ms                   | socket.emit("stream", i) for i = 0..n-1; ms 0: all in    |
// |               |                         | the handler; else one every ms milliseconds from a task  |
// |               |                         | (ends early if the socket is disconnected)               |
// | volatile      | n                       | socket.volatile.emit("volatile", i) for i = 0..n-1, then |
// |               |                         | socket.emit("volatile:end", n), all in the handler       |
// | binary:make   | n                       | socket.emit("binary:made", {"n":n,"bytes":B,             |
// |               |                         | "nested":[{"again":B}]}), B = n bytes, byte i = i & 255  |
// | binary:sum    | ...args, ack            | ack([{"length","sum"} per binary value of the arguments, |
// |               |                         | depth first, that is in order of the attachments]);      |
// |               |                         | sum = the sum of its bytes                               |
// | data:set      | key, value, ack         | keep value (JSON) under key in the socket's data; ack()  |
// | data:get      | key, ack                | ack(value, or null if there is none)                     |
// | handshake     | ack                     | ack({"headers","query","auth","address","url","xdomain", |
// |               |                         | "secure"}): headers = object, lower-case names; query =  |
// |               |                         | object of decoded strings; auth = what the client sent,  |
// |               |                         | {} if nothing; address = peer's IP; url = request target |
// | ünïcode 🎉    | ack                     | ack("gehört 👂")                                          |
// | forbidden     | ...args                 | never reached, see above                                 |
// | disconnect:me | close (bool)            | socket.disconnect(close)                                 |
// | drop          | –                       | closes the connection below Socket.IO, no DISCONNECT     |
// |               |                         | packet is sent (socket.conn.close()): the client sees    |
// |               |                         | "transport close" and reconnects; server-side reason     |
// |               |                         | "forced close"                                           |
// | panic         | –                       | the handler panics. corecast closes that socket and no   |
// |               |                         | other; Node would exit, so socket.disconnect() here. The |
// |               |                         | tests accept any reason of the disconnection.            |
//
// In `/` only:
// | notify        | {"topic","text"}, ack   | topic a string: of("/notifications").to(topic), topic    |
// |               |                         | null: of("/notifications"); .emit("notification", text); |
// |               |                         | then ack()                                               |
//
// In `/chat` only:
// | say           | room, text              | of("/chat").to(room).emit("said", {"id": <sender's id>,  |
// |               |                         | "user": <auth.user or null>, "text": text})              |
//
// In `/quiet`, where nothing is emitted on connection (and nothing reported), only `all` and these:
// | recovered     | ack                     | ack(socket.recovered), in every namespace                |
// | all:volatile  | ...args                 | nsp.volatile.emit("all:volatile", ...args), everywhere   |
//
// --recovery MS turns connection-state recovery on, with that maxDisconnectionDuration.
//
// Not named events are ignored; an ack asked for with them is never answered.

import { createServer } from "node:http";
import { Server } from "socket.io";

import { parserNamed } from "./parsers.mjs";

const option = (name, otherwise) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? otherwise : process.argv[at + 1];
};

const http = createServer((request, response) => {
  response.writeHead(404).end();
});
const recovery = option("--recovery");
const io = new Server(http, {
  ...(recovery && { connectionStateRecovery: { maxDisconnectionDuration: Number(recovery) } }),
  pingInterval: Number(option("--ping-interval", 25000)),
  pingTimeout: Number(option("--ping-timeout", 20000)),
  allowEIO3: process.argv.includes("--allow-eio3"),
  parser: parserNamed(option("--parser", "json")),
  ...(process.argv.includes("--hooks") && {
    cors: { origin: [/\.page\.test$/, "http://page.test"], credentials: true },
    cookie: true,
    allowRequest: (request, callback) => {
      const reason = request.headers["x-forbid"];
      callback(reason, reason === undefined);
    },
  }),
  perMessageDeflate: process.argv.includes("--deflate"),
});

if (process.argv.includes("--hooks")) {
  io.engine.on("initial_headers", (headers, request) => {
    headers["x-first"] = new URLSearchParams(request.url.split("?")[1]).get("transport");
  });
  io.engine.on("headers", (headers, request) => {
    headers["x-every"] = request.method;
  });
}

const userOf = (socket) =>
  typeof socket.handshake.auth.user === "string" ? socket.handshake.auth.user : null;
const roomsOf = (socket) => [...socket.rooms].sort();

function binaries(value, found = []) {
  if (Buffer.isBuffer(value)) found.push(value);
  else if (value instanceof ArrayBuffer) found.push(Buffer.from(value)); // msgpack has both
  else if (Array.isArray(value)) value.forEach((item) => binaries(item, found));
  else if (value && typeof value === "object") binaries(Object.values(value), found);
  return found;
}

// A handler that gets its arguments as an array and an ack that is always a function.
const on = (socket, event, handler) =>
  socket.on(event, (...args) => {
    const ack = typeof args.at(-1) === "function" ? args.pop() : () => {};
    handler(args, ack);
  });

function returning(nsp, socket) {
  on(socket, "recovered", (_, ack) => ack(socket.recovered));
  on(socket, "all:volatile", (args) => nsp.volatile.emit("all:volatile", ...args));
}

function common(nsp, socket) {
  returning(nsp, socket);
  on(socket, "echo", (args) => socket.emit("echo", ...args));
  on(socket, "echo:ack", (args, ack) => ack(...args));
  on(socket, "all", (args) => nsp.emit("all", ...args));
  on(socket, "broadcast", (args) => socket.broadcast.emit("broadcast", ...args));
  on(socket, "relay", ([room, ...args]) => socket.to(room).emit("relay", ...args));
  on(socket, "to", ([how, ...args]) => {
    let target = how.from === "io" ? nsp : socket;
    for (const room of how.to ?? []) target = target.to(room);
    for (const room of how.except ?? []) target = target.except(room);
    // A socket that was not narrowed would emit to itself.
    if (target === socket) target = socket.broadcast;
    target.emit("to", ...args);
  });
  on(socket, "join", ([rooms], ack) => {
    socket.join(rooms);
    ack(roomsOf(socket));
  });
  on(socket, "leave", ([room], ack) => {
    socket.leave(room);
    ack(roomsOf(socket));
  });
  on(socket, "rooms", (_, ack) => ack(roomsOf(socket)));
  on(socket, "ask:me", ([question, ms]) => {
    socket.timeout(ms).emit("question", question, (error, ...answers) => {
      const result = error ? { ok: false, error: "timeout" } : { ok: true, answers };
      socket.emit("ask:result", result);
    });
  });
  on(socket, "ask:room", ([room, question, ms]) => {
    const sockets = room === null ? nsp : nsp.to(room);
    sockets.timeout(ms).emit("question", question, (error, responses) => {
      socket.emit("ask:room:result", { ok: !error, responses });
    });
  });
  on(socket, "fetch", async ([room], ack) => {
    const sockets = await (room === null ? nsp : nsp.in(room)).fetchSockets();
    const facts = sockets.map((found) => ({
      id: found.id,
      rooms: roomsOf(found),
      data: found.data,
      user: userOf(found),
    }));
    ack(facts.sort((a, b) => (a.id < b.id ? -1 : 1)));
  });
  on(socket, "sockets", ([what, room, how], ack) => {
    const sockets = room === null ? nsp : nsp.in(room);
    if (what === "join") sockets.socketsJoin(how);
    else if (what === "leave") sockets.socketsLeave(how);
    else sockets.disconnectSockets(how);
    ack();
  });
  on(socket, "remote", async ([id, what, how], ack) => {
    const [remote] = await nsp.in(id).fetchSockets();
    if (!remote) return ack(false);
    if (what === "ask") return ack(await remote.timeout(30_000).emitWithAck("question", how));
    if (what === "emit") remote.emit("remote", how);
    else remote[what](how);
    ack(true);
  });
  on(socket, "ack:delay", ([ms, value], ack) => setTimeout(() => ack(value), ms));
  on(socket, "never", () => {});
  on(socket, "stream", ([n, ms]) => {
    if (ms === 0) {
      for (let i = 0; i < n; i++) socket.emit("stream", i);
      return;
    }
    let i = 0;
    const timer = setInterval(() => {
      if (i < n && socket.connected) socket.emit("stream", i++);
      else clearInterval(timer);
    }, ms);
  });
  on(socket, "volatile", ([n]) => {
    for (let i = 0; i < n; i++) socket.volatile.emit("volatile", i);
    socket.emit("volatile:end", n);
  });
  on(socket, "binary:make", ([n]) => {
    const bytes = Buffer.from(Array.from({ length: n }, (_, i) => i & 255));
    socket.emit("binary:made", { n, bytes, nested: [{ again: bytes }] });
  });
  on(socket, "binary:sum", (args, ack) => {
    ack(binaries(args).map((b) => ({ length: b.length, sum: b.reduce((sum, x) => sum + x, 0) })));
  });
  on(socket, "data:set", ([key, value], ack) => {
    socket.data[key] = value;
    ack();
  });
  on(socket, "data:get", ([key], ack) => ack(socket.data[key] ?? null));
  on(socket, "handshake", (_, ack) => {
    const { headers, query, auth, address, url, xdomain, secure } = socket.handshake;
    ack({ headers, query, auth, address, url, xdomain, secure });
  });
  on(socket, "ünïcode 🎉", (_, ack) => ack("gehört 👂"));
  on(socket, "disconnect:me", ([close]) => socket.disconnect(close));
  on(socket, "drop", () => socket.conn.close());
  on(socket, "panic", () => socket.disconnect());
}

const watchers = io.of("/notifications");
for (const name of ["/", "/chat", "/notifications", "/admin"]) {
  const nsp = io.of(name);
  if (name === "/admin") {
    nsp.use((socket, next) => {
      if (socket.handshake.auth.token === "secret") {
        socket.data.role = "admin";
        return next();
      }
      const error = new Error("not authorized");
      error.data = { code: 401, content: "retry later" };
      next(error);
    });
  }
  nsp.on("connection", (socket) => {
    const user = userOf(socket);
    if (user !== null) socket.join(`user:${user}`);
    socket.emit("welcome", { nsp: name, id: socket.id, user });

    socket.use(([event], next) => {
      next(event === "forbidden" ? new Error("event refused") : undefined);
    });
    socket.on("error", (error) => socket.emit("refused", { message: error.message }));
    for (const [event, report] of [
      ["disconnecting", "peer:disconnecting"],
      ["disconnect", "peer:disconnect"],
    ]) {
      socket.on(event, (reason) => {
        watchers.emit(report, { id: socket.id, nsp: name, reason, rooms: roomsOf(socket) });
      });
    }

    common(nsp, socket);
    if (name === "/") {
      on(socket, "notify", ([{ topic, text }], ack) => {
        (topic === null ? watchers : watchers.to(topic)).emit("notification", text);
        ack();
      });
    }
    if (name === "/chat") {
      on(socket, "say", ([room, text]) => {
        nsp.to(room).emit("said", { id: socket.id, user, text });
      });
    }
  });
}

const quiet = io.of("/quiet");
quiet.on("connection", (socket) => {
  returning(quiet, socket);
  on(socket, "all", (args) => quiet.emit("all", ...args));
});

for (const parent of [
  io.of(/^\/room-\d+$/),
  io.of((name, auth, next) => next(null, name.startsWith("/asked-") && auth.open === true)),
]) {
  parent.on("connection", (socket) => {
    const [heard, sent] = [[], []];
    socket.onAny((event) => heard.push(event));
    socket.onAnyOutgoing((event) => sent.push(event));
    socket.use(([event], next) => {
      next(event === "forbidden" ? new Error("event refused") : undefined);
    });
    socket.on("error", (error) => socket.emit("refused", { message: error.message }));
    on(socket, "all", (args) => socket.nsp.emit("all", ...args));
    on(socket, "heard", (_, ack) => ack(heard, sent));
    socket.once("once", (...args) => args.at(-1)("once"));
  });
}

const [host, port] = option("--listen", "127.0.0.1:0").split(":");
http.listen(Number(port), host, () => {
  console.log(`listening on http://${host}:${http.address().port}`);
});
process.on("SIGTERM", () => process.exit(0));
