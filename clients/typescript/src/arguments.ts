import { parseArgs } from "node:util";
import type { Tls } from "./client.js";

/** What all programs are started with: the words that `named` names, at least, and the files of TLS. */
export function programArguments(named: string): { words: string[]; tls: Tls } {
  const file = { type: "string" as const };
  const { positionals, values } = parseArgs({ allowPositionals: true, options: { ca: file, cert: file, key: file } });
  if (positionals.length < named.split(" ").length) {
    console.error(`usage: ${named} [--ca FILE [--cert FILE --key FILE]]`);
    process.exit(2);
  }
  return { words: positionals, tls: values };
}
