// Not part of the tutorial: calls its `gateway/circuit.js` with each URL given and prints what came of it.
import { call } from "./gateway/circuit.js";

for (const url of process.argv.slice(2)) {
  try {
    console.log((await call(url, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" })).status);
  } catch (thrown) {
    console.log(thrown instanceof Error ? "failed" : thrown);
  }
}
