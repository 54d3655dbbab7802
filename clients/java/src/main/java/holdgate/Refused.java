package holdgate;

import quota.v1.DecisionOuterClass.Decision;

/** Some limit blocks; nothing was taken. */
public final class Refused extends Exception {
  private static final long serialVersionUID = 1L;

  public final transient Decision decision;

  Refused(Decision decision) {
    super(decision.getRefusal().getMessage());
    this.decision = decision;
  }
}
