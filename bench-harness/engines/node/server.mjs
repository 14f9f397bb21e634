// The reference server under the contract of the bench harness (its README, "Contract").
// One process, no compression.
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { Server } from "socket.io";

const { values } = parseArgs({
  options: {
    listen: { type: "string", default: "127.0.0.1:4000" },
    "ping-interval": { type: "string", default: "25000" },
  },
});
const [host, port] = values.listen.split(":");

const http = createServer();
const io = new Server(http, {
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
  pingInterval: Number(values["ping-interval"]),
});
io.on("connection", (socket) => {
  socket.on("pub", (data) => io.emit("msg", data));
  socket.on("to", (room, data) => io.to(room).emit("msg", data));
  socket.on("echo", (data) => socket.emit("echo", data));
  socket.on("join", (room, ack) => {
    socket.join(room);
    ack();
  });
  socket.on("leave", (room, ack) => {
    socket.leave(room);
    ack();
  });
});
http.listen(Number(port), host, 4096);
