// Whether a request comes from corecast: `headers` as Node.js has them (names in lower case), `body`
// the Buffer as it came.
import { createHmac, timingSafeEqual } from "node:crypto";

export function comesFromCorecast(secret, headers, body) {
  const { "webhook-id": id = "", "webhook-timestamp": at = "" } = headers;
  // What is older than five minutes may be a copy.
  if (!/^\d+$/.test(at) || Math.abs(Date.now() / 1000 - Number(at)) > 300) return false;
  const key = secret.startsWith("whsec_") ? Buffer.from(secret.slice(6), "base64") : secret;
  const hmac = createHmac("sha256", key).update(`${id}.${at}.`).update(body);
  const expected = Buffer.from(`v1,${hmac.digest("base64")}`);
  // Several while a key is being changed.
  return (headers["webhook-signature"] ?? "").split(" ").some((text) => {
    const signature = Buffer.from(text);
    return signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}
