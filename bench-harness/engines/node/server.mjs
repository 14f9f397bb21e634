// The reference server under the contract of the bench harness: `pub` goes to everyone as
// `msg`, `echo` goes back to its sender. Websocket only, no compression, one process.
import { createServer } from "node:http";
import { Server } from "socket.io";

const [flag, address] = process.argv.slice(2);
if (flag !== "--listen" || !address) {
  console.error("usage: server.mjs --listen ADDRESS:PORT");
  process.exit(2);
}
const [host, port] = address.split(":");

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});
io.on("connection", (socket) => {
  socket.on("pub", (data) => io.emit("msg", data));
  socket.on("echo", (data) => socket.emit("echo", data));
});
http.listen(Number(port), host, 4096);
