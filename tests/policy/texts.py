"""A small complete policy, and what a text is rejected with."""

import pytest

from server.domain.errors import PolicyRejectedError
from server.domain.policy import Policy
from server.policy.compiler import compile_text

SHOP = """\
policy: shop
tenant: org
scope: [model]
meters: {requests: {per_request: 1}, credits: {}, usd_micros: {unit: money}, video_ms: {unit: duration}}
plans: [free, pro]
actions: {call: {}, render: {}}
limits:
  - {id: rpm, kind: window, meter: requests, window: 60s, limit: 30, refuse: rate_limited}
refusals:
  rate_limited: {http: 429, retryable: true, message: "Retry after {retry_after} s."}
"""


def shop(**replaced: str) -> Policy:
    """SHOP compiled with whole top-level lines replaced (or, for keys that it lacks, added)."""
    return compile_text(shop_text(**replaced), "shop.yaml", {})


def shop_text(**replaced: str) -> str:
    """SHOP with the values of top-level keys replaced or added."""
    blocks = SHOP.replace("\n  ", "\0  ").splitlines()
    sections = dict(block.split(":", 1) for block in blocks)
    sections |= {key: f" {value}" for key, value in replaced.items()}
    return "".join(f"{key}:{value}\n" for key, value in sections.items()).replace("\0", "\n")


def with_limits(*limits: str, message: str = "No.") -> Policy:
    """SHOP with other limits, all refusing with the code `no`."""
    entries = "".join(f"\n  - {{{limit}, refuse: no}}" for limit in limits)
    return shop(limits=entries, refusals=f'{{no: {{http: 429, retryable: true, message: "{message}"}}}}')


def rejection(text: str, knobs: dict[str, str] | None = None) -> list[str]:
    """The problems that `text` is rejected with, without the name of the source."""
    with pytest.raises(PolicyRejectedError) as caught:
        compile_text(text, "shop.yaml", knobs or {})
    return [line.removeprefix("shop.yaml:") for line in caught.value.message.splitlines()]
