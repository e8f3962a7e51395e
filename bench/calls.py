"""Table 1: the calls that a burst of terminations costs, counted at the servers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from bench.computing import Computing
from bench.fleet import Servers, batch


@dataclass(frozen=True)
class Setting:
    """What is set up before a burst.

    Attributes:
        other_records: of nobody of ours, in each zone.
        reverse: a zone of PTR records beside the one of A records.
        deregister_node: the function takes the Consul nodes too.
    """

    number: int
    other_records: int
    reverse: bool = True
    deregister_node: bool = False

    @property
    def special(self) -> str:
        """What tells it from the others of its size; empty where nothing does."""
        told = {"one zone": not self.reverse, "deregister_node": self.deregister_node}
        return ", ".join(name for name, true in told.items() if true)


@dataclass(frozen=True)
class Burst:
    """What one burst cost.

    Attributes:
        cold: the first event of an execution environment.
        aws: calls beside the inventory's and Route 53's, Route 53's, and the inventory's.
    """

    setting: Setting
    cold: bool
    aws: int
    route53: int
    inventory: int
    chef: int
    consul: int
    seconds: float
    computing: Computing
    peak_memory: float
    by_operation: Counter[str]

    @property
    def number(self) -> int:
        return self.setting.number


def measure(servers: Servers, setting: Setting) -> list[Burst]:
    """The cold burst of one, and the burst of so many after it, in the same execution environment."""
    servers.reset(other_records=setting.other_records, reverse=setting.reverse)
    config = servers.config(deregister_node=setting.deregister_node)
    bursts = []
    with servers.environment(config) as environment:
        for cold, size in ((True, 1), (False, setting.number)):
            dead = servers.fleet(size)
            servers.reset_calls()
            handled = environment.handle(batch(dead))
            if handled.answer != {"batchItemFailures": []}:
                raise RuntimeError(f"{len(handled.answer['batchItemFailures'])} of {size} failed")
            calls = Counter(servers.aws.calls)
            bursts.append(
                Burst(
                    replace(setting, number=size),
                    cold,
                    aws=sum(n for c, n in calls.items() if not c.startswith(("route53:", "dynamodb:"))),
                    route53=sum(n for c, n in calls.items() if c.startswith("route53:")),
                    inventory=sum(n for c, n in calls.items() if c.startswith("dynamodb:")),
                    chef=servers.chef_door.total,
                    consul=servers.consul_door.total,
                    seconds=handled.seconds,
                    computing=Computing.of(size, handled.cpu_seconds, handled.cpu_by_part),
                    peak_memory=handled.peak_memory,
                    by_operation=calls + servers.chef_door.requests + servers.consul_door.requests,
                )
            )
            if left := servers.left(dead, nodes=setting.deregister_node):
                raise RuntimeError(f"the function left {len(left)}: {', '.join(left[:5])}")
            servers.tidy(dead)
    return bursts
