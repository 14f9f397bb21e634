// The server of the admin UI's tests, written with the reference implementation (npm socket.io and
// @socket.io/admin-ui). examples/admin_server.rs is the same program on corecast; admin.test.mjs
// runs against either.
//
//   node admin-reference.mjs [--listen 127.0.0.1:PORT] [--mode development|production]
//
// Namespaces `/`, `/chat` and the UI's `/admin`; any origin may ask, with credentials. Who comes to
// `/` or `/chat` joins the room "lobby" and gets `welcome`. Events: `echo` comes back, `say` goes to
// the lobby, `name` keeps its argument as "name" in the socket's data, `rooms` is acknowledged with
// the sorted list of its rooms.

import { createServer } from "node:http";
import { instrument } from "@socket.io/admin-ui";
import { Server } from "socket.io";

const option = (name, otherwise) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? otherwise : process.argv[at + 1];
};

const http = createServer((request, response) => {
  response.writeHead(404).end();
});
const io = new Server(http, { cors: { origin: true, credentials: true } });
instrument(io, {
  auth: {
    type: "basic",
    username: "admin",
    // "open sesame"
    password: "$2a$05$/ECbvrXqKxKZN7TWiCShLeKkE/pyh8lqvDtm9qNxNboupOOePwCMa",
  },
  serverId: "the server",
  mode: option("--mode", "development"),
});
for (const name of ["/", "/chat"]) {
  const nsp = io.of(name);
  nsp.on("connection", (socket) => {
    socket.join("lobby");
    socket.emit("welcome", socket.id);
    socket.on("echo", (...args) => socket.emit("echo", ...args));
    socket.on("say", (text) => nsp.to("lobby").emit("said", text));
    socket.on("rooms", (ack) => ack([...socket.rooms].sort()));
    socket.on("name", (name) => {
      socket.data.name = name;
    });
  });
}

const [host, port] = option("--listen", "127.0.0.1:0").split(":");
http.listen(Number(port), host, () => {
  console.log(`listening on http://${host}:${http.address().port}`);
});
process.on("SIGTERM", () => process.exit(0));
