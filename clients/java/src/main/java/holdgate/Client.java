package holdgate;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.util.EnumSet;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import quota.v1.DecisionOuterClass.Decision;
import quota.v1.DecisionOuterClass.Outcome;
import quota.v1.QuotaServiceGrpc;
import quota.v1.QuotaServiceGrpc.QuotaServiceBlockingStub;
import quota.v1.QuotaServiceOuterClass.CheckAndReserveRequest;

/** Asks one server about one policy. */
public final class Client implements AutoCloseable {
  private static final long WITHIN_MS = 2000; // a call is repeated for this long
  private static final long ATTEMPT_MS = 1000; // one try waits no longer
  private static final long FIRST_PAUSE_MS = 20;
  private static final Set<Status.Code> UNDECIDED =
      EnumSet.of(
          Status.Code.UNAVAILABLE,
          Status.Code.DEADLINE_EXCEEDED,
          Status.Code.RESOURCE_EXHAUSTED,
          Status.Code.ABORTED,
          Status.Code.INTERNAL,
          Status.Code.UNKNOWN);

  private final ManagedChannel channel;
  private final QuotaServiceBlockingStub quota;
  final String policy;

  public Client(String address, String policy, Tls tls) throws IOException {
    this.channel = open(address, tls);
    channel.getState(true); // connects now, and not within the first call's time
    this.quota = QuotaServiceGrpc.newBlockingStub(channel);
    this.policy = policy;
  }

  /** PEM files: the server's authorities, and what to show where the server asks; without `ca`, no TLS. */
  public record Tls(String ca, String certificate, String key) {}

  /** A connection, made when it is needed. */
  static ManagedChannel open(String address, Tls tls) throws IOException {
    return Grpc.newChannelBuilder(address, credentials(tls)).build();
  }

  private static ChannelCredentials credentials(Tls tls) throws IOException {
    if (tls.ca() == null) {
      return InsecureChannelCredentials.create();
    }
    var builder = TlsChannelCredentials.newBuilder().trustManager(new File(tls.ca()));
    if (tls.certificate() != null) {
      builder.keyManager(new File(tls.certificate()), new File(tls.key()));
    }
    return builder.build();
  }

  /**
   * Takes everything that was asked for, amounts in the meters' base units, or throws {@link Refused}. An empty
   * request id is made up. The caller ends the hold.
   */
  public Hold reserve(String tenant, String action, String requestId, Map<String, Long> amounts)
      throws Refused {
    var request =
        CheckAndReserveRequest.newBuilder()
            .setPolicy(policy)
            .setTenant(tenant)
            .setAction(action)
            .setRequestId(requestId.isEmpty() ? UUID.randomUUID().toString() : requestId)
            .putAllAmounts(amounts)
            .build();
    Decision decision = repeated(stub -> stub.checkAndReserve(request)).getDecision();
    if (decision.getOutcome() == Outcome.OUTCOME_GRANTED) {
      return new Hold(this, tenant, decision);
    }
    if (decision.getOutcome() == Outcome.OUTCOME_QUEUED) {
      new Hold(this, tenant, decision).close();
    }
    throw new Refused(decision);
  }

  /** Whether no decision could be had, and the caller is not to blame. */
  public static boolean isUndecided(StatusRuntimeException error) {
    return UNDECIDED.contains(error.getStatus().getCode());
  }

  /** Calls until there is a decision: the request names its operation, so a repeat is never counted twice. */
  <T> T repeated(Function<QuotaServiceBlockingStub, T> call) {
    long until = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(WITHIN_MS);
    for (long pauseMs = FIRST_PAUSE_MS; ; pauseMs *= 2) {
      try {
        return call.apply(quota.withDeadlineAfter(ATTEMPT_MS, TimeUnit.MILLISECONDS));
      } catch (StatusRuntimeException error) {
        long leftMs = TimeUnit.NANOSECONDS.toMillis(until - System.nanoTime());
        if (!isUndecided(error) || leftMs < pauseMs) {
          throw error;
        }
      }
      try {
        Thread.sleep(pauseMs);
      } catch (InterruptedException interruption) {
        Thread.currentThread().interrupt();
        throw Status.CANCELLED.withCause(interruption).asRuntimeException();
      }
    }
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }
}
