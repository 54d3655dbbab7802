/** Asks one server about one policy. */

import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { randomUUID } from "node:crypto";
import { Code, ConnectError, createClient, type Client as Stub, type CallOptions, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Outcome, type Decision } from "../gen/quota/v1/decision_pb.js";
import { QuotaService } from "../gen/quota/v1/quota_service_pb.js";
import { Hold } from "./hold.js";

const WITHIN_MS = 2000; // a call is repeated for this long
const ATTEMPT_MS = 1000; // one try waits no longer
const FIRST_PAUSE_MS = 20;
const UNDECIDED = new Set([
  Code.Unavailable,
  Code.DeadlineExceeded,
  Code.ResourceExhausted,
  Code.Aborted,
  Code.Internal,
  Code.Unknown,
]);

/** PEM files: the server's authorities, and what to show where the server asks; without `ca`, no TLS. */
export interface Tls {
  ca?: string;
  cert?: string;
  key?: string;
}

/** One question; amounts are in the meters' base units, and a request id is made up where there is none. */
export interface Ask {
  tenant: string;
  action: string;
  requestId?: string;
  amounts?: Record<string, bigint>;
}

/** Some limit blocks, or the request would have had to wait in a queue, which it has left; nothing was taken. */
export class Refused extends Error {
  constructor(readonly decision: Decision) {
    super(decision.refusal?.message ?? "all places are taken");
  }
}

/** A connection; it is made with the first call. */
export function connection(address: string, tls: Tls): Transport {
  const read = (path?: string) => (path === undefined ? undefined : readFileSync(path));
  return createGrpcTransport({
    baseUrl: `${tls.ca === undefined ? "http" : "https"}://${address}`,
    nodeOptions: { ca: read(tls.ca), cert: read(tls.cert), key: read(tls.key) },
  });
}

/** Whether no decision could be had, and the caller is not to blame. */
export function isUndecided(error: unknown): boolean {
  return UNDECIDED.has(ConnectError.from(error).code);
}

export class Client {
  readonly quota: Stub<typeof QuotaService>;

  constructor(address: string, readonly policy: string, tls: Tls = {}) {
    this.quota = createClient(QuotaService, connection(address, tls));
  }

  /** Takes everything that was asked for, or throws Refused. The caller ends the hold. */
  async reserve(ask: Ask): Promise<Hold> {
    const request = { ...ask, policy: this.policy, requestId: ask.requestId ?? randomUUID() };
    const { decision } = await this.repeated((options) => this.quota.checkAndReserve(request, options));
    if (decision === undefined) throw new ConnectError("an answer without a decision", Code.Internal);
    if (decision.outcome === Outcome.GRANTED) return new Hold(this, ask.tenant, decision);
    if (decision.outcome === Outcome.QUEUED) await new Hold(this, ask.tenant, decision).release();
    throw new Refused(decision);
  }

  /** Calls until there is a decision: the request names its operation, so a repeat is never counted twice. */
  async repeated<T>(call: (options: CallOptions) => Promise<T>): Promise<T> {
    const until = performance.now() + WITHIN_MS;
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs *= 2) {
      try {
        return await call({ timeoutMs: ATTEMPT_MS });
      } catch (error) {
        if (!isUndecided(error) || performance.now() + pauseMs > until) throw error;
      }
      await pause(pauseMs);
    }
  }
}
