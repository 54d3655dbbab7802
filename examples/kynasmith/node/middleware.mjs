// Asks Holdgate before every request of a Node HTTP server. The gateway has authenticated the caller and named
// organization and project in x-org and x-project.

const MOVESPEC = { POST: "create", PUT: "update", PATCH: "update", DELETE: "delete" };

// The policy's action for a route.
function actionOf(method, path) {
  if (path.startsWith("/api/usage")) return "usage.read";
  if (path === "/api/sessions" && method === "POST") return "session.create";
  if (path.startsWith("/api/movespecs")) return `movespec.${MOVESPEC[method] ?? "read"}`;
  return "api.call";
}

function requestOf({ method, url, headers }) {
  const path = url.split("?")[0];
  const project = path.split("/projects/")[1] ?? headers["x-project"];
  return {
    policy: "kynasmith",
    tenant: headers["x-org"] ?? "",
    request_id: headers["idempotency-key"] ?? "",
    action: actionOf(method, path),
    scope: {
      ...(project ? { project } : {}),
      ...(["GET", "HEAD"].includes(method) ? {} : { access: "write" }),
    },
  };
}

// Lets a request through to `handle` when it is granted, and answers in its place when not.
export function limited(handle, quota) {
  return async (request, response) => {
    let decision;
    try {
      ({ decision } = await quota.CheckAndReserve(requestOf(request)));
    } catch {
      response.writeHead(503, { "Retry-After": "1" }).end();
      return;
    }
    for (const [name, value] of Object.entries(decision.http?.headers ?? {})) response.setHeader(name, value);
    if (decision.outcome === "OUTCOME_GRANTED") {
      handle(request, response);
    } else {
      response.writeHead(decision.http.status, { "Content-Type": "application/json" }).end(decision.http.body);
    }
  };
}
