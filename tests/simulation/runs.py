"""Many episodes of a seed, on all cores; what fails is cut down to the steps that it takes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from time import monotonic
from typing import Final, NamedTuple
from unittest import mock

from lupa import lua51

from server.domain.operation import TenantRef
from server.engine import keys
from tests.simulation.asked import TENANTS
from tests.simulation.books import Violation
from tests.simulation.episodes import Clock, Episode, Step, draw_episode
from tests.simulation.store import SimulatedStore
from tests.simulation.world import Store, World

BATCH: Final = 10
"""Episodes that a process plays in one go."""
FAILURES: Final = (Violation, AssertionError, lua51.LuaError)


class Run(NamedTuple):
    """What was played: steps, seconds of wall time, simulated seconds, and the first episode that failed."""

    steps: int
    took_s: float
    simulated_s: float
    failed: str


@contextmanager
def few_slots() -> Iterator[None]:
    """A sweep looks at all 16,384 slots; those of the tenants are enough here."""
    index = [keys.tenant_keys(TenantRef("lab", name)).due_index for name in TENANTS]
    with mock.patch.object(keys, "index_keys", return_value=index):
        yield


def failure_of(episode: Episode, store: Store) -> tuple[int, str] | None:
    """The step at which an episode fails, and how; None when it does not."""
    world = World(episode, store)
    try:
        world.play()
    except FAILURES as error:
        return world.steps, str(error)
    return None


def play(seed: int, numbers: Sequence[int], store: Store) -> Run:
    """Episodes of a seed, one after the other, up to the first that fails."""
    started_s, steps, simulated_ms, failed = monotonic(), 0, 0, ""
    with few_slots():
        for number in numbers:
            episode = draw_episode(seed, number)
            failure = failure_of(episode, store)
            steps += len(episode.steps) if failure is None else failure[0]
            simulated_ms += sum(max(step.by_ms, 0) for step in episode.steps if isinstance(step, Clock))
            if failure is not None:
                failed = told(seed, number, episode, failure, store)
                break
    return Run(steps, monotonic() - started_s, simulated_ms / 1000, failed)


def told(seed: int, number: int, episode: Episode, failure: tuple[int, str], store: Store) -> str:
    """A failure, the few steps that it takes, and how to see it again."""
    short = shrunk(episode, failure[0], store)
    again = failure_of(short, store)
    limits = "\n".join(f"  {policy.limits}" for policy in short.policies)
    return "\n".join(
        [
            f"seed {seed}, episode {number}, step {failure[0]}: {failure[1]}",
            f"policies:\n{limits}",
            f"the {len(short.steps)} steps that it takes:",
            *(f"  {step}" for step in short.steps),
            f"which end with: {again[1] if again else 'nothing; only the whole episode fails'}",
            f"again: make simulate SEED={seed} EPISODE={number}",
        ]
    )


def shrunk(episode: Episode, failed_at: int, store: Store) -> Episode:
    """The episode with as few of its steps as still fail, in whatever way."""
    steps = list(episode.steps[: failed_at + 1])
    size = len(steps) // 2
    while size:
        at = 0
        while at < len(steps):
            fewer: list[Step] = steps[:at] + steps[at + size :]
            if failure_of(replace(episode, steps=fewer), store) is not None:
                steps = fewer
            else:
                at += size
        size //= 2
    return replace(episode, steps=steps)


def play_steps(seed: int, steps: int, jobs: int) -> Run:
    """At least so many steps of a seed, in so many processes."""
    started_s, played, simulated_s, first = monotonic(), 0, 0.0, 0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        while played < steps:
            batches = [range(at, at + BATCH) for at in range(first, first + 2 * jobs * BATCH, BATCH)]
            first += 2 * jobs * BATCH
            for run in pool.map(partial(_play_batch, seed), batches):
                played += run.steps
                simulated_s += run.simulated_s
                if run.failed:
                    return Run(played, monotonic() - started_s, simulated_s, run.failed)
    return Run(played, monotonic() - started_s, simulated_s, "")


def _play_batch(seed: int, numbers: Sequence[int]) -> Run:
    return play(seed, numbers, SimulatedStore())
