"""Where h2corn's thread stands beside the event loop's.

Each answer wakes h2corn's thread, which sends it. A thread that wakes takes the core at once from one that has been
busy, so the event loop was interrupted at every other call, for one answer each time. As a thread of the batch class it
waits until the loop rests or another core is free, and finds several answers then: docs/decisions/0009.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_NAME: Final = "tokio"
"""How the names of h2corn's threads begin."""


def let_the_loop_finish() -> None:
    """Has h2corn's threads of this process not interrupt any other; where the system forbids it, they still do."""
    if sys.platform != "linux":
        return
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread is gone, or a sandbox lets nobody change it
            if (thread / "comm").read_text().startswith(_NAME):
                os.sched_setscheduler(int(thread.name), os.SCHED_BATCH, os.sched_param(0))
