package holdgate.spring;

import holdgate.Answer;
import holdgate.Client;
import holdgate.Hold;
import holdgate.Refused;
import io.grpc.StatusRuntimeException;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Map;
import java.util.Objects;
import org.springframework.stereotype.Component;
import org.springframework.web.filter.OncePerRequestFilter;

/**
 * Asks before a controller runs. A controller says in the request's attribute {@link #USED} how many tokens it used;
 * without it, with a 5xx or an exception, everything is given back.
 */
@Component
public class QuotaFilter extends OncePerRequestFilter {
  public static final String USED = "holdgate.used";

  private static final long TOKENS_AT_FIRST = 500;

  private final Client client;

  public QuotaFilter(Client client) {
    this.client = client;
  }

  @Override
  protected void doFilterInternal(
      HttpServletRequest request, HttpServletResponse response, FilterChain chain)
      throws ServletException, IOException {
    String org = Objects.requireNonNullElse(request.getHeader("X-Org"), "");
    Hold hold;
    try {
      hold = client.reserve(org, "chat", "", Map.of("tokens", TOKENS_AT_FIRST));
    } catch (Refused refused) {
      send(response, Answer.of(refused));
      return;
    } catch (StatusRuntimeException error) {
      if (!Client.isUndecided(error)) {
        throw error;
      }
      send(response, Answer.undecided());
      return;
    }
    try (hold) { // releases what is not settled
      hold.decision.getHttp().getHeadersMap().forEach(response::setHeader);
      chain.doFilter(request, response);
      if (response.getStatus() < 500 && request.getAttribute(USED) instanceof Long used) {
        hold.settle(Map.of("tokens", used));
      }
    }
  }

  private static void send(HttpServletResponse response, Answer answer) throws IOException {
    response.setStatus(answer.status());
    answer.headers().forEach(response::setHeader);
    response.setContentType("application/json");
    response.setCharacterEncoding("UTF-8");
    response.getWriter().write(answer.body());
  }
}
