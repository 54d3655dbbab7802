"""Logging: one JSON object per line on stderr, or coloured text where stderr is a terminal.

Event names are stable words (`quota.decided`, `rpc.failed`); everything else is a field. What libraries log through
`logging` takes the same form.
"""

import logging
import sys
from random import random
from time import perf_counter
from typing import Any, Final, TextIO

import orjson
import structlog

from server.domain.decision import Decision
from server.domain.operation import Operation

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("holdgate")

_US_PER_S: Final = 1_000_000


def configure(level: str, stream: TextIO | None = None) -> None:
    """Sends everything from `level` (debug, info, warning, error) upwards to `stream`, by default stderr."""
    stream = stream or sys.stderr
    readable = stream.isatty()
    stamps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not readable),
    ]
    form: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *form],
            foreign_pre_chain=[*stamps, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *stamps,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _json(event: Any, **_options: Any) -> str:  # noqa: ANN401  # structlog's own signature
    return orjson.dumps(event, default=str).decode()


class DecisionLog:
    """Writes a `quota.decided` event for a share of the decisions, grants and refusals alike.

    `sample_rate` runs from 0 (none) to 1 (all). What is not sampled costs one comparison.
    """

    def __init__(self, sample_rate: float) -> None:
        self._sample_rate = sample_rate

    def decided(self, operation: Operation, decision: Decision, started_s: float) -> None:
        """Tells of one decision; `started_s` is the `perf_counter` at which its making began."""
        if random() >= self._sample_rate:  # noqa: S311  # sampling, not a secret
            return
        log.info(
            "quota.decided",
            policy=operation.ref.policy,
            tenant=operation.ref.tenant,
            action=operation.action,
            outcome=decision.outcome,
            code=decision.refusal.code if decision.refusal else None,
            hold_id=decision.lease.hold_id if decision.lease else None,
            policy_version=decision.policy_version,
            duration_us=round((perf_counter() - started_s) * _US_PER_S),
        )
