// Starts the server under test as a process of its own and stops it again.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

// The command that runs `script` of this folder in Node, the reference.
export const reference = (script) =>
  `'${process.execPath}' '${fileURLToPath(new URL(script, import.meta.url))}'`;

// `command` is a shell command line, started in the root of the repository with `--listen
// 127.0.0.1:0` and `options` appended. Returns {url, port, stop}.
export async function start(command, options = "") {
  const child = spawn(`${command} --listen 127.0.0.1:0 ${options}`, {
    cwd: root,
    shell: true,
    detached: true, // a process group of its own, which stop() ends by its number
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  const kill = (signal) => {
    try {
      process.kill(-child.pid, signal);
    } catch (error) {
      if (error.code !== "ESRCH") throw error;
    }
  };
  const lines = createInterface({ input: child.stdout });
  const url = await new Promise((resolve, reject) => {
    lines.on("line", (line) => {
      const found = /listening on (https?:\/\/127\.0\.0\.1:\d+)/.exec(line);
      if (found) resolve(found[1]);
    });
    child.once("error", reject);
    exited.then(([code, signal]) => reject(new Error(`server ended: ${code ?? signal}`)));
  });
  return {
    url,
    port: Number(new URL(url).port),
    pid: child.pid,
    async stop() {
      const alive = child.exitCode === null && child.signalCode === null;
      kill("SIGTERM");
      const hard = setTimeout(() => kill("SIGKILL"), 10_000);
      await exited;
      clearTimeout(hard);
      if (!alive) throw new Error("the server had ended before it was stopped");
    },
  };
}
