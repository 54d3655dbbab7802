package holdgate;

import com.google.gson.JsonObject;
import java.util.LinkedHashMap;
import java.util.Map;
import quota.v1.DecisionOuterClass.Decision;

/** An HTTP answer for work that may not go ahead. */
public record Answer(int status, Map<String, String> headers, String body) {

  /** A refusal, in the policy's own form where it has one. */
  public static Answer of(Refused refused) {
    if (refused.queued()) {
      return new Answer(
          429,
          Map.of("Retry-After", "1"),
          error("queued", "All places are taken. Please try again shortly."));
    }
    Decision decision = refused.decision;
    var headers = new LinkedHashMap<>(decision.getHttp().getHeadersMap());
    if (!decision.getHttp().getBody().isEmpty()) {
      return new Answer(decision.getHttp().getStatus(), headers, decision.getHttp().getBody());
    }
    var refusal = decision.getRefusal();
    if (refusal.hasRetryAfterMs()) {
      headers.put("Retry-After", Long.toString((refusal.getRetryAfterMs() + 999) / 1000));
    }
    return new Answer(refusal.getHttpStatus(), headers, error(refusal.getCode(), refusal.getMessage()));
  }

  /** What to tell a user while no decision can be had. */
  public static Answer undecided() {
    return new Answer(
        503, Map.of("Retry-After", "1"), error("quota_unavailable", "Please try again shortly."));
  }

  /** The error in the form that users of this gateway know. */
  static String error(String code, String message) {
    var error = new JsonObject();
    error.addProperty("code", code);
    error.addProperty("message", message);
    var body = new JsonObject();
    body.add("error", error);
    return body.toString();
  }
}
