package holdgate;

import io.grpc.StatusRuntimeException;
import java.lang.System.Logger;
import java.lang.System.Logger.Level;
import java.util.Map;
import quota.v1.DecisionOuterClass.Decision;
import quota.v1.QuotaServiceOuterClass.ExtendRequest;
import quota.v1.QuotaServiceOuterClass.ReleaseRequest;
import quota.v1.QuotaServiceOuterClass.SettleRequest;
import quota.v1.QuotaServiceOuterClass.SettleResponse;
import quota.v1.QuotaServiceOuterClass.Usage;

/**
 * What a grant left. Its lease is renewed by a thread of its own until the hold ends: with {@link #settle}, or, when
 * it is closed without having been settled, with a release.
 */
public final class Hold implements AutoCloseable {
  private static final Logger LOG = System.getLogger("holdgate");

  public final Decision decision;
  private final Client client;
  private final String tenant;
  private final Thread renewer;
  private boolean ended;

  Hold(Client client, String tenant, Decision decision) {
    this.client = client;
    this.tenant = tenant;
    this.decision = decision;
    this.renewer = new Thread(this::renew, "lease of " + id());
    renewer.setDaemon(true);
    renewer.start();
  }

  /** Names the hold. */
  public String id() {
    return decision.getHoldId();
  }

  /** Charges what was used, as totals by meter, and gives the rest back. */
  public SettleResponse settle(Map<String, Long> used) {
    end();
    var request =
        SettleRequest.newBuilder()
            .setPolicy(client.policy)
            .setTenant(tenant)
            .setHoldId(id())
            .setUsage(Usage.newBuilder().putAllUsed(used))
            .build();
    return client.repeated(stub -> stub.settle(request));
  }

  /** Releases what was not settled; a release that fails is left to the end of the lease. */
  @Override
  public void close() {
    if (ended) {
      return;
    }
    end();
    var request =
        ReleaseRequest.newBuilder()
            .setPolicy(client.policy)
            .setTenant(tenant)
            .setHoldId(id())
            .build();
    try {
      client.repeated(stub -> stub.release(request));
    } catch (StatusRuntimeException error) {
      LOG.log(Level.WARNING, "hold {0} ends with its lease: {1}", id(), error.getStatus());
    }
  }

  private void end() {
    ended = true;
    renewer.interrupt();
    boolean interrupted = false;
    while (renewer.isAlive()) {
      try {
        renewer.join();
      } catch (InterruptedException interruption) {
        interrupted = true;
      }
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private void renew() {
    var request =
        ExtendRequest.newBuilder().setPolicy(client.policy).setTenant(tenant).setHoldId(id()).build();
    Decision last = decision;
    while (last.hasRenewAfterMs()) {
      try {
        Thread.sleep(last.getRenewAfterMs());
        last = client.repeated(stub -> stub.extend(request)).getDecision();
      } catch (InterruptedException interruption) {
        return;
      } catch (StatusRuntimeException error) {
        if (Thread.currentThread().isInterrupted()) {
          return;
        }
        LOG.log(Level.WARNING, "hold {0} was not renewed: {1}", id(), error.getStatus());
        if (!Client.isUndecided(error)) {
          return;
        }
      }
    }
  }
}
