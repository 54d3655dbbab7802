package holdgate;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.PrototypeMarshaller;
import io.grpc.ServiceDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCalls;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.yaml.snakeyaml.Yaml;
import quota.v1.AdminServiceGrpc;
import quota.v1.QuotaServiceGrpc;
import quota.v1.TestClockServiceGrpc;

/** Plays transcripts: ADDRESS RUN [--ca FILE [--cert FILE --key FILE]] TRANSCRIPT…; see ../golden/README.md. */
public final class Golden {
  private static final Gson GSON = new Gson();
  private static final long TIMEOUT_S = 10;
  private static final List<ServiceDescriptor> SERVICES =
      List.of(
          QuotaServiceGrpc.getServiceDescriptor(),
          AdminServiceGrpc.getServiceDescriptor(),
          TestClockServiceGrpc.getServiceDescriptor());

  private Golden() {}

  public static void main(String[] given) throws IOException {
    var arguments = Arguments.parse("ADDRESS RUN TRANSCRIPT", given);
    var words = arguments.words();
    int passed = 0;
    int failed = 0;
    var channel = Client.open(words.get(0), arguments.tls());
    for (String path : words.subList(2, words.size())) {
      String name = Path.of(path).getFileName().toString().replace(".yaml", "");
      int number = 0;
      for (Map<String, Object> step : read(path, words.get(1))) {
        number++;
        JsonObject found = play(channel, step);
        var line = new JsonObject();
        line.addProperty("transcript", name);
        line.addProperty("step", number);
        line.add("answer", found);
        System.out.println(line);
        String kind = step.containsKey("answer") ? "answer" : "error";
        var differences =
            differing(GSON.toJsonTree(step.get(kind)), found.get(kind), name + ": step " + number + "." + kind);
        differences.forEach(System.err::println);
        if (differences.isEmpty()) {
          passed++;
        } else {
          failed++;
        }
      }
    }
    channel.shutdownNow();
    System.out.printf("%d passed, %d failed%n", passed, failed);
    System.exit(failed == 0 ? 0 : 1);
  }

  private static List<Map<String, Object>> read(String path, String run) throws IOException {
    return new Yaml().load(Files.readString(Path.of(path)).replace("<run>", run));
  }

  /** Makes one call; its outcome as JSON, {"answer": …} or {"error": …}. */
  private static JsonObject play(ManagedChannel channel, Map<String, Object> step)
      throws InvalidProtocolBufferException {
    var method = method((String) step.get("call"));
    var request = prototype(method.getRequestMarshaller()).toBuilder();
    JsonFormat.parser().merge(GSON.toJson(step.get("request")), request);
    var options = CallOptions.DEFAULT.withDeadlineAfter(TIMEOUT_S, TimeUnit.SECONDS);
    var outcome = new JsonObject();
    try {
      Message answer = ClientCalls.blockingUnaryCall(channel, method, options, request.build());
      outcome.add("answer", JsonParser.parseString(JsonFormat.printer().print(answer)));
    } catch (StatusRuntimeException error) {
      outcome.add("error", failure(error));
    }
    return outcome;
  }

  @SuppressWarnings("unchecked") // every message of these services is a Message
  private static MethodDescriptor<Message, Message> method(String call) {
    return SERVICES.stream()
        .flatMap(service -> service.getMethods().stream())
        .filter(method -> method.getFullMethodName().equals(call))
        .map(method -> (MethodDescriptor<Message, Message>) method)
        .findFirst()
        .orElseThrow(() -> new IllegalArgumentException("there is no method " + call));
  }

  private static Message prototype(MethodDescriptor.Marshaller<Message> marshaller) {
    return ((PrototypeMarshaller<Message>) marshaller).getMessagePrototype();
  }

  private static JsonObject failure(StatusRuntimeException error) throws InvalidProtocolBufferException {
    String reason = "";
    var fields = new JsonArray();
    var status = StatusProto.fromThrowable(error);
    for (Any detail : status == null ? List.<Any>of() : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        reason = detail.unpack(ErrorInfo.class).getReason();
      } else if (detail.is(BadRequest.class)) {
        detail.unpack(BadRequest.class).getFieldViolationsList().forEach(bad -> fields.add(bad.getField()));
      }
    }
    var told = new JsonObject();
    told.addProperty("code", error.getStatus().getCode().name());
    told.addProperty("reason", reason);
    told.add("fields", fields);
    told.addProperty("says", error.getStatus().getDescription());
    return told;
  }

  /** Where an answer is not what was expected, one line each. */
  private static List<String> differing(JsonElement expected, JsonElement found, String at) {
    List<String> lines = new ArrayList<>();
    if (expected.isJsonObject() && found != null && found.isJsonObject()) {
      for (var entry : expected.getAsJsonObject().entrySet()) {
        var value = found.getAsJsonObject().get(entry.getKey());
        lines.addAll(differing(entry.getValue(), value, at + "." + entry.getKey()));
      }
    } else if (expected.isJsonArray()
        && found != null
        && found.isJsonArray()
        && expected.getAsJsonArray().size() == found.getAsJsonArray().size()) {
      for (int index = 0; index < expected.getAsJsonArray().size(); index++) {
        var value = found.getAsJsonArray().get(index);
        lines.addAll(differing(expected.getAsJsonArray().get(index), value, at + "[" + index + "]"));
      }
    } else {
      String want = text(expected);
      String got = text(found);
      boolean said = at.endsWith(".says") && got.contains(want);
      if (!want.equals(got) && !said && number(want) != number(got)) {
        lines.add(at + ": expected " + want + ", found " + got);
      }
    }
    return lines;
  }

  /** A value as JSON writes it; a text is itself. */
  private static String text(JsonElement value) {
    return value != null && value.isJsonPrimitive() ? value.getAsString() : String.valueOf(value);
  }

  /** The number that a text writes; NaN, which equals nothing, for anything else. */
  private static double number(String text) {
    try {
      return Double.parseDouble(text);
    } catch (NumberFormatException notOne) {
      return Double.NaN;
    }
  }
}
