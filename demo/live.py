"""Keeps a demo live: turns state changes into events, and polls the queue."""

from __future__ import annotations

import time
from collections.abc import Callable

from demo.world import MEMBER_ACCOUNT, World
from testbed.lambda_service import Batch

_PAUSE_SECONDS = 1.0

States = dict[tuple[str, str], str]  # by account and instance id


def states(world: World) -> States:
    """The state of every instance in both accounts, from DescribeInstances."""
    aws = world.platform.aws
    found: States = {}
    for account in (aws.account, MEMBER_ACCOUNT):
        pages = aws.client("ec2", aws.admin_of(account)).get_paginator("describe_instances").paginate()
        for page in pages:
            for reservation in page["Reservations"]:
                for instance in reservation["Instances"]:
                    found[account, instance["InstanceId"]] = instance["State"]["Name"]
    return found


def run(world: World, say: Callable[[str], None], handled: Callable[[Batch], None]) -> None:
    """Watches and polls until SIGTERM.

    Args:
        say: receives a line for each instance that starts or is terminated.
        handled: receives each batch that the function handled.
    """
    platform = world.platform
    known = states(world)
    while True:
        now = states(world)
        for (account, instance_id), state in now.items():
            if state == known.get((account, instance_id)) or state not in ("running", "terminated"):
                continue
            say(f"EC2 in {account}: {instance_id} is {state}")
            if state == "terminated":
                for member in platform.fleet.values():
                    if member.id == instance_id and member.agent.server.running:
                        member.agent.kill()
                        platform.consul.wait_for_status(member.name, "failed")
            platform.aws.emit(platform.aws.state_change(instance_id, state, account=account))
        known = now
        for batch in platform.poller.poll():
            handled(batch)
        time.sleep(_PAUSE_SECONDS)
