"""Ways for operations to travel; a way is added by a module and a line of this table."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import grpc

from loadtest.callers.base import Caller, CallFailed
from loadtest.callers.batch import Batches
from loadtest.callers.envelope import EnvelopeCaller
from loadtest.callers.stream import Streams
from loadtest.callers.unary import UnaryCaller

CALLERS: Final[Mapping[str, Callable[[Sequence[grpc.aio.Channel], int], Caller]]] = MappingProxyType(
    {
        "unary": lambda channels, _: UnaryCaller(channels),
        "batch": lambda channels, most: EnvelopeCaller(Batches(channels, most)),
        "stream": lambda channels, _: EnvelopeCaller(Streams(channels)),
    }
)
"""By name: makes a caller of its connections and the most operations that one message may have."""

__all__ = ["CALLERS", "CallFailed", "Caller"]
