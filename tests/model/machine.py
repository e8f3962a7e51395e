"""The rules by which hypothesis makes histories of a fleet."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.fakes.ec2 import VPC
from tests.fakes.world import DOMAIN, FORWARD
from tests.model.fleet import ADDRESSES, OTHER_VPC, PUBLIC, Fault, Fleet, Message
from tests.model.ledger import OWN_CLIENT, Body, Setup, dotted

if TYPE_CHECKING:
    from collections.abc import Iterable

SYSTEMS = ("ec2", "route53", "chef", "consul", "inventory", "queue")
ERRORS = ("transient", "rights", "bug", "killed")
STRANGE = (
    "record", "value", "alias", "ttl", "external-dns", "pointer", "unrecord", "interface",
    "chef", "bare chef", "unnode", "unclient", "consul", "bare consul", "key",
)  # fmt: skip

# Few of each, so that collisions are frequent.
names = st.sampled_from(["web-1", "web-1", "web-1", "App", "web-2", OWN_CLIENT])
addresses = st.sampled_from(ADDRESSES)
numbers = st.integers(0, 5)
errors = st.sampled_from(ERRORS)
setups = st.builds(
    Setup,
    inventory=st.booleans(),
    hostname_records=st.booleans(),
    chef_name=st.sampled_from(["{tag:Name}", "{tag:Name}", None]),
    delete_client=st.sampled_from([True, True, True, False]),
    consul_name=st.sampled_from(["{tag:Name}", "{hostname}", None]),
    deregister=st.booleans(),
    backwards=st.booleans(),
)
boots = st.fixed_dictionaries(
    {
        "dns": st.sampled_from(
            ["upsert", "append", "upsert", "append", "cname", "multi", "public", "hostname", "none"]
        ),
        "ptr": st.booleans(),
        "chef": st.sampled_from(["ec2", "ec2", "bare", "client", "none"]),
        "chef_as": st.sampled_from(["name", "name", "a"]),
        "consul": st.sampled_from(["meta", "bare", "bare", "agentless", "none"]),
        "consul_as": st.sampled_from(["name", "hostname"]),
        "sessions": st.lists(
            st.sampled_from(["lock", "delete", "checked", "outside", "semaphore", "idle"]), max_size=2, unique=True
        ),
    }
)


class Histories(RuleBasedStateMachine):
    """A history of a small fleet. Every call of the function is judged; at the end all is settled."""

    told: ClassVar[Counter[str]] = Counter()

    fleet: Fleet

    @initialize(setup=setups, first=st.lists(boots, max_size=len(ADDRESSES)), told=st.booleans())
    def begin(self, setup: Setup, first: list[dict[str, object]], told: bool) -> None:
        """Some namesakes run already."""
        self.fleet = Fleet(setup)
        for boot, address in zip(first, ADDRESSES, strict=False):
            self._boot(self.fleet.launch("web-1", address), boot)
        if told:
            self.fleet.answer(self.fleet.queue[:])

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        if not self.fleet.broken:
            self.fleet.settle()
        self.told["histories"] += 1
        self.told.update(self.fleet.seen)

    def _count(self) -> None:
        self.told["steps"] += 1

    # Who there is

    def _bodies(self, *, alive: bool) -> list[Body]:
        return [b for b in self.fleet.ledger.bodies.values() if b.alive == alive and b.name != "anchor"]

    def _one(self, number: int, *, alive: bool) -> Body:
        bodies = self._bodies(alive=alive)
        return bodies[number % len(bodies)]

    def _some_live(self) -> bool:
        return bool(self._bodies(alive=True))

    def _some_died(self) -> bool:
        return bool(self._bodies(alive=False))

    def _some_wait(self) -> bool:
        return bool(self.fleet.queue)

    # The fleet

    @rule(
        name=st.one_of(names, names, names, st.none()),
        address=addresses,
        elsewhere=st.sampled_from([False, False, False, False, True]),
        public=st.sampled_from([None, None, *PUBLIC]),
        boot=boots,
    )
    def launch(
        self, name: str | None, address: str, elsewhere: bool, public: str | None, boot: dict[str, object]
    ) -> None:
        self._count()
        fleet, vpc_id = self.fleet, OTHER_VPC if elsewhere else VPC
        if not fleet.free(address, vpc_id) or len(self._bodies(alive=True)) >= 5:
            return
        if public and any(public in i.addresses for i in fleet.world.ec2.network_interfaces.values()):
            public = None
        self._boot(fleet.launch(name, address, vpc_id, public), boot)

    @precondition(_some_live)
    @rule(number=numbers, boot=boots)
    def boot_again(self, number: int, boot: dict[str, object]) -> None:
        self._count()
        self._boot(self._one(number, alive=True), boot)

    def _boot(self, body: Body, boot: dict[str, object]) -> None:
        self.fleet.boot(body, **boot)  # type: ignore[arg-type]

    @precondition(_some_live)
    @rule(number=numbers, lives_on=st.sampled_from([False, False, True]), lost=st.sampled_from([False, False, True]))
    def terminate(self, number: int, lives_on: bool, lost: bool) -> None:
        self._count()
        self.fleet.terminate(self._one(number, alive=True), agent_lives_on=lives_on)
        if lost:
            self.fleet.queue.pop()

    @precondition(_some_live)
    @rule(number=numbers, address=addresses, boot=boots, keep_address=st.booleans(), event_first=st.booleans())
    def replace(
        self, number: int, address: str, boot: dict[str, object], keep_address: bool, event_first: bool
    ) -> None:
        """An auto-scaled replacement bears the name, before or after the end of the old one is told."""
        self._count()
        old = self._one(number, alive=True)
        self.fleet.terminate(old)
        if event_first:
            self.fleet.answer(self.fleet.queue[-1:])
        address = old.address if keep_address else address
        if self.fleet.free(address, old.vpc_id):
            self._boot(self.fleet.launch(old.name, address, old.vpc_id), boot)

    @precondition(_some_live)
    @rule(number=numbers, what=st.sampled_from(["stop", "start", "crash", "name"]), name=names)
    def change(self, number: int, what: str, name: str) -> None:
        """An instance is stopped or started, its agents crash, or its Name tag comes late."""
        self._count()
        body, ec2 = self._one(number, alive=True), self.fleet.world.ec2
        if what == "crash":
            self.fleet.kill_agents(body)
        elif what == "name":
            if body.name is None:
                body.name = name
                ec2.tag(body.instance_id, Name=name)
        else:
            ec2.set_state(body.instance_id, "stopped" if what == "stop" else "running")

    @rule(
        number=numbers,
        what=st.sampled_from(["tags", "instance", "agents", "time"]),
        minutes=st.sampled_from([5, 60, 60 * 24 * 31]),
    )
    def fade(self, number: int, what: str, minutes: int) -> None:
        """EC2 forgets, agents that lived on die, time passes."""
        self._count()
        world = self.fleet.world
        if what == "time":
            world.time += timedelta(minutes=minutes)
            world.inventory.expire()
            world.consul.sync()
        elif self._some_died():
            body = self._one(number, alive=False)
            if what == "agents":
                self.fleet.kill_agents(body)
            elif body.instance_id in world.ec2.machines:
                forget = world.ec2.forget_tags if what == "tags" else world.ec2.forget
                forget(body.instance_id)

    # Strangers

    @rule(act=st.sampled_from(STRANGE), number=numbers)
    def meddle(self, act: str, number: int) -> None:
        """Somebody does by hand what looks like an instance's."""
        self._count()
        bodies = [b for b in self.fleet.ledger.bodies.values() if b.name != "anchor"]
        if bodies:
            body = bodies[number % len(bodies)]
            self.fleet.meddle(act, body.name or "web-1", body.address)

    # Delivery

    @precondition(_some_wait)
    @rule(picks=st.lists(st.integers(0, 9), min_size=1, max_size=4), keep=st.booleans(), rehearse=st.booleans())
    def deliver(self, picks: list[int], keep: bool, rehearse: bool) -> None:
        self._count()
        self.fleet.answer(self._picked(picks), keep=keep, rehearse=rehearse)

    @precondition(_some_wait)
    @rule(rehearse=st.booleans(), trouble=st.none() | st.tuples(errors, st.integers(1, 20)))
    def deliver_all(self, rehearse: bool, trouble: tuple[str, int] | None) -> None:
        self._count()
        self.fleet.fault = Fault(trouble[0], countdown=trouble[1]) if trouble else None
        self.fleet.answer(self.fleet.queue[:], rehearse=rehearse)
        self.fleet.fault = None

    @rule(number=st.integers(0, 9), what=st.sampled_from(["lost", "running", "terminated"]))
    def go_astray(self, number: int, what: str) -> None:
        """An event is lost, or comes late, a second time, or is not true."""
        self._count()
        queue = self.fleet.queue
        bodies = [b for b in self.fleet.ledger.bodies.values() if b.name != "anchor"]
        if what != "lost" and bodies:
            self.fleet.emit(what, bodies[number % len(bodies)])
        elif queue and queue[number % len(queue)].receive_count == 1:  # once in the queue, none is lost
            del queue[number % len(queue)]

    def _picked(self, picks: Iterable[int]) -> list[Message]:
        queue = self.fleet.queue
        return [queue[p] for p in dict.fromkeys(pick % len(queue) for pick in picks)]

    # Faults

    @precondition(_some_wait)
    @rule(
        picks=st.lists(st.integers(0, 9), min_size=1, max_size=4),
        error=errors,
        at=st.one_of(
            st.integers(1, 12), st.integers(5, 25), st.frozensets(st.sampled_from(SYSTEMS), min_size=1, max_size=2)
        ),
    )
    def deliver_with_fault(self, picks: list[int], error: str, at: int | frozenset[str]) -> None:
        self._count()
        self.fleet.fault = Fault(error, countdown=at) if isinstance(at, int) else Fault(error, systems=at)
        self.fleet.answer(self._picked(picks))
        self.fleet.fault = None

    @precondition(_some_wait)
    @rule(
        picks=st.lists(st.integers(0, 9), min_size=1, max_size=3),
        act=st.sampled_from(["boot", "consul", "consul", "ttl", "value", "record", "key", "unrecord"]),
        boot=boots,
        after=st.integers(0, 5),
    )
    def deliver_with_race(self, picks: list[int], act: str, boot: dict[str, object], after: int) -> None:
        """While the function is between its look and its change, a living namesake or a stranger writes."""
        self._count()
        messages = self._picked(picks)
        ended = [self.fleet.ledger.bodies[m.instance_id] for m in messages if m.kind == "terminated"]
        if ended:
            self.fleet.race = lambda: self._race(ended[0], act, boot)
            self.fleet.race_after = after
        self.fleet.answer(messages)
        self.fleet.race = None

    def _race(self, ended: Body, act: str, boot: dict[str, object]) -> None:
        if act not in ("boot", "consul"):
            self.fleet.meddle(act, ended.name or "web-1", ended.address)
            return
        for body in self._bodies(alive=True):
            plain = (FORWARD, dotted(f"{body.name}.{DOMAIN}"), "A", "")
            same = self.fleet.records().get(plain) == (body.address,)  # to write that again cannot be noticed
            if body.name == ended.name and act == "consul":
                self._boot(body, {**boot, "chef": "none", "dns": "none", "consul": "bare", "consul_as": "name"})
                return
            if body.name == ended.name:
                self._boot(body, {**boot, "chef": "none", **({"dns": "none"} if same else {})})
                return

    # Operators, and the sweep

    @precondition(_some_died)
    @rule(number=numbers)
    def operate(self, number: int) -> None:
        self._count()
        self.fleet.operate_twice(self._one(number, alive=False))

    @precondition(_some_live)
    @rule(number=numbers, dry_run=st.booleans())
    def operate_on_the_living(self, number: int, dry_run: bool) -> None:
        self._count()
        self.fleet.operate(self._one(number, alive=True), dry_run=dry_run)

    @rule(dry_run=st.booleans())
    def sweep(self, dry_run: bool) -> None:
        self._count()
        self.fleet.sweep(dry_run=dry_run)
