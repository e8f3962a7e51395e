"""Table 1: the calls that a burst of terminations costs, counted at the servers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bench.fleet import Servers, batch


@dataclass(frozen=True)
class Burst:
    """What one burst cost.

    Attributes:
        cold: the first event of an execution environment.
        aws: calls beside the inventory's and Route 53's, Route 53's, and the inventory's.
    """

    number: int
    other_records: int
    deregister_node: bool
    cold: bool
    aws: int
    route53: int
    inventory: int
    chef: int
    consul: int
    seconds: float
    cpu_seconds: float
    peak_memory: float
    by_operation: Counter[str]


def measure(servers: Servers, number: int, *, other_records: int, deregister_node: bool = False) -> list[Burst]:
    """The cold burst of one, and the burst of so many after it, in the same execution environment."""
    servers.reset(other_records=other_records)
    config = servers.config(deregister_node=deregister_node)
    bursts = []
    with servers.environment(config) as environment:
        for cold, size in ((True, 1), (False, number)):
            dead = servers.fleet(size)
            servers.reset_calls()
            handled = environment.handle(batch(dead))
            if handled.answer != {"batchItemFailures": []}:
                raise RuntimeError(f"{len(handled.answer['batchItemFailures'])} of {size} failed")
            calls = Counter(servers.aws.calls)
            bursts.append(
                Burst(
                    size,
                    other_records,
                    deregister_node,
                    cold,
                    aws=sum(n for c, n in calls.items() if not c.startswith(("route53:", "dynamodb:"))),
                    route53=sum(n for c, n in calls.items() if c.startswith("route53:")),
                    inventory=sum(n for c, n in calls.items() if c.startswith("dynamodb:")),
                    chef=servers.chef_door.total,
                    consul=servers.consul_door.total,
                    seconds=handled.seconds,
                    cpu_seconds=handled.cpu_seconds,
                    peak_memory=handled.peak_memory,
                    by_operation=calls + servers.chef_door.requests + servers.consul_door.requests,
                )
            )
            if left := servers.left(dead, nodes=deregister_node):
                raise RuntimeError(f"the function left {len(left)}: {', '.join(left[:5])}")
            servers.tidy(dead)
    return bursts
