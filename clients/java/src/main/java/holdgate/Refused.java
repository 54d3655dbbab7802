package holdgate;

import quota.v1.DecisionOuterClass.Decision;
import quota.v1.DecisionOuterClass.Outcome;

/**
 * Some limit blocks, or the request would have had to wait in a queue, which it has left; nothing was taken.
 */
public final class Refused extends Exception {
  private static final long serialVersionUID = 1L;

  public final transient Decision decision;

  Refused(Decision decision) {
    super(decision.hasRefusal() ? decision.getRefusal().getMessage() : "all places are taken");
    this.decision = decision;
  }

  boolean queued() {
    return decision.getOutcome() == Outcome.OUTCOME_QUEUED;
  }
}
