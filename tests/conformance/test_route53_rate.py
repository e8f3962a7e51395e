"""The rate of requests to Route 53, against its limits."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
import pytest

from ec2_decommission.clients.aws import AwsClients
from ec2_decommission.clients.governor import Governor
from ec2_decommission.clients.route53 import BotoZones
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import OutOfTime
from testbed.aws import StrictAws, throttled

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictAws]:
    with StrictAws() as aws:
        yield aws


@pytest.fixture
def zone_id(strict: StrictAws, monkeypatch: pytest.MonkeyPatch) -> str:
    strict.reset()
    made = strict.client("route53").create_hosted_zone(Name="example.internal", CallerReference="1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it has read once
    # Not as the administrator, who is not throttled.
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


def zones(per_second: float, deadline: Deadline) -> BotoZones:
    """As in an invocation of its own."""
    return BotoZones(AwsClients(lambda: deadline)("route53"), Governor(per_second, lambda: deadline, 8.0))


def ask(of: BotoZones, zone_id: str, number: int) -> None:
    for n in range(number):
        assert of.records(zone_id, [f"nobody-{n}.example.internal."]).found == {}


def test_two_invocations_together_stay_below_their_limit(strict: StrictAws, zone_id: str) -> None:
    two = [zones(5, Deadline.after(60)) for _ in range(2)]
    for one in two:
        # Connected: a first call that takes longer than the others would set the limit's clock back against theirs.
        ask(one, zone_id, 1)
    time.sleep(0.3)  # both are full again
    strict.reset_calls()
    # What both have together, and one for the network's moods: were one of them to take its burst twice, or to go
    # faster than its share, far more would be refused.
    strict.limit_route53(burst=51, rate=10)
    begin = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda of: ask(of, zone_id, 35), two))
    took = time.monotonic() - begin
    assert strict.calls["route53:ListResourceRecordSets"] == 70
    assert took > 1.9


def test_throttling_by_what_others_use_up_surfaces_nowhere(strict: StrictAws, zone_id: str) -> None:
    of = zones(20, Deadline.after(60))
    strict.limit_route53(burst=2, rate=5)
    strict.reset_calls()
    ask(of, zone_id, 20)
    tries = strict.calls["route53:ListResourceRecordSets"]
    assert 20 < tries < 60


def test_a_throttling_that_does_not_end_hands_back_within_the_time(strict: StrictAws, zone_id: str) -> None:
    of = zones(10, Deadline.after(10))
    begin = time.monotonic()
    with (
        strict.fault(lambda *_: throttled("Throttling")),
        pytest.raises(OutOfTime, match="are left of this invocation"),
    ):
        ask(of, zone_id, 1)
    assert time.monotonic() - begin < 10


def test_a_change_that_another_hinders_is_made_when_it_is_done(strict: StrictAws, zone_id: str) -> None:
    of = zones(50, Deadline.after(60))
    hindered = iter(range(6))  # more than botocore tries by itself

    def busy(_service: str, operation: str, _params: object) -> object:
        if operation == "ChangeResourceRecordSets" and next(hindered, None) is not None:
            return throttled("PriorRequestNotComplete")
        return None

    raw = {"Name": "a.example.internal.", "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "10.0.0.1"}]}
    with strict.fault(busy):
        of.change(zone_id, [("CREATE", raw)])
    assert list(of.records(zone_id, ["a.example.internal."]).found) == ["a.example.internal."]
