/** Plays transcripts: ADDRESS RUN [--ca FILE [--cert FILE --key FILE]] TRANSCRIPT…; see ../golden/README.md. */

import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { fromBinary, fromJson, toJson, type DescMethod, type DescMethodUnary, type JsonValue } from "@bufbuild/protobuf";
import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { parse } from "yaml";
import { BadRequestSchema, ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { AdminService } from "../gen/quota/v1/admin_service_pb.js";
import { QuotaService } from "../gen/quota/v1/quota_service_pb.js";
import { TestClockService } from "../gen/quota/v1/test_clock_service_pb.js";
import { programArguments } from "./arguments.js";
import { connection } from "./client.js";

const TIMEOUT_MS = 10_000;
const SERVICES = [QuotaService, AdminService, TestClockService];

interface Step {
  call: string;
  request: JsonValue;
  answer?: JsonValue;
  error?: JsonValue;
}

/** Makes one call; its outcome as JSON, {"answer": …} or {"error": …}. */
async function play(transport: Transport, step: Step): Promise<JsonValue> {
  const [service, name] = step.call.split("/");
  const method = SERVICES.find((each) => each.typeName === service)?.methods.find((each) => each.name === name);
  if (method === undefined || !isUnary(method)) throw new Error(`there is no unary method ${step.call}`);
  const request = fromJson(method.input, step.request);
  try {
    const answer = await transport.unary(method, undefined, TIMEOUT_MS, undefined, request);
    return { answer: toJson(method.output, answer.message) };
  } catch (error) {
    return { error: failure(ConnectError.from(error)) };
  }
}

function isUnary(method: DescMethod): method is DescMethodUnary {
  return method.methodKind === "unary";
}

function failure(error: ConnectError): JsonValue {
  let reason = "";
  let fields: string[] = [];
  for (const detail of error.details) {
    if (!("type" in detail)) continue;
    if (detail.type === ErrorInfoSchema.typeName) reason = fromBinary(ErrorInfoSchema, detail.value).reason;
    if (detail.type === BadRequestSchema.typeName) {
      fields = fromBinary(BadRequestSchema, detail.value).fieldViolations.map((bad) => bad.field);
    }
  }
  const code = (Code[error.code] ?? "").replace(/(?<=.)[A-Z]/g, "_$&").toUpperCase();
  return { code, reason, fields, says: error.rawMessage };
}

/** Where an answer is not what was expected, one line each. */
function differing(expected: JsonValue, found: JsonValue | undefined, at: string): string[] {
  if (Array.isArray(expected) && Array.isArray(found) && expected.length === found.length) {
    return expected.flatMap((value, index) => differing(value, found[index], `${at}[${index}]`));
  }
  if (isObject(expected) && isObject(found)) {
    return Object.entries(expected).flatMap(([name, value]) => differing(value, found[name], `${at}.${name}`));
  }
  const want = text(expected);
  const got = text(found ?? null);
  const said = at.endsWith(".says") && got.includes(want);
  return want === got || said || (want !== "" && Number(want) === Number(got))
    ? []
    : [`${at}: expected ${want}, found ${got}`];
}

function isObject(value: JsonValue | undefined): value is { [name: string]: JsonValue } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value as JSON writes it; a text is itself. */
function text(value: JsonValue): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

const { words, tls } = programArguments("ADDRESS RUN TRANSCRIPT");
const [address = "", run = "", ...transcripts] = words;
const transport = connection(address, tls);
let passed = 0;
let failed = 0;
for (const path of transcripts) {
  const name = basename(path, ".yaml");
  const steps = parse(readFileSync(path, "utf8").replaceAll("<run>", run)) as Step[];
  for (const [index, step] of steps.entries()) {
    const found = await play(transport, step);
    console.log(JSON.stringify({ transcript: name, step: index + 1, answer: found }));
    const expected: JsonValue = step.answer !== undefined ? { answer: step.answer } : { error: step.error ?? null };
    const differences = differing(expected, found, `${name}: step ${index + 1}`);
    for (const difference of differences) console.error(difference);
    if (differences.length === 0) passed++;
    else failed++;
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
