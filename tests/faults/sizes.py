"""How much of each fault a run takes: a sample in `make test`, more in `make faults-quick`, all in `make faults`."""

import os
from typing import Final

VARIABLE: Final = "FAULTS_SIZE"


def size(sample: int, quick: int, full: int) -> int:
    """The number of times for this run."""
    return {"sample": sample, "quick": quick, "full": full}[os.environ.get(VARIABLE, "sample")]
