"""Questions as proxies put them."""

from google.protobuf.wrappers_pb2 import UInt64Value
from proxies import envoy_ratelimit_v3_pb2 as rls
from quota.v1 import quota_service_pb2
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

OK = rls.RateLimitResponse.OK
OVER_LIMIT = rls.RateLimitResponse.OVER_LIMIT


def described(
    entries: dict[str, str] | None = None, *, hits: int | None = None, negative: bool = False, **more: str
) -> rls.RateLimitDescriptor:
    """A descriptor; `hits` None leaves its own units out."""
    pairs = {**(entries or {}), **more}
    return rls.RateLimitDescriptor(
        entries=[rls.RateLimitDescriptor.Entry(key=key, value=value) for key, value in pairs.items()],
        hits_addend=None if hits is None else UInt64Value(value=hits),
        is_negative_hits=negative,
    )


def asked(*descriptors: rls.RateLimitDescriptor, domain: str = "golden", hits: int = 0) -> rls.RateLimitRequest:
    return rls.RateLimitRequest(domain=domain, descriptors=descriptors, hits_addend=hits)


async def figures(quota: QuotaServiceStub) -> dict[str, tuple[int, int]]:
    """What acme's limits have used and held."""
    usage = await quota.GetUsage(quota_service_pb2.GetUsageRequest(tenant="acme"))
    return {limit.id: (limit.used, limit.held) for limit in usage.limits}
