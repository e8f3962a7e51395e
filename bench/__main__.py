"""How many requests a burst of terminations costs, counted at the doors of real servers.

Run as ``python -m bench``: bursts of 1, 10 and 100 instances, each in one batch on a cold environment. Requests per
termination is what the vendors limit, and what one run compares with another; times of this machine are not shown.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.fleet import Servers, batch

SIZES = (1, 10, 100)


def measure(servers: Servers, number: int) -> Counter[str]:
    """The requests of one burst, by system. Raises RuntimeError if something of the dead is left."""
    servers.reset(other_records=100)
    dead = servers.fleet(number)
    servers.reset_calls()
    with servers.environment(servers.config()) as environment:
        answer = environment.handle(batch(dead)).answer
    calls = Counter(f"AWS {call.partition(':')[0]}" for call in servers.aws.calls.elements())
    calls["Chef"], calls["Consul"] = servers.chef_door.total, servers.consul_door.total
    left = servers.left(dead, nodes=False)
    servers.tidy(dead)
    if left or answer != {"batchItemFailures": []}:
        raise RuntimeError(f"the burst of {number} was not cleaned up: {answer}, {left}")
    return calls


def main() -> None:
    """Prints the table of requests per termination."""
    with tempfile.TemporaryDirectory() as directory, Servers(Path(directory)) as servers:
        counted = {number: measure(servers, number) for number in SIZES}
    table = Table(title="Requests per termination", title_justify="left")
    table.add_column("System")
    for number in SIZES:
        table.add_column(f"{number} at once", justify="right")
    for system in sorted({system for calls in counted.values() for system in calls}):
        table.add_row(system, *(f"{counted[number][system] / number:.2f}" for number in SIZES))
    Console().print(table)


if __name__ == "__main__":
    main()
