// node demo.mjs ADDRESS START_MS: the API behind the middleware and a client of it; started by ../demo.py --node.
import http from "node:http";
import { connect } from "./holdgate.mjs";
import { limited } from "./middleware.mjs";
import { withBackOff } from "./backoff.mjs";

const CALLS = 100;
const [address, startMs] = process.argv.slice(2);
const holdgate = connect(address, { deadlineMs: 5000 });
let nowMs = Number(startMs);

const waits = [];
async function sleep(seconds) {
  waits.push(seconds);
  nowMs += Math.round(seconds * 1000);
  await holdgate.clock.SetTime({ now_ms: nowMs });
}

const api = (_, response) => response.writeHead(200, { "Content-Type": "application/json" }).end('{"ok": true}');
const server = http.createServer(limited(api, holdgate.quota));
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}/api/detections`;
const get = () => fetch(url, { headers: { "x-org": "o1", "x-project": "p1" } });

let answer;
for (let call = 0; call < CALLS; call += 1) answer = await withBackOff(get, sleep);
console.log(`call ${CALLS}: ${answer.status}, RateLimit-Remaining ${answer.headers.get("ratelimit-remaining")}`);
const throttled = await get();
console.log(
  `call ${CALLS + 1}: ${throttled.status}, Retry-After ${throttled.headers.get("retry-after")}: ${await throttled.text()}`,
);
const after = await withBackOff(get, sleep);
console.log(`after waiting ${waits.join(", ")} s: ${after.status}`);

server.close();
server.closeAllConnections();
holdgate.close();
const good = answer.status === 200 && throttled.status === 429 && after.status === 200 && waits.join() === "60";
process.exitCode = good ? 0 : 1;
