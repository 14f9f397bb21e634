// Starts the gateway with a configuration of its own. CORECAST_GATEWAY_CMD is a shell command such
// as `target/debug/corecast`, to which `serve` and its options are appended.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { patiently } from "./client.mjs";

const ROOT = new URL("../..", import.meta.url).pathname;

export async function startGateway(toml) {
  const folder = mkdtempSync(join(tmpdir(), "corecast-"));
  const file = join(folder, "corecast.toml");
  writeFileSync(file, toml);
  const listen = "--listen 127.0.0.1:0 --api 127.0.0.1:0";
  const command = `exec ${process.env.CORECAST_GATEWAY_CMD} serve --config '${file}' ${listen}`;
  const child = spawn(command, { shell: true, cwd: ROOT, stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const lines = createInterface({ input: child.stdout });
  const urls = {};
  const started = new Promise((resolve, reject) => {
    lines.on("line", (line) => {
      const [, what, url] = /^(listening|api) on (https?:\S+)$/.exec(line) ?? [];
      if (what) urls[url.startsWith("https") ? "secure" : what] = url;
      if (urls.api) resolve();
    });
    ended.then((code) => reject(new Error(`the gateway has ended with ${code}`)));
  });
  await patiently(started, () => "the gateway to start");
  return {
    url: urls.listening,
    /** Where it speaks TLS, if it does. */
    secure: urls.secure,
    api: urls.api,
    async stop() {
      child.kill("SIGINT");
      await patiently(ended, () => "the gateway to end");
      rmSync(folder, { recursive: true });
    },
  };
}
