import { Outcome } from "../gen/quota/v1/decision_pb.js";
import { isUndecided, Refused } from "./client.js";

/** An HTTP answer for work that may not go ahead. */
export interface Answer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

/** A refusal in the policy's own form where it has one; anything else with a 5xx. */
export function answerTo(error: unknown): Answer {
  if (error instanceof Refused) return refusal(error);
  if (isUndecided(error)) {
    return answer(503, "quota_unavailable", "Please try again shortly.", { "Retry-After": "1" });
  }
  return answer(500, "internal", "The request could not be checked.");
}

function refusal({ decision: { outcome, refusal, http } }: Refused): Answer {
  if (outcome === Outcome.QUEUED) {
    return answer(429, "queued", "All places are taken. Please try again shortly.", { "Retry-After": "1" });
  }
  if (http?.body) return { status: http.status, headers: json(http.headers), body: http.body };
  const wait = refusal?.retryAfterMs;
  const headers: Record<string, string> = wait === undefined ? {} : { "Retry-After": String((wait + 999n) / 1000n) };
  return answer(refusal?.httpStatus ?? 429, refusal?.code ?? "", refusal?.message ?? "", headers);
}

function answer(status: number, code: string, message: string, headers: Record<string, string> = {}): Answer {
  return { status, headers: json(headers), body: JSON.stringify({ error: { code, message } }) };
}

function json(headers: Record<string, string>): Record<string, string> {
  return { "Content-Type": "application/json", ...headers };
}
