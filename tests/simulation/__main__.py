"""`make simulate`: plays a seed and prints what it came to; the exit status is 1 when an invariant did not hold."""

import argparse
import os
import secrets
import sys

from tests.simulation.runs import play, play_steps
from tests.simulation.store import SimulatedStore


def main() -> int:
    """Plays as the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(10**9), help="which episodes; a new one each time"
    )
    parser.add_argument("--episode", type=int, help="one episode of the seed alone")
    parser.add_argument("--steps", type=int, default=1_000_000, help="how many steps at least (1000000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; as many as there are cores")
    words = parser.parse_args()
    if words.episode is not None:
        run = play(words.seed, [words.episode], SimulatedStore())
    else:
        run = play_steps(words.seed, words.steps, words.jobs)
    if run.failed:
        sys.stdout.write(f"{run.failed}\n")
        return 1
    faster = run.simulated_s / max(run.took_s, 0.001)
    sys.stdout.write(
        f"seed {words.seed}: {run.steps:,} steps in {run.took_s:.0f} s ({run.steps / max(run.took_s, 0.001):,.0f}/s),"
        f" {run.simulated_s / 86400:,.0f} simulated days ({faster:,.0f} times as fast as time), no violation\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
