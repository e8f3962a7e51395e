"""Finds who has an address or a name now. Only this module queries EC2 about live instances.

A question goes to every served place in one round. A change relies on the last complete round, which must have ended
less than five seconds before the change is sent: ``Round.guard`` is called right before each changing request. The
answer of a round is a ``Living``: plain data, so that the plan functions of the steps stay pure.

The rules are the second and third of "What counts as proof" in docs/proof.md.
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .errors import DecommissionError, TransientError, about
from .name_filters import name_filters
from .together import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .clients.ec2 import Ec2, Interface
    from .instance import Instance
    from .place import Place
    from .templates import Template
    from .together import Together

K = TypeVar("K")
V = TypeVar("V")

# A replacement instance needs longer than this to boot and register anywhere.
FRESH_SECONDS = 5.0
_PLACES_AT_ONCE = 16


class StaleAnswer(TransientError):
    """The last round ended too long ago to rely on for a change. Query again."""


@dataclass(frozen=True)
class Question:
    """A query for every served place.

    Attributes:
        addresses: IPv4 and IPv6 addresses in their shortest form.
        names: pairs of a template and a lower-case name: which live instances does the template give that name?

    Example:
        >>> Question(frozenset({"10.0.0.5"})) | Question(frozenset({"10.0.0.6"})) == Question(
        ...     frozenset({"10.0.0.5", "10.0.0.6"})
        ... )
        True
    """

    addresses: frozenset[str] = frozenset()
    names: frozenset[tuple[Template, str]] = frozenset()

    def __or__(self, other: Question) -> Question:
        return Question(self.addresses | other.addresses, self.names | other.names)

    def __bool__(self) -> bool:
        return bool(self.addresses or self.names)


@dataclass(frozen=True)
class Holder:
    """A network interface that has an address now. ``instance`` is the live instance that it is attached to."""

    place: Place
    interface: Interface
    instance: Instance | None = None

    @property
    def owner(self) -> str:
        """A description of who has the address."""
        return f"{self.interface.owner} in {self.place}"


@dataclass(frozen=True)
class Living:
    """The answer of one round.

    Attributes:
        asked: the query. Only its addresses and names can be looked up.
        holders: the interfaces that have each address; no entry if there are none.
        elastic_ips: the place in which an address is allocated as an Elastic IP.
        bearers: the live instances for which a template gives a name.
        errors: the places that could not be queried.
    """

    asked: Question = Question()
    holders: Mapping[str, tuple[Holder, ...]] = field(default_factory=dict)
    elastic_ips: Mapping[str, Place] = field(default_factory=dict)
    bearers: Mapping[tuple[Template, str], tuple[Instance, ...]] = field(default_factory=dict)
    errors: Mapping[Place, DecommissionError] = field(default_factory=dict)

    @property
    def error(self) -> DecommissionError | None:
        """Why the answer is incomplete; None if it is complete. If incomplete, removals need a proof by id."""
        if not self.errors:
            return None
        place, error = next(iter(sorted(self.errors.items())))
        others = f" (and {len(self.errors) - 1} more places could not be asked)" if len(self.errors) > 1 else ""
        return about(f"cannot ask {place} who has it now{others}", error)

    def owner(self, instance: Instance, address: str, has_name: Callable[[Instance], bool]) -> str | None:
        """Describes who else has an address of the instance now; None if nobody does.

        A public address (including IPv6) belongs to someone else if any interface in a served place has it, or if it
        is an Elastic IP that is still allocated. A private address belongs to someone else if an interface in the
        instance's VPC has it (in any VPC, if the instance's VPC is unknown), or if a live instance anywhere has both
        the address and the name to be removed: private ranges may overlap, and then the name decides.

        Args:
            instance: the dead instance.
            address: an address recorded for the instance.
            has_name: whether a live instance has the name of the record or node in question.

        Raises:
            LookupError: the query did not include the address.
        """
        if address not in self.asked.addresses:
            raise LookupError(address)
        if address in self.elastic_ips:
            return f"account {self.elastic_ips[address].account_id}, which still has it allocated as an Elastic IP"
        private = not _is_public(instance, address)
        for holder in self.holders.get(address, ()):
            vpc_id = holder.interface.vpc_id
            if not private or instance.vpc_id in (None, vpc_id) or vpc_id is None:
                return holder.owner
            if holder.instance is not None and has_name(holder.instance):
                return f"{holder.owner} (another VPC, the same name)"
        return None

    def bearer(self, template: Template, name: str) -> str | None:
        """Returns a live instance for which the template gives this name, ignoring case; None if there is none.

        Raises:
            LookupError: the query did not include the name.
        """
        key = (template, name.lower())
        if key not in self.asked.names:
            raise LookupError(name)
        bearers = self.bearers.get(key, ())
        return f"{bearers[0].instance_id} in {bearers[0].place}" if bearers else None


def _is_public(instance: Instance, address: str) -> bool:
    if address in instance.public_ips or ":" in address:
        return True
    # A VPC may use public ranges as its own.
    return address not in instance.private_ips and ipaddress.ip_address(address).is_global


@dataclass(frozen=True)
class Round:
    """One complete round of queries, and when it ended."""

    living: Living
    ended_at: float
    now: Callable[[], float] = field(repr=False, compare=False, default=time.monotonic)

    def guard(self) -> None:
        """Raises StaleAnswer if the round ended too long ago to rely on for a change."""
        age = self.now() - self.ended_at
        if age >= FRESH_SECONDS:
            raise StaleAnswer(f"EC2's answer about live instances is {age:.1f} s old; query EC2 again first")


class Live:
    """Queries every served place.

    Args:
        places: the EC2 client of each served place.
        together: queries several places concurrently.
        now: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        places: Mapping[Place, Ec2],
        together: Together = in_turn,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self._together = together
        self._now = now

    def ask(self, question: Question, gone: Iterable[str] = ()) -> Round:
        """Queries all places once. The error of a place that fails is in the answer, not raised.

        Args:
            gone: ids of instances that are known to have ended. EC2 shows their interfaces for a moment longer.
        """
        if not question:
            return Round(Living(question), self._now(), self._now)
        answers: dict[Place, _Answer] = {}
        errors: dict[Place, DecommissionError] = {}
        gone = frozenset(gone)

        def ask(place: Place) -> None:
            try:
                answers[place] = _ask_place(self._places[place], place, question, gone)
            except DecommissionError as error:
                errors[place] = error

        self._together([partial(ask, place) for place in self._places], _PLACES_AT_ONCE)
        whole = [answers[place] for place in self._places if place in answers]
        living = Living(
            question,
            _joined(answer.holders for answer in whole),
            {address: answer.place for answer in whole for address in answer.elastic_ips},
            _joined(answer.bearers for answer in whole),
            errors,
        )
        return Round(living, self._now(), self._now)


@dataclass(frozen=True)
class _Answer:
    place: Place
    holders: Mapping[str, tuple[Holder, ...]]
    elastic_ips: frozenset[str]
    bearers: Mapping[tuple[Template, str], tuple[Instance, ...]]


def _ask_place(ec2: Ec2, place: Place, question: Question, gone: frozenset[str]) -> _Answer:
    interfaces = ec2.interfaces(sorted(question.addresses))
    attached = {i.instance_id for some in interfaces.values() for i in some if i.instance_id} - gone
    living: Mapping[str | None, Instance] = {
        instance_id: description.instance()
        for instance_id, description in ec2.describe(sorted(attached)).items()
        if description.lives
    }
    holders = {
        address: tuple(
            Holder(place, interface, living.get(interface.instance_id))
            for interface in some
            if interface.instance_id not in gone
        )
        for address, some in interfaces.items()
    }
    public = [a for a in question.addresses if ipaddress.ip_address(a).is_global]
    return _Answer(place, holders, ec2.elastic_ips(sorted(public)), _bearers(ec2, question, gone))


def _bearers(ec2: Ec2, question: Question, gone: frozenset[str]) -> dict[tuple[Template, str], tuple[Instance, ...]]:
    names_by_template: dict[Template, set[str]] = {}
    for template, name in question.names:
        names_by_template.setdefault(template, set()).add(name)
    found: dict[tuple[Template, str], dict[str, Instance]] = {}
    for template, names in names_by_template.items():
        for filters in name_filters(template, names):
            for description in ec2.living(filters):
                instance = description.instance()
                name = (template.render(instance) or "").lower()
                if name in names and instance.instance_id not in gone:
                    found.setdefault((template, name), {})[instance.instance_id] = instance
    return {key: tuple(instances.values()) for key, instances in found.items()}


def _joined(parts: Iterable[Mapping[K, tuple[V, ...]]]) -> dict[K, tuple[V, ...]]:
    """Merges the values of all parts, by key."""
    joined: dict[K, tuple[V, ...]] = {}
    for part in parts:
        for key, values in part.items():
            if values:
                joined[key] = joined.get(key, ()) + values
    return joined
