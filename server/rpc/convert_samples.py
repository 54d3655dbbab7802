"""Samples of use as messages."""

from collections.abc import Sequence
from typing import Final

from quota.v1 import admin_service_pb2

from server.domain.errors import HoldgateError
from server.domain.sampling import Outcome, Sample
from server.metering import Result
from server.rpc import errors

_OUTCOMES: Final = {
    Outcome.REPEATED: admin_service_pb2.SAMPLE_OUTCOME_REPEATED,
    Outcome.OUTDATED: admin_service_pb2.SAMPLE_OUTCOME_OUTDATED,
}


def samples(request: admin_service_pb2.RecordUsageRequest) -> list[tuple[str, Sample]]:
    """The samples of a request, each with its tenant."""
    usual = request.tenant
    return [
        (
            sample.tenant or usual,
            Sample(
                sample.meter,
                dict(sample.scope),
                sample.at_ms,
                sample.resource,
                sample.size,
                sample.seconds,
                sample.sequence,
                sample.id,
                sample.units,
            ),
        )
        for sample in request.samples
    ]


def recorded(results: Sequence[Result]) -> admin_service_pb2.RecordUsageResponse:
    """What became of each sample."""
    response = admin_service_pb2.RecordUsageResponse()
    for index, result in enumerate(results):
        if result is Outcome.APPLIED:
            response.taken += 1
            continue
        message = response.others.add()
        message.index = index
        if isinstance(result, HoldgateError):
            message.outcome = admin_service_pb2.SAMPLE_OUTCOME_FAILED
            status = errors.status_of(result)
            message.error.code, message.error.message = status.code, status.message
            message.error.details = status.SerializeToString()
        else:
            message.outcome = _OUTCOMES[result]
    return response
