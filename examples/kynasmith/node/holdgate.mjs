// Clients of Holdgate, made of its protos at start.
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTOS = fileURLToPath(new URL("../../../protos", import.meta.url));

// The clients of a service by the names of its methods, each call a promise.
function promises(client, deadlineMs) {
  const ask = (method) => (request) =>
    new Promise((resolve, reject) => {
      const deadline = new Date(Date.now() + deadlineMs);
      client[method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  return new Proxy({}, { get: (_, method) => ask(method) });
}

export function connect(address, { deadlineMs = 500 } = {}) {
  const files = ["quota_service", "test_clock_service"].map((name) => `quota/v1/${name}.proto`);
  const options = { keepCase: true, longs: Number, enums: String, defaults: true, includeDirs: [PROTOS] };
  const { v1 } = grpc.loadPackageDefinition(loader.loadSync(files, options)).quota;
  const open = (Service) => new Service(address, grpc.credentials.createInsecure());
  const clients = { quota: open(v1.QuotaService), clock: open(v1.TestClockService) };
  return {
    quota: promises(clients.quota, deadlineMs),
    clock: promises(clients.clock, deadlineMs),
    close: () => Object.values(clients).forEach((client) => client.close()),
  };
}
