/** Express middleware, and a small server that uses it: LISTEN HOLDGATE [--ca FILE …]; see docs/gateways/express.md. */

import type { AddressInfo } from "node:net";
import express, { type NextFunction, type Request, type Response } from "express";
import { answerTo } from "./answer.js";
import { programArguments } from "./arguments.js";
import { Client, type Ask } from "./client.js";
import type { Hold } from "./hold.js";

/** Asks before the handlers run, and ends the hold with the answer: `response.locals.used` is what is charged. */
export function quota(client: Client, ask: (request: Request) => Ask) {
  return async (request: Request, response: Response, next: NextFunction): Promise<void> => {
    let hold: Hold;
    try {
      hold = await client.reserve(ask(request));
    } catch (error) {
      const { status, headers, body } = answerTo(error);
      response.status(status).set(headers).send(body);
      return;
    }
    response.set(hold.decision.http?.headers ?? {});
    // "close" comes after the whole answer, and also when the client has gone away before it.
    response.once("close", () => {
      const used: Record<string, bigint> | undefined = response.locals.used;
      const done = response.writableFinished && response.statusCode < 500 && used !== undefined;
      const ended: Promise<unknown> = done ? hold.settle(used) : hold.release();
      ended.catch((error: unknown) => console.warn(`hold ${hold.id} ends with its lease: ${error}`));
    });
    next();
  };
}

const { words, tls } = programArguments("LISTEN HOLDGATE");
const [listen = "", holdgate = ""] = words;
const client = new Client(holdgate, "llm", tls);
const app = express();
app.use(quota(client, (request) => ({ tenant: request.get("x-org") ?? "", action: "chat", amounts: { tokens: 500n } })));
app.get("/", (request, response) => {
  if (request.query.fail !== undefined) throw new Error("told to fail");
  response.locals.used = { tokens: BigInt(String(request.query.used ?? "0")) };
  response.send("the work");
});
const [host = "", port] = listen.split(":");
const server = app.listen(Number(port), host, () => {
  console.log(`gateway on ${host}:${(server.address() as AddressInfo).port}`);
});
