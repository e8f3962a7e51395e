"""The real client's retries under Route 53's limits and faults."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from ec2_decommission.clients.aws import AwsClients, ThrottledError
from ec2_decommission.clients.governor import Governor
from ec2_decommission.clients.route53 import BotoZones, ChangeRefusedError, list_names
from ec2_decommission.config import Route53Settings, ZoneSettings
from ec2_decommission.deadline import Deadline, current, until
from ec2_decommission.errors import OutOfTime, TransientError
from ec2_decommission.instance import Facts, Instance
from ec2_decommission.live import Live
from ec2_decommission.steps.base import Batch
from ec2_decommission.steps.route53 import Route53Step
from ec2_decommission.templates import Template
from testbed.aws import Drop, StrictAws, throttled, unavailable
from testbed.aws_route53 import fill, record_sets

if TYPE_CHECKING:
    from collections.abc import Iterator

RAW = {"Name": "a.example.internal.", "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "10.0.0.1"}]}


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictAws]:
    with StrictAws() as aws:
        yield aws


@pytest.fixture(autouse=True)
def enough_time() -> Iterator[None]:
    with until(Deadline.after(60)):
        yield


@pytest.fixture
def zone_id(strict: StrictAws, monkeypatch: pytest.MonkeyPatch) -> str:
    strict.reset()
    made = strict.client("route53").create_hosted_zone(Name="example.internal", CallerReference="1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # the default session caches credentials
    # The administrator is not throttled.
    iam = strict.client("iam")
    iam.create_user(UserName="function")
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"route53:*","Resource":"*"}]}'
    iam.put_user_policy(UserName="function", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="function")["AccessKey"]
    for name, value in strict.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    return str(made["HostedZone"]["Id"]).rpartition("/")[2]


def zones(per_second: float) -> BotoZones:
    """A client as in a separate execution environment."""
    aws, governor = AwsClients(current), Governor(per_second)
    return BotoZones(lambda _: aws("route53"), lambda _: governor)


def ask(of: BotoZones, zone_id: str, number: int) -> None:
    for n in range(number):
        of.page(zone_id, f"nobody-{n}.example.internal.")


def nothing() -> None:
    """A guard that always passes."""


def test_two_environments_stay_below_the_shared_limit(strict: StrictAws, zone_id: str) -> None:
    two = [zones(5) for _ in range(2)]
    for one in two:
        # Connect first: a slower first call would delay the limit's clock against theirs.
        ask(one, zone_id, 1)
    time.sleep(0.3)  # both buckets are full again
    strict.reset_calls()
    # The shared limit, with a tolerance of one for the network. If one of them used its burst twice, or exceeded its
    # share, far more requests would be refused.
    strict.limit_route53(burst=51, rate=10)
    begin = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(copy_context().run, partial(ask, one, zone_id, 35)) for one in two]
    assert all(job.result() is None for job in running)
    assert strict.calls["route53:ListResourceRecordSets"] == 70
    assert time.monotonic() - begin > 1.9


def test_throttled_reads_are_retried(strict: StrictAws, zone_id: str) -> None:
    of = zones(20)
    strict.limit_route53(burst=2, rate=5)
    strict.reset_calls()
    ask(of, zone_id, 20)
    assert 20 < strict.calls["route53:ListResourceRecordSets"] < 60


def test_persistent_throttling_ends_before_the_deadline(strict: StrictAws, zone_id: str) -> None:
    of = zones(10)
    begin = time.monotonic()
    with (
        strict.fault(lambda *_: throttled("Throttling")),
        until(Deadline.after(10)),
        pytest.raises(OutOfTime, match="are left of this invocation"),
    ):
        ask(of, zone_id, 1)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (throttled("Throttling"), ThrottledError, r"could not change .*: Throttling: Rate exceeded"),
        (throttled("PriorRequestNotComplete"), ThrottledError, r"could not change .*: PriorRequestNotComplete"),
        (unavailable(503), TransientError, r"could not change .*: ServiceUnavailable"),
        (Drop(), TransientError, r"could not change .*: Connection was closed"),
    ],
)
def test_botocore_does_not_retry_changes(
    strict: StrictAws, zone_id: str, fault: Any, kind: type[Exception], message: str
) -> None:
    """A second attempt would rely on an outdated answer about live instances."""
    of = zones(50)
    guarded: list[None] = []
    strict.reset_calls()
    change = "ChangeResourceRecordSets"
    with (
        strict.fault(lambda _service, operation, _params: fault if operation == change else None),
        pytest.raises(kind, match=message),
    ):
        of.change(zone_id, [("CREATE", RAW)], lambda: guarded.append(None))
    assert (strict.calls[f"route53:{change}"], len(guarded)) == (1, 1)
    of.change(zone_id, [("CREATE", RAW)], nothing)
    assert list(list_names(of, zone_id, ["a.example.internal."]).found) == ["a.example.internal."]


def test_retry_of_a_change_with_a_lost_answer_is_refused(strict: StrictAws, zone_id: str) -> None:
    of = zones(50)
    with (
        strict.fault(lambda _, operation, __: Drop(after=True) if operation.startswith("Change") else None),
        pytest.raises(TransientError, match="Connection was closed"),
    ):
        of.change(zone_id, [("CREATE", RAW)], nothing)
    with pytest.raises(ChangeRefusedError, match="already exists"):
        of.change(zone_id, [("CREATE", RAW)], nothing)


def test_change_itself_does_not_wait(strict: StrictAws, zone_id: str) -> None:
    """`change` itself does not wait, because the answer about live instances would become outdated."""
    aws = AwsClients(current)
    slept: list[float] = []
    governor = Governor(0.2, now=lambda: 0.0, sleep=slept.append)
    of = BotoZones(lambda _: aws("route53"), lambda _: governor)
    of.wait(zone_id)
    of.change(zone_id, [("CREATE", RAW)], nothing)
    assert slept == []
    with until(Deadline.after(1000)):
        of.wait(zone_id)
    assert [round(seconds) for seconds in slept] == [5]


def test_throttled_changes_slow_the_governor_down(strict: StrictAws, zone_id: str) -> None:
    aws = AwsClients(current)
    slept: list[float] = []
    governor = Governor(1, now=lambda: 0.0, sleep=slept.append)
    of = BotoZones(lambda _: aws("route53"), lambda _: governor)
    with strict.fault(lambda *_: throttled("Throttling")), pytest.raises(ThrottledError):
        of.change(zone_id, [("CREATE", RAW)], nothing)
    of.wait(zone_id)
    assert [round(seconds) for seconds in slept] == [2]


# The step with the real client


def fleet(zone_id: str, number: int) -> tuple[Route53Step, Batch]:
    """Terminated instances with a record each, and no live instances."""
    template = Template("{tag:Name}.example.internal")
    facts = {n: Facts("inventory", private_ips=(f"10.0.1.{n}",), tags={"Name": f"web-{n}"}) for n in range(number)}
    instances = {f"i-{n:017x}": Instance(f"i-{n:017x}").learn(known) for n, known in facts.items()}
    fill(
        zone_id,
        [
            {**RAW, "Name": f"web-{n}.example.internal.", "ResourceRecords": [{"Value": f"10.0.1.{n}"}]}
            for n in range(number)
        ],
    )
    step = Route53Step(Route53Settings((ZoneSettings(zone_id),), (template,)), zones(50))
    return step, Batch(instances, Live({}), current())


def left(zone_id: str) -> int:
    return sum(record["Type"] == "A" for record in record_sets(zone_id))


def test_case_17_lost_answer_to_a_change_of_100_records(strict: StrictAws, zone_id: str) -> None:
    step, batch = fleet(zone_id, 100)
    strict.reset_calls()
    drops = iter([Drop(after=True)])
    change = "ChangeResourceRecordSets"
    with strict.fault(lambda _service, operation, _params: next(drops, None) if operation == change else None):
        findings = step.plan(batch)
        outcomes = step.apply(batch, findings)
    assert all(finding.removals and not finding.errors for finding in findings.values())
    assert all(outcome.errors == () for outcome in outcomes.values())
    assert left(zone_id) == 0
    assert strict.calls.total() <= 12
    assert strict.calls[f"route53:{change}"] == 2


def test_change_is_retried_after_a_conflicting_change(strict: StrictAws, zone_id: str) -> None:
    step, batch = fleet(zone_id, 3)
    hindered = iter(range(6))  # more attempts than botocore makes

    def busy(_service: str, operation: str, _params: object) -> object:
        if operation == "ChangeResourceRecordSets" and next(hindered, None) is not None:
            return throttled("PriorRequestNotComplete")
        return None

    with strict.fault(busy):
        outcomes = step.apply(batch, step.plan(batch))
    assert all(outcome.removed and not outcome.errors for outcome in outcomes.values())
    assert left(zone_id) == 0
