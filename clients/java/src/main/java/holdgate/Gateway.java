package holdgate;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;

/** Serves HTTP in front of some paid work: LISTEN HOLDGATE [--ca FILE [--cert FILE --key FILE]]; see ../README.md. */
public final class Gateway {
  private final Client client;

  private Gateway(Client client) {
    this.client = client;
  }

  public static void main(String[] given) throws IOException {
    var arguments = Arguments.parse("LISTEN HOLDGATE", given);
    var listen = arguments.words().get(0).split(":");
    var client = new Client(arguments.words().get(1), "golden", arguments.tls());
    var server = HttpServer.create(new InetSocketAddress(listen[0], Integer.parseInt(listen[1])), 0);
    server.setExecutor(Executors.newCachedThreadPool());
    server.createContext("/work", new Gateway(client)::paid);
    server.start();
    System.out.printf("gateway on %s:%d%n", listen[0], server.getAddress().getPort());
  }

  /** Asks before it works, and settles when it has worked. */
  private void paid(HttpExchange exchange) throws IOException {
    var query = query(exchange);
    var headers = exchange.getRequestHeaders();
    String org = headers.getOrDefault("X-Org", List.of("")).get(0);
    String id = headers.getOrDefault("X-Request-Id", List.of("")).get(0);
    try (Hold hold = client.reserve(org, "job", id, Map.of("credits", number(query, "reserve", 10)))) {
      Thread.sleep(number(query, "ms", 0));
      if (query.containsKey("fail")) {
        hold.close();
        send(exchange, 500, Map.of(), "{\"error\": \"the work failed\"}");
        return;
      }
      hold.settle(Map.of("credits", number(query, "units", 1)));
      send(exchange, 200, hold.decision.getHttp().getHeadersMap(), "{\"hold\": \"" + hold.id() + "\"}");
    } catch (Refused refused) {
      send(exchange, Answer.of(refused));
    } catch (StatusRuntimeException error) {
      send(exchange, Client.isUndecided(error) ? Answer.undecided() : unchecked());
    } catch (InterruptedException interruption) {
      Thread.currentThread().interrupt();
    }
  }

  private static Answer unchecked() {
    return new Answer(500, Map.of(), Answer.error("internal", "The request could not be checked."));
  }

  private static Map<String, String> query(HttpExchange exchange) {
    Map<String, String> found = new HashMap<>();
    String query = exchange.getRequestURI().getQuery();
    for (String pair : query == null ? new String[0] : query.split("&")) {
      int equals = pair.indexOf('=');
      found.put(equals < 0 ? pair : pair.substring(0, equals), pair.substring(equals + 1));
    }
    return found;
  }

  private static long number(Map<String, String> query, String name, long otherwise) {
    return query.containsKey(name) ? Long.parseLong(query.get(name)) : otherwise;
  }

  private static void send(HttpExchange exchange, Answer answer) throws IOException {
    send(exchange, answer.status(), answer.headers(), answer.body());
  }

  private static void send(HttpExchange exchange, int status, Map<String, String> headers, String text)
      throws IOException {
    byte[] body = text.getBytes(StandardCharsets.UTF_8);
    headers.forEach(exchange.getResponseHeaders()::set);
    exchange.getResponseHeaders().set("Content-Type", "application/json");
    exchange.sendResponseHeaders(status, body.length);
    try (var out = exchange.getResponseBody()) {
      out.write(body);
    }
  }
}
