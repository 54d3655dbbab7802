"""Waiting for a server's health."""

import asyncio
from typing import Final

from grpc import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

PATIENCE_S: Final = 20.0


def health_watch(channel: aio.Channel, name: str = "") -> aio.UnaryStreamCall[HealthCheckRequest, HealthCheckResponse]:
    """The health of the server, or of one part of it, now and at each change."""
    watch: aio.UnaryStreamMultiCallable[HealthCheckRequest, HealthCheckResponse] = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return watch(HealthCheckRequest(service=name))


async def health_turns(channel: aio.Channel, wanted: int, name: str = "") -> None:
    """Waits until the server, or one part of it, reports the wanted ServingStatus."""
    async with asyncio.timeout(PATIENCE_S):
        async for answer in health_watch(channel, name):
            if answer.status == wanted:
                return


async def health_now(channel: aio.Channel, name: str = "") -> int:
    """The ServingStatus of the server, or of one part of it."""
    check: aio.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse] = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return (await check(HealthCheckRequest(service=name))).status
