/** Serves HTTP in front of some paid work: LISTEN HOLDGATE [--ca FILE [--cert FILE --key FILE]]; see ../README.md. */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import { answerTo } from "./answer.js";
import { programArguments } from "./arguments.js";
import { Client } from "./client.js";
import type { Hold } from "./hold.js";

const { words, tls } = programArguments("LISTEN HOLDGATE");
const [listen = "", holdgate = ""] = words;
const client = new Client(holdgate, "golden", tls);

/** Asks before it works, and settles when it has worked. */
async function paid(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const query = new URL(request.url ?? "/", "http://gateway").searchParams;
  const number = (name: string, otherwise: string) => query.get(name) ?? otherwise;
  let hold: Hold;
  try {
    hold = await client.reserve({
      tenant: header(request, "x-org") ?? "",
      requestId: header(request, "x-request-id"),
      action: "job",
      amounts: { credits: BigInt(number("reserve", "10")) },
    });
  } catch (error) {
    const { status, headers, body } = answerTo(error);
    response.writeHead(status, headers).end(body);
    return;
  }
  try {
    await pause(Number(number("ms", "0")));
    if (query.has("fail")) throw new Error("told to fail");
  } catch {
    await hold.release();
    response.writeHead(500, { "Content-Type": "application/json" }).end('{"error": "the work failed"}');
    return;
  }
  await hold.settle({ credits: BigInt(number("units", "1")) });
  const headers = { "Content-Type": "application/json", ...hold.decision.http?.headers };
  response.writeHead(200, headers).end(JSON.stringify({ hold: hold.id }));
}

function header(request: IncomingMessage, name: string): string | undefined {
  const found = request.headers[name];
  return Array.isArray(found) ? found[0] : found;
}

const server = createServer((request, response) => {
  paid(request, response).catch((error: unknown) => {
    console.error(error); // what could not be settled ends with its lease
    if (!response.headersSent) response.writeHead(500);
    response.end();
  });
});
const [host, port] = listen.split(":");
server.listen(Number(port), host, () => {
  console.log(`gateway on ${host}:${(server.address() as AddressInfo).port}`);
});
