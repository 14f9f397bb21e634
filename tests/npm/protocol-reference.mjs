// The server of protocol.test.mjs on Node's socket.io; examples/protocol_suite.rs is the same on
// corecast. What it does is what the protocol's own suite asks of a server.
//
//   node protocol-reference.mjs [--listen 127.0.0.1:PORT] [--ping-interval MS] [--ping-timeout MS]

import { createServer } from "node:http";
import { Server } from "socket.io";

const option = (name, otherwise) => {
  const at = process.argv.indexOf(name);
  return at > 0 ? process.argv[at + 1] : otherwise;
};
const [host, port] = option("--listen", "127.0.0.1:0").split(":");
const http = createServer();
const io = new Server(http, {
  pingInterval: Number(option("--ping-interval", 300)),
  pingTimeout: Number(option("--ping-timeout", 200)),
});

const greet = (socket) => socket.emit("auth", socket.handshake.auth);
io.on("connection", (socket) => {
  greet(socket);
  socket.on("message", (...args) => socket.emit("message-back", ...args));
  socket.on("message-with-ack", (...args) => args.pop()(...args));
});
io.of("/custom").on("connection", greet);

http.listen(Number(port), host, () => {
  console.log(`listening on http://${host}:${http.address().port}`);
});
process.on("SIGTERM", () => process.exit(0));
