// The documented back-off: wait as told, else longer each time, and only where waiting helps.

const RETRIES = 4;
const LONGEST_S = 30;
const JITTER_S = 0.5;

// What the answer says, or 1, 2, 4, 8 … seconds with jitter, 30 at most.
export function waitS(answer, attempt) {
  const told = answer.headers.get("retry-after");
  return told === null ? Math.min(2 ** attempt + Math.random() * JITTER_S, LONGEST_S) : Number(told);
}

// Sends until it is not throttled, four times more at most. Billing errors are never tried again.
export async function withBackOff(send, sleep) {
  for (let attempt = 0; attempt < RETRIES; attempt += 1) {
    const answer = await send();
    if (answer.status !== 429 || (await answer.clone().json()).error?.code !== "rate_limited") return answer;
    await sleep(waitS(answer, attempt));
  }
  return send();
}
