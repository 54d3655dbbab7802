"""Walks over all tenants of a store that have holds or grants to end, by the indexes of tenants by earliest due."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from server.engine import keys
from server.engine.base import StoreFigures
from server.engine.pipeline import Word
from server.engine.store_errors import StoreUnavailable

BATCH: Final = 512
"""Keys that are looked at in one write."""

EACH: Final = 100
"""Tenants of one slot that one walk comes to; the next walk comes to others, when these are no longer due."""

Ask: TypeAlias = Callable[..., Awaitable[Any]]
"""Runs a plain command; takes its words; StoreError."""


async def tenants_due(ask: Ask, until: Word, most: int = EACH) -> AsyncIterator[bytes]:
    """Members of the indexes whose earliest due lies no later than `until`, at most so many of each slot."""
    index = list(keys.index_keys())
    for start in range(0, len(index), BATCH):
        batch = index[start : start + BATCH]
        for members in await _all(ask, [("ZRANGEBYSCORE", key, "-inf", until, "LIMIT", 0, most) for key in batch]):
            for member in members:
                yield member


async def figures(ask: Ask, most: int = 1000) -> StoreFigures:
    """What the store has of all tenants together; of a slot with more tenants than `most`, of so many."""
    live: Counter[str] = Counter()
    members = [member async for member in tenants_due(ask, "+inf", most)]
    walk = iter(members)
    while batch := list(islice(walk, BATCH)):
        dues = [keys.tenant_keys(keys.tenant_of(member)).due for member in batch]
        counts = await _all(ask, [words for due in dues for words in _counted(due)])
        for member, holds, found in zip(batch, counts[::2], counts[1::2], strict=True):
            live[keys.tenant_of(member).policy] += holds - sum(score is not None for score in found)
    try:
        run, micros = _scripts(await ask("INFO", "commandstats"))
    except StoreUnavailable:  # a user of the store may lack the right
        run, micros = 0, 0
    return StoreFigures(live, run, micros)


async def _all(ask: Ask, commands: Sequence[Sequence[Word]]) -> list[Any]:
    """Answers of commands that leave in one write; every one is waited for before the first error is raised."""
    answers = await asyncio.gather(*(ask(*words) for words in commands), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _counted(due: bytes) -> Sequence[Sequence[Word]]:
    """What tells how many holds are open: all that is due, and what of it is no hold."""
    return ("ZCARD", due), ("ZMSCORE", due, *keys.NO_HOLDS)


def _scripts(stats: bytes) -> tuple[int, int]:
    """Scripts run, and microseconds spent in them, as INFO tells."""
    run = micros = 0
    for line in stats.decode().splitlines():
        name, _, values = line.partition(":")
        if name in {"cmdstat_evalsha", "cmdstat_eval"}:
            fields = dict(pair.split("=") for pair in values.split(","))
            run += int(fields["calls"])
            micros += int(fields["usec"])
    return run, micros
