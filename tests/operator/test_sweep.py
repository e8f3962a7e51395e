"""`sweep`: what nobody told, the brake, and the way to say "yes, these"."""

from __future__ import annotations

import shlex

import pytest

from testbed.aws import AwsError, LaunchedInstance
from tests.operator.conftest import PROGRAM, Site

pytestmark = pytest.mark.servers


def lose(site: Site, count: int) -> list[LaunchedInstance]:
    """So many instances end, and nobody tells."""
    lost = [site.launch(f"web-{number}") for number in range(count)]
    site.launch("stays")
    for instance in lost:
        site.aws.terminate(instance.id, emit=False)
    return lost


def test_a_dry_run_lists_and_a_real_one_removes(site: Site) -> None:
    lost = lose(site, 2)
    dry = site.operator("sweep", "--dry-run")
    assert dry.status == 0, dry.err
    assert all(instance.id in dry.out and instance.private_ip in dry.out for instance in lost)
    assert site.poller.messages("ec2-decommission") == []
    real = site.operator("sweep")
    assert real.status == 0
    site.poller.drain()
    assert site.names() == ["stays"]
    assert "Nothing is gone" in site.operator("sweep").out


def test_above_the_brake_the_printed_command_is_the_way_on(site: Site) -> None:
    lost = lose(site, 3)
    ran = site.operator("sweep")
    assert ran.status == 1
    assert "Nothing was removed" in ran.err
    assert all(instance.id in ran.out for instance in lost)
    assert site.poller.messages("ec2-decommission") == []
    line = ran.err.strip().splitlines()[-1].strip()
    assert line.startswith(f"{PROGRAM} --function-name ec2-decommission sweep --accept ")
    confirmed = site.operator(*shlex.split(line.removeprefix(f"{PROGRAM} --function-name ec2-decommission")))
    assert confirmed.status == 0, confirmed.err
    site.poller.drain()
    assert site.names() == ["stays"]


def test_where_nobody_seems_to_live_the_way_on_is_printed_too(site: Site) -> None:
    only = site.launch("web-1")
    site.aws.terminate(only.id, emit=False)
    site.aws.forget(only.id)
    ran = site.operator("sweep")
    assert ran.status == 1
    assert "EC2 shows nobody that lives" in ran.err
    assert ran.err.strip().endswith(f"sweep --accept {only.id}")
    assert site.operator("sweep", "--accept", only.id).status == 0
    site.poller.drain()
    assert site.names() == []


def test_ids_can_be_accepted_from_a_file_or_as_listed(site: Site) -> None:
    lost = lose(site, 3)
    ids = "\n".join(instance.id for instance in lost)
    assert site.operator("sweep", "--dry-run", "--accept-file", "-", stdin=f"{ids}\n").status == 0
    assert site.operator("sweep", "--accept-listed").status == 2  # nobody to ask
    assert site.operator("sweep", "--accept-listed", "--yes").status == 0
    site.poller.drain()
    assert site.names() == ["stays"]


def test_an_id_that_is_none_is_refused_before_anything_is_asked(site: Site) -> None:
    ran = site.operator("sweep", "--accept-file", "-", stdin="i-0abc\nweb-1\n")
    assert ran.status == 2
    assert 'found "web-1"' in ran.err
    assert site.functions.invocations == []


def test_a_sweep_that_is_off_is_no_success(site: Site) -> None:
    site.configure(sweep=None)
    ran = site.operator("sweep")
    assert ran.status == 2
    assert "the sweep is off" in ran.err


def test_a_sweep_that_fails_tells_why(site: Site) -> None:
    site.launch("web-1")

    def denied(_service: str, operation: str, _parameters: object) -> AwsError | None:
        return AwsError("UnauthorizedOperation", "no", 403) if operation == "DescribeInstances" else None

    with site.aws.fault(denied):
        ran = site.operator("sweep")
    assert ran.status == 1
    assert "denies the function's role the right to describe instances" in ran.err
