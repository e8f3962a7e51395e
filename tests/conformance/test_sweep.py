"""The sweep on the strict AWS: only instances that EC2 confirms as terminated or missing are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ec2_decommission.clients.ec2 import BotoEc2
from ec2_decommission.config import InstanceFilter, SweepSettings
from ec2_decommission.deadline import Deadline, until
from ec2_decommission.errors import AccessError, TransientError
from ec2_decommission.inventory import DynamoInventory
from ec2_decommission.place import Place
from ec2_decommission.sweep import Sweep
from testbed.aws import Answer, AwsError, StrictAws, throttled
from testbed.inventory import make_inventory_table
from tests.conformance.test_ec2 import EMPTY
from tests.conformance.test_inventory import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

HOME = Place("123456789012", "us-east-1")


class Outbox:
    def __init__(self) -> None:
        self.sent: list[str] = []

    def send_terminations(self, instance_ids: Iterable[str], place: Place) -> None:
        self.sent += instance_ids


class Fleet:
    """Three recorded instances of one region, and its sweep."""

    def __init__(self, aws: StrictAws) -> None:
        aws.reset()
        make_inventory_table(aws.client("dynamodb"), TABLE)
        self.aws = aws
        self.ec2 = BotoEc2(lambda: aws.client("ec2"), HOME)
        self.inventory = DynamoInventory(aws.client("dynamodb"), TABLE, 30)
        self.outbox = Outbox()
        self.ids = sorted(aws.launch(f"web-{number}", emit=False).id for number in range(3))
        self.inventory.remember_running([d.instance() for d in self.ec2.describe(self.ids).values()], {})

    def sweep(self) -> list[str]:
        """Runs a sweep and returns the ids that it sends."""
        in_an_hour = datetime.now(UTC) + timedelta(hours=1)  # no instance is too young
        sweep = Sweep(
            SweepSettings(),
            HOME,
            self.ec2,
            self.inventory,
            self.outbox,
            InstanceFilter(),
            now=lambda: in_an_hour,
        )
        with until(Deadline.after(100)):
            assert sweep.run(dry_run=False).braked is None
        return self.outbox.sent


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws() as strict:
        yield strict


@pytest.fixture
def fleet(aws: StrictAws) -> Fleet:
    return Fleet(aws)


def _is_list(params: Mapping[str, Any]) -> bool:
    return not any(name.startswith("InstanceId") for name in params)


def test_only_terminated_instances_are_sent_and_stopped_ones_are_live(fleet: Fleet) -> None:
    fleet.aws.client("ec2").stop_instances(InstanceIds=[fleet.ids[0]])
    fleet.aws.terminate(fleet.ids[1], emit=False)
    assert fleet.sweep() == [fleet.ids[1]]


def test_all_are_gone_if_ec2_still_lists_one_as_terminated(fleet: Fleet) -> None:
    for instance_id in fleet.ids:
        fleet.aws.terminate(instance_id, emit=False)
    fleet.aws.forget(fleet.ids[0])
    assert fleet.sweep() == fleet.ids


def test_no_instance_is_gone_if_ec2_lists_none_at_all(fleet: Fleet) -> None:
    for instance_id in fleet.ids:
        fleet.aws.terminate(instance_id, emit=False)
        fleet.aws.forget(instance_id)
    assert fleet.sweep() == []


def test_no_instance_is_gone_after_an_empty_list(fleet: Fleet) -> None:
    fleet.aws.terminate(fleet.ids[1], emit=False)

    def empty(_service: str, operation: str, params: Mapping[str, Any]) -> Answer | None:
        return EMPTY if operation == "DescribeInstances" and _is_list(params) else None

    with fleet.aws.fault(empty, everyone=True):
        assert fleet.sweep() == [fleet.ids[1]]


def test_no_instance_is_gone_if_all_answers_are_empty(fleet: Fleet) -> None:
    fleet.aws.terminate(fleet.ids[1], emit=False)

    def empty(_service: str, operation: str, _params: Mapping[str, Any]) -> Answer | None:
        return EMPTY if operation == "DescribeInstances" else None

    with fleet.aws.fault(empty, everyone=True), pytest.raises(TransientError, match="neither describes"):
        fleet.sweep()
    assert fleet.outbox.sent == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (throttled("RequestLimitExceeded"), TransientError),
        (AwsError("UnauthorizedOperation", "no", 403), AccessError),
    ],
)
@pytest.mark.parametrize("by_id", [True, False])
def test_no_instance_is_gone_after_an_error(
    fleet: Fleet, error: AwsError, kind: type[Exception], by_id: bool
) -> None:
    fleet.aws.terminate(fleet.ids[1], emit=False)

    def fail(_service: str, operation: str, params: Mapping[str, Any]) -> AwsError | None:
        return error if operation == "DescribeInstances" and _is_list(params) is not by_id else None

    with fleet.aws.fault(fail, everyone=True), pytest.raises(kind):
        fleet.sweep()
    assert fleet.outbox.sent == []
