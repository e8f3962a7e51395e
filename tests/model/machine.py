"""The rules for hypothesis to generate histories of a fleet."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ec2_decommission.config import ExternalDns, InstanceFilter
from ec2_decommission.place import Place
from tests.model.fleet import (
    ADDRESSES,
    ANCHOR,
    NO_FILTER,
    PLACES,
    PRIVILEGED,
    PUBLIC,
    VPCS,
    Boot,
    Message,
    foreign_id,
)
from tests.model.history import BOOT, Fault, History, Race
from tests.model.ledger import OWN_CLIENT, Body, Setup

if TYPE_CHECKING:
    from collections.abc import Iterable

SYSTEMS = ("ec2", "route53", "chef", "consul", "inventory", "queue")
ERRORS = ("transient", "rights", "bug", "lost", "killed")
STRANGE = (
    "record", "value", "alias", "ttl", "mail", "external-dns", "sealed", "keep", "pointer", "unrecord", "interface",
    "chef", "foreign chef", "bootstrap", "unnode", "unclient", "consul", "foreign consul", "consul twin", "key",
)  # fmt: skip
PROD, KEPT = {"env": "prod"}, {"env": "prod", "keep": "yes"}

# Few of each, so that collisions are frequent.
names = st.sampled_from(["web-1", "web-1", "web-1", "App", "web-2", "keep-1", "acme", OWN_CLIENT])
numbers = st.integers(0, 5)
errors = st.sampled_from(ERRORS)
filters = st.sampled_from(
    [
        NO_FILTER,
        NO_FILTER,
        InstanceFilter(exclude_tags={"keep": ("yes",)}),
        InstanceFilter(include_tags={"env": ("prod",)}),
    ]
)
setups = st.builds(
    Setup,
    inventory=st.sampled_from([True, True, True, False]),
    hostname_records=st.booleans(),
    external_dns=st.sampled_from(
        [
            None,
            ExternalDns(txt_prefix="xdns-"),
            ExternalDns(txt_suffix="-xdns"),
            ExternalDns(txt_prefix="x-%{record_type}-"),
        ]
    ),
    chef_name=st.sampled_from(["{tag:Name}", "{tag:Name}", None]),
    delete_client=st.sampled_from([True, True, True, False]),
    consul_name=st.sampled_from(["{tag:Name}", "{hostname}", None]),
    deregister=st.booleans(),
    backwards=st.booleans(),
)
boots = st.builds(
    Boot,
    dns=st.sampled_from(
        ["upsert", "upsert", "append", "cname", "idname", "id", "www", "multi", "public", "hostname", "none"]
    ),
    ptr=st.booleans(),
    chef=st.sampled_from(["ec2", "ec2", "bare", "client", "none"]),
    chef_as=st.sampled_from(["name", "name", "lower", "fqdn", "other"]),
    consul=st.sampled_from(["meta", "bare", "bare", "agentless", "none"]),
    consul_as=st.sampled_from(["name", "hostname"]),
    sessions=st.lists(
        st.sampled_from(["lock", "delete", "checked", "outside", "semaphore", "idle"]), max_size=2, unique=True
    ).map(tuple),
)
slowness = st.sampled_from(
    [{}, {}, {"chef": 3.0}, {"chef": 9.0}, {"route53": 8.0}, {"consul": 4.0}, {"chef": 9.0, "route53": 4.0}]
)


class Histories(RuleBasedStateMachine):
    """A history of a small fleet. The oracle judges every call of the function. The history settles at the end."""

    told: ClassVar[Counter[str]] = Counter()

    fleet: History

    @initialize(
        setup=setups, instance_filter=filters, first=st.lists(boots, max_size=len(ADDRESSES)), told=st.booleans()
    )
    def begin(self, setup: Setup, instance_filter: InstanceFilter, first: list[Boot], told: bool) -> None:
        """Starts with a few running namesakes."""
        self.fleet = History(setup, instance_filter)
        for boot, address in zip(first, ADDRESSES, strict=False):
            self.fleet.boot(self.fleet.launch("web-1", address, tags=PROD), boot)
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

    # Instances

    def _bodies(self, *, alive: bool | None = None) -> list[Body]:
        return [b for b in self.fleet.ledger.bodies.values() if alive in (None, b.alive) and b.name != ANCHOR]

    def _one(self, number: int, *, alive: bool | None = None) -> Body:
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
        name=names | names | names | st.none(),
        address=st.sampled_from(ADDRESSES),
        where=st.sampled_from([VPCS[0], VPCS[0], *VPCS]),
        public=st.sampled_from([None, *PUBLIC]),
        tags=st.sampled_from([PROD, PROD, {}, KEPT]),
        boot=boots,
    )
    def launch(
        self,
        name: str | None,
        address: str,
        where: tuple[Place, str],
        public: str | None,
        tags: dict[str, str],
        boot: Boot,
    ) -> None:
        self._count()
        if self.fleet.free(address, where[1]):
            public = public if public and self.fleet.free(public) else None
            tags = tags if name else PROD
            self.fleet.boot(self.fleet.launch(name, address, *where, public=public, tags=tags), boot)

    @rule(name=names, place=st.sampled_from(PLACES))
    def fail_launch(self, name: str, place: Place) -> None:
        self._count()
        self.fleet.fail_launch(name, place)

    @precondition(_some_live)
    @rule(number=numbers, boot=boots)
    def boot(self, number: int, boot: Boot) -> None:
        self._count()
        self.fleet.boot(self._one(number, alive=True), boot)

    @precondition(_some_live)
    @rule(
        number=numbers,
        agent_lives_on=st.sampled_from([False, False, True]),
        forgets=st.sampled_from([0, 0, 1, 2, None]),
        late=st.sampled_from([{}, {}, {"keep": "yes"}, {"env": "test"}]),
    )
    def end(self, number: int, agent_lives_on: bool, forgets: int | None, late: dict[str, str]) -> None:
        """Terminates an instance, perhaps after a late tag. EC2 drops some or all of its tags."""
        self._count()
        body = self._one(number, alive=True)
        self.fleet.tag(body, **late)
        self.fleet.end(body, agent_lives_on=agent_lives_on)
        self.fleet.forget_tags(body, forgets)

    @precondition(_some_live)
    @rule(
        number=numbers,
        what=st.sampled_from(
            ["stop", "start", "rename", "keep", "env", "crash", "associate", "associate", "drop", "release"]
        ),
        name=names,
    )
    def live_on(self, number: int, what: str, name: str) -> None:
        """Adds late tags, changes names, states and addresses, or crashes agents."""
        self._count()
        body = self._one(number, alive=True)
        match what:
            case "stop":
                self.fleet.stop(body)
            case "start":
                self.fleet.start(body)
            case "rename":
                self.fleet.rename(body, name)
            case "keep" | "env":
                self.fleet.tag(body, **{what: {"keep": "yes", "env": "prod"}[what]})
            case "crash":
                self.fleet.kill_agents(body)
            case _:
                self.fleet.elastic_ip(body, what)

    @rule(
        number=numbers,
        what=st.sampled_from(["tags", "instance", "agents", "time", "lag", "deny", "allow"]),
        minutes=st.sampled_from([5, 60, 60 * 24 * 31]),
        place=st.sampled_from(PLACES),
    )
    def fade(self, number: int, what: str, minutes: int, place: Place) -> None:
        """EC2 drops an instance, an agent dies, time passes, Chef's index falls behind, or a place denies calls."""
        self._count()
        fleet, world = self.fleet, self.fleet.world
        match what:
            case "time":
                world.time += timedelta(minutes=minutes)
                fleet.expire()
                world.consul.sync()
            case "lag":
                world.chef.lagging = True
            case "deny":
                fleet.denied.add(place)
            case "allow":
                fleet.denied.clear()
            case _ if not self._some_died():
                return
            case "agents":
                fleet.kill_agents(self._one(number, alive=False))
            case "tags":
                fleet.forget_tags(self._one(number, alive=False))
            case "instance":
                fleet.forget(self._one(number, alive=False))

    @rule(instance_filter=filters)
    def reconfigure(self, instance_filter: InstanceFilter) -> None:
        self._count()
        self.fleet.reconfigure(instance_filter)

    # Strangers

    @rule(act=st.sampled_from(STRANGE), number=numbers)
    def meddle(self, act: str, number: int) -> None:
        """A stranger makes changes that look like an instance's."""
        self._count()
        if self._bodies():
            body = self._one(number)
            self.fleet.meddle(act, body.name or "web-1", body)

    @precondition(_some_live)
    @rule(number=numbers, victim=numbers)
    def pose(self, number: int, victim: int) -> None:
        """An instance creates a Chef node under the name of another instance's client."""
        self._count()
        name = self._one(victim).name
        if name and name not in PRIVILEGED and name not in self.fleet.world.chef.node_objects:
            self.fleet.converge(self._one(number, alive=True), name)

    # Delivery

    @precondition(_some_wait)
    @rule(
        picks=st.lists(st.integers(0, 9), min_size=1, max_size=4),
        keep=st.booleans(),
        rehearse=st.booleans(),
        slow=slowness,
    )
    def deliver(self, picks: list[int], keep: bool, rehearse: bool, slow: dict[str, float]) -> None:
        self._count()
        self.fleet.slow = slow
        self.fleet.answer(self._picked(picks), keep=keep, rehearse=rehearse)
        self.fleet.slow = {}

    @precondition(_some_wait)
    @rule(rehearse=st.booleans(), trouble=st.none() | st.tuples(errors, st.integers(1, 40)))
    def deliver_all(self, rehearse: bool, trouble: tuple[str, int] | None) -> None:
        self._count()
        self.fleet.fault = Fault(trouble[0], countdown=trouble[1]) if trouble else None
        self.fleet.answer(self.fleet.queue[:], rehearse=rehearse)
        self.fleet.fault = None

    @rule(number=st.integers(0, 9), what=st.sampled_from(["lost", "running", "terminated"]))
    def go_astray(self, number: int, what: str) -> None:
        """An event is lost, late, duplicated or false."""
        self._count()
        queue = self.fleet.queue
        if what != "lost" and self._bodies():
            self.fleet.emit(what, self._one(number))
        elif queue:
            del queue[number % len(queue)]

    @rule(number=numbers, kind=st.sampled_from(["running", "terminated"]), known=st.booleans())
    def foreign_event(self, number: int, kind: str, known: bool) -> None:
        self._count()
        mine = known and self._bodies()
        self.fleet.foreign_event(self._one(number).instance_id if mine else foreign_id("web-1"), kind)

    def _picked(self, picks: Iterable[int]) -> list[Message]:
        queue = self.fleet.queue
        return [queue[p] for p in dict.fromkeys(pick % len(queue) for pick in picks)]

    # Faults and races

    @precondition(_some_wait)
    @rule(
        picks=st.lists(st.integers(0, 9), min_size=1, max_size=4),
        error=errors,
        at=st.integers(1, 60) | st.frozensets(st.sampled_from(SYSTEMS), min_size=1, max_size=2),
    )
    def deliver_with_fault(self, picks: list[int], error: str, at: int | frozenset[str]) -> None:
        self._count()
        self.fleet.fault = Fault(error, countdown=at) if isinstance(at, int) else Fault(error, systems=at)
        self.fleet.answer(self._picked(picks))
        self.fleet.fault = None

    @precondition(_some_died)
    @rule(
        number=numbers,
        act=st.sampled_from(["replace", "replace", "twin", "rename", "boot", "boot", *STRANGE]),
        where=st.sampled_from(VPCS),
        boot=boots,
        call=st.integers(0, 60),
        slow=slowness,
    )
    def deliver_with_race(
        self, number: int, act: str, where: tuple[Place, str], boot: Boot, call: int, slow: dict[str, float]
    ) -> None:
        """A replacement, a live namesake or a stranger writes while the function runs."""
        self._count()
        fleet, body = self.fleet, self._one(number, alive=False)
        if not any(m.instance_id == body.instance_id for m in fleet.queue):
            fleet.emit("terminated", body)
        fleet.races.append(Race(lambda: self._race(act, body, where, boot), call))
        fleet.slow = slow
        fleet.answer(fleet.queue[:])
        fleet.slow = {}

    def _race(self, act: str, dead: Body, where: tuple[Place, str], boot: Boot) -> None:
        fleet = self.fleet
        if act in ("replace", "twin"):
            place, vpc_id = (dead.place, dead.vpc_id) if act == "replace" else where
            if dead.address and fleet.free(dead.address, vpc_id):
                new = fleet.launch(dead.name, dead.address, place, vpc_id, tags=dead.tags or PROD)
                fleet.after(BOOT, lambda: fleet.boot(new, boot))
        elif act in ("rename", "boot"):
            others = self._bodies(alive=True) if act == "rename" else list(fleet.namesakes(dead.name))
            if others and act == "rename" and dead.name:
                fleet.rename(others[0], dead.name)
                fleet.after(BOOT, lambda: fleet.boot(others[0], boot))
            elif others:
                fleet.boot(others[0], boot)
        else:
            fleet.meddle(act, dead.name or "web-1", dead)

    # Operators, and the sweep

    @rule(
        number=numbers,
        place=st.sampled_from([None, None, "own", "own", *PLACES]),
        dry_run=st.booleans(),
        foreign=st.sampled_from([False, False, False, True]),
    )
    def operate(self, number: int, place: Place | str | None, dry_run: bool, foreign: bool) -> None:
        self._count()
        fleet = self.fleet
        if foreign or not self._bodies():
            fleet.operate(foreign_id("web-1"), dry_run=dry_run)
            return
        body = self._one(number)
        recorded = body.instance_id in fleet.world.inventory.items
        # A wrong place is used only if the inventory has the right one: the function queries EC2 only in that place.
        where = place if isinstance(place, Place) and recorded else None if place is None else body.place
        if body.alive:
            fleet.operate(body.instance_id, where, dry_run=dry_run)
        else:
            fleet.operate_twice(body, where)

    @rule(place=st.sampled_from(PLACES), dry_run=st.booleans())
    def sweep(self, place: Place, dry_run: bool) -> None:
        self._count()
        self.fleet.sweep(place, dry_run=dry_run)
