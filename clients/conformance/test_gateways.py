"""Every language's gateway, over mutual TLS: what users of a gateway see, and what is charged."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import grpc
import pytest
from holdgate import Tls
from quota.v1 import admin_service_pb2 as admin
from quota.v1 import quota_service_pb2 as quota
from quota.v1.admin_service_pb2_grpc import AdminServiceStub
from quota.v1.decision_pb2 import LimitStatus
from quota.v1.quota_service_pb2_grpc import QuotaServiceStub

from clients.conformance.programs import POLICY, PROGRAMS, Certificates, gateway, golden_server
from tests.waiting import wait_until

PAST_THE_LEASE_MS = 4500
ANSWER_S = 30
_names = count()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: dict[str, object]


class Operator:
    """Looks past the gateways, straight at the server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._quota = QuotaServiceStub(channel)  # type: ignore[arg-type]  # the stubs' types know asyncio alone
        self._admin = AdminServiceStub(channel)  # type: ignore[arg-type]  # as above

    def organization(self, units: int = 100) -> str:
        """A new one."""
        name = f"org-{next(_names)}"
        account = admin.Account(plan="free")
        request = admin.PutAccountRequest(tenant=name, account=account, opening={"credits": units})
        self._admin.PutAccount(request)
        return name

    def limit(self, organization: str, name: str) -> LimitStatus:
        usage: quota.GetUsageResponse = self._quota.GetUsage(quota.GetUsageRequest(tenant=organization))  # type: ignore[assignment]  # as above
        return next(limit for limit in usage.limits if limit.id == name)

    def state(self, organization: str, hold_id: object) -> int:
        request = admin.GetHoldRequest(tenant=organization, hold_id=str(hold_id))
        found: admin.GetHoldResponse = self._admin.GetHold(request)  # type: ignore[assignment]  # as above
        return found.hold.state


@pytest.fixture(scope="module")
def server(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with golden_server(tmp_path_factory.mktemp("gateways"), *certificates.of_server("mutual-tls")) as server:
        yield server.address


@pytest.fixture(scope="module")
def operator(server: str, certificates: Certificates) -> Iterator[Operator]:
    shown = certificates.caller
    tls = Tls(certificates.authority.ca, shown.certificate, shown.key)
    with grpc.secure_channel(server, tls.credentials()) as channel:
        yield Operator(channel)


@pytest.fixture(scope="module", params=PROGRAMS)
def address(request: pytest.FixtureRequest, server: str, certificates: Certificates) -> Iterator[str]:
    with gateway(request.param, server, *certificates.of_client("mutual-tls")) as address:
        yield address


def work(address: str, organization: str, query: str = "", request_id: str = "") -> Answer:
    headers = {"X-Org": organization} | ({"X-Request-Id": request_id} if request_id else {})
    request = urllib.request.Request(f"http://{address}/work?{query}", method="POST", headers=headers)  # loopback
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as found:  # noqa: S310  # loopback
            status, told, body = found.status, dict(found.headers), found.read()
    except urllib.error.HTTPError as error:
        status, told, body = error.code, dict(error.headers), error.read()
    headers = {name.lower(): value for name, value in told.items()}
    is_json = headers.get("content-type", "").startswith("application/json")
    return Answer(status, headers, json.loads(body) if is_json else {})


def test_what_was_used_is_charged_and_the_rest_is_back(address: str, operator: Operator) -> None:
    organization = operator.organization()
    answer = work(address, organization, "reserve=10&units=3")
    assert answer.status == 200
    assert operator.state(organization, answer.body["hold"]) == quota.HOLD_STATE_SETTLED
    balance = operator.limit(organization, "credits")
    assert (balance.remaining, balance.held) == (97, 0)


def test_failed_work_is_not_charged(address: str, operator: Operator) -> None:
    organization = operator.organization()
    assert work(address, organization, "fail=1").status == 500
    balance = operator.limit(organization, "credits")
    assert (balance.remaining, balance.held) == (100, 0)
    assert operator.limit(organization, "jobs").used == 0


def test_the_lease_is_kept_for_as_long_as_the_work_takes(address: str, operator: Operator) -> None:
    organization = operator.organization()
    answer = work(address, organization, f"ms={PAST_THE_LEASE_MS}")
    assert operator.state(organization, answer.body["hold"]) == quota.HOLD_STATE_SETTLED


def test_a_refusal_is_told_in_the_policys_own_form(address: str, operator: Operator) -> None:
    answer = work(address, operator.organization(units=5))
    assert answer.status == 402
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.body["error"] == {
        "type": "billing",
        "code": "insufficient_credits",
        "message": "Need 10 credits, you have 5 – top up.",  # noqa: RUF001  # as in the policy
        "needed": 10,
        "have": 5,
    }


def test_a_refusal_that_waiting_clears_says_for_how_long(address: str, operator: Operator) -> None:
    organization = operator.organization()
    with ThreadPoolExecutor(2) as busy:
        jobs = [busy.submit(work, address, organization, "ms=2000") for _ in range(2)]
        wait_until(lambda: operator.limit(organization, "jobs").used == 2)
        answer = work(address, organization)
        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        assert [job.result().status for job in jobs] == [200, 200]


def test_a_repeat_is_charged_once(address: str, operator: Operator) -> None:
    organization = operator.organization()
    answers = [work(address, organization, "units=4", request_id="r-1") for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.body["hold"] for answer in answers] == ["r-1", "r-1"]
    assert operator.limit(organization, "credits").remaining == 96


def test_a_request_that_cannot_be_checked_is_nobodys_to_repeat(address: str) -> None:
    assert work(address, "").status >= 500


@pytest.mark.parametrize("language", PROGRAMS)
def test_who_would_have_to_wait_is_sent_away_and_leaves_the_line(language: str, tmp_path: Path) -> None:
    queued = tmp_path / "queued.yaml"
    pool = "typical: 5s, refuse: too_many_jobs"
    queued.write_text(POLICY.read_text().replace(pool, f"{pool}, queue: {{depth: 2, ticket: 3s}}"))
    with (
        golden_server(tmp_path / "server", policy=queued) as server,
        grpc.insecure_channel(server.address) as channel,
        gateway(language, server.address) as address,
        ThreadPoolExecutor(2) as busy,
    ):
        operator = Operator(channel)
        organization = operator.organization()
        jobs = [busy.submit(work, address, organization, "ms=2000") for _ in range(2)]
        wait_until(lambda: operator.limit(organization, "jobs").used == 2)
        answer = work(address, organization)
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert operator.limit(organization, "jobs").queued == 0
        assert [job.result().status for job in jobs] == [200, 200]
        assert operator.limit(organization, "credits").remaining == 98


@pytest.mark.parametrize("language", PROGRAMS)
def test_without_a_server_nothing_goes_ahead(language: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with gateway(language, f"127.0.0.1:{nobody.getsockname()[1]}") as address:
            answer = work(address, "acme")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
