import { setTimeout as pause } from "node:timers/promises";
import type { Decision } from "../gen/quota/v1/decision_pb.js";
import type { SettleResponse } from "../gen/quota/v1/quota_service_pb.js";
import { isUndecided, type Client } from "./client.js";

/** What a grant left. Its lease is renewed until settle or release ends it. */
export class Hold {
  readonly #client: Client;
  readonly #tenant: string;
  readonly #end = new AbortController();
  readonly #renewing: Promise<void>;

  constructor(client: Client, tenant: string, readonly decision: Decision) {
    this.#client = client;
    this.#tenant = tenant;
    this.#renewing = this.#renew();
  }

  /** Names the hold. */
  get id(): string {
    return this.decision.holdId;
  }

  /** Charges what was used, as totals by meter, and gives the rest back. */
  async settle(used: Record<string, bigint>): Promise<SettleResponse> {
    await this.#ended();
    const request = { ...this.#named(), delivered: { case: "usage" as const, value: { used } } };
    return await this.#client.repeated((options) => this.#client.quota.settle(request, options));
  }

  /** Gives everything back. */
  async release(): Promise<void> {
    await this.#ended();
    await this.#client.repeated((options) => this.#client.quota.release(this.#named(), options));
  }

  #named() {
    return { policy: this.#client.policy, tenant: this.#tenant, holdId: this.id };
  }

  async #ended(): Promise<void> {
    this.#end.abort();
    await this.#renewing;
  }

  async #renew(): Promise<void> {
    const { signal } = this.#end;
    let decision: Decision | undefined = this.decision;
    while (decision?.renewAfterMs !== undefined && !signal.aborted) {
      try {
        await pause(Number(decision.renewAfterMs), undefined, { signal });
        const answer = await this.#client.repeated((options) => this.#client.quota.extend(this.#named(), options));
        decision = answer.decision;
      } catch (error) {
        if (signal.aborted) return;
        console.warn(`hold ${this.id} was not renewed: ${error}`);
        if (!isUndecided(error)) return;
      }
    }
  }
}
