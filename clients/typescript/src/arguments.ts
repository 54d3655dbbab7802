import { parseArgs } from "node:util";
import type { Tls } from "./client.js";

/** What both programs are started with: words, and the files of TLS. */
export function programArguments(): { words: string[]; tls: Tls } {
  const file = { type: "string" as const };
  const { positionals, values } = parseArgs({ allowPositionals: true, options: { ca: file, cert: file, key: file } });
  return { words: positionals, tls: values };
}
