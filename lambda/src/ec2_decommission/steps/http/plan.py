"""Decides which items belong to a dead instance, and on what proof. Pure: no call, no clock.

An item is the instance's by one of two proofs, and for no other reason:

1. **By id**: the value of ``prove.field`` is the instance id.
2. **By recorded address**: the value is the private address or private DNS name that was recorded for the instance,
   and nobody else has it now. The step does not know names of items, so a live instance with the same private address
   in another VPC protects the item, like one in the same VPC.

The comparison is exact, whatever the server's search did: only text can be equal, and it is never trimmed, unquoted
or changed in case. A reason quotes an item only at its end: ``step`` masks secrets in the reason, then shortens it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import about
from ...instance import own_address
from ...live import Question
from ...templates import Template
from ..base import Findings, Left, Removal
from .expression import ExpressionError, as_text, is_true, one_line
from .settings import INSTANCE_ID, PRIVATE_DNS_NAME
from .template import variants

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ...errors import DecommissionError
    from ...instance import Instance
    from ...live import Living
    from ..base import Finding
    from .observe import Snapshot
    from .settings import HttpStepSettings

KIND = "http_item"

_DNS_NAME = Template(PRIVATE_DNS_NAME)
# EC2 forms private DNS names from the address or from the instance id.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
_NAME_OF_ADDRESS = re.compile(r"ip-(\d+)-(\d+)-(\d+)-(\d+)")
_ACTIONS = {"DELETE": "delete", "PUT": "change", "PATCH": "change"}
_MOST_STRANGERS = 10  # other owners' items that are listed individually


@dataclass(frozen=True)
class Handle:
    """An item to be removed, with the id to send."""

    item_id: str
    item: Any


def unknown(settings: HttpStepSettings, instance: Instance) -> str | None:
    """Returns why nothing can be found or removed for an instance: a value is not known or cannot be sent."""
    if _expected(settings, instance) is None:
        return f"prove.equals: the value of {settings.prove.equals} is not known"
    if missing := settings.remove.request.missing(latest(settings, instance)):
        return f"remove: the value of {missing[0]} is not known"
    finds = [settings.find.request.problem(v) for v in variants(instance, settings.find.request.tags)]
    return f"find: {finds[0]}" if all(finds) else None


def question(settings: HttpStepSettings, instances: Iterable[Instance]) -> Question:
    """Returns the query about addresses and names that prove the items. Proofs by id need no query."""
    asked = Question()
    for instance in instances if settings.prove.equals != INSTANCE_ID else ():
        address, name = _address(settings, instance), _expected(settings, instance)
        asked |= Question(frozenset({address} if address else ()))
        if settings.prove.equals == PRIVATE_DNS_NAME and name:
            asked |= Question(names=frozenset({(_DNS_NAME, name.lower())}))
    return asked


def in_question(
    settings: HttpStepSettings, instances: Mapping[str, Instance], snapshot: Snapshot
) -> Sequence[Instance]:
    """Returns the instances with an item whose proof depends on who has their addresses now."""
    return [
        instance
        for instance_id, instance in instances.items()
        if (found := snapshot.found.get(instance_id))
        and not all(_stranger(settings, instance, item) for item in found.items)
    ]


def plan(
    settings: HttpStepSettings, instances: Mapping[str, Instance], snapshot: Snapshot, living: Living
) -> Mapping[str, Finding]:
    """Decides what to remove and what to keep, for each instance. Removes an item once, with its first instance."""
    owners: dict[str, str] = {}
    findings: dict[str, Finding] = {}
    for instance_id, instance in instances.items():
        collected = Findings()
        if reason := unknown(settings, instance):
            collected.stays(f"items of {instance_id}", reason)
        elif found := snapshot.found.get(instance_id):
            collected.errors += found.errors
            for decision in _decide(settings, instance, found.items, living):
                _collect(collected, decision, instance_id, owners)
        findings[instance_id] = collected.finding()
    return findings


def latest(settings: HttpStepSettings, instance: Instance) -> Instance:
    """Returns the instance with the latest known value of each tag that ``remove`` uses."""
    return variants(instance, settings.remove.request.tags)[0]


def id_of(settings: HttpStepSettings, item: Any) -> str | None:
    """Returns an item's id as text; None if it cannot be sent."""
    try:
        return as_text(settings.find.id.search(item))
    except ExpressionError:
        return None


def _collect(
    collected: Findings, decision: Removal | Left | DecommissionError, instance_id: str, owners: dict[str, str]
) -> None:
    if isinstance(decision, Removal):
        owner = owners.setdefault(decision.handle.item_id, instance_id)
        if owner == instance_id:
            collected.removals.append(decision)
        else:
            collected.stays(decision.target, f"it is removed with {owner}")
    elif isinstance(decision, Left):
        collected.left.append(decision)
    else:
        collected.errors.append(decision)


def _decide(
    settings: HttpStepSettings, instance: Instance, items: Iterable[Any], living: Living
) -> Sequence[Removal | Left | DecommissionError]:
    """Decides about each item in the results of one instance's finds."""
    own: list[Any] = []
    strangers: list[Left] = []
    stranger_ids: set[str] = set()
    for item in items:
        if reason := _stranger(settings, instance, item):
            strangers.append(Left(_target(settings, item), reason))
            stranger_ids.update(filter(None, [id_of(settings, item)]))
        else:
            own.append(item)
    strangers = list(dict.fromkeys(strangers))
    if (more := len(strangers) - _MOST_STRANGERS) > 0:
        strangers[_MOST_STRANGERS:] = [Left(f"{more} more items", f"they are not {instance.instance_id}'s either")]
    return [*_decide_own(settings, instance, own, stranger_ids, living), *strangers]


def _decide_own(
    settings: HttpStepSettings,
    instance: Instance,
    items: Iterable[Any],
    stranger_ids: Collection[str],
    living: Living,
) -> Sequence[Removal | Left | DecommissionError]:
    """Decides about the items with the instance's value. Two finds, or two pages, may return the same item."""
    decisions: dict[str | None, Removal | Left | DecommissionError] = {}
    for item in items:
        item_id = id_of(settings, item)
        reason = (
            _kept(settings, item)
            or _without_id(settings, item)
            or _shares_id(item_id, stranger_ids)
            or _cannot_be_sent(settings, instance, item, item_id)
        )
        if reason:
            decisions[item_id] = Left(_target(settings, item), reason)
        elif not isinstance(decisions.get(item_id), Left):
            decisions[item_id] = _proven(settings, instance, Handle(str(item_id), item), living)
    return list(decisions.values())


# Who owns an item


def _stranger(settings: HttpStepSettings, instance: Instance, item: Any) -> str | None:
    """Guard of both rules: the field must equal the instance's value exactly. Only text can be equal."""
    try:
        value = settings.prove.field.search(item)
    except ExpressionError as error:
        return f"prove.field: {error}"
    expected = _expected(settings, instance)
    if isinstance(value, str) and value == expected:
        return None
    return f"its {settings.prove.field.text} is not {expected}, but {one_line(value) or 'empty'}"


def _proven(
    settings: HttpStepSettings, instance: Instance, handle: Handle, living: Living
) -> Removal | Left | DecommissionError:
    """Proves an item with the instance's value: by id, or by an address that nobody else has now."""
    target = _target(settings, handle.item)
    proof = f"its {settings.prove.field.text} is {_expected(settings, instance)}"
    if settings.prove.equals != INSTANCE_ID:
        if living.error:
            return about(target, living.error)
        if owner := _other_owner(settings, instance, living):
            return Left(target, owner)
        proof += f", which was recorded for {instance.instance_id}, and nobody else has it now"
    action = _ACTIONS.get(settings.remove.request.method, "remove")
    document = handle.item if isinstance(handle.item, dict) else {"item": handle.item}
    return Removal(action, target, proof, KIND, document, handle)


def _other_owner(settings: HttpStepSettings, instance: Instance, living: Living) -> str | None:
    """Rule 2: returns who else has the address or DNS name now. Any live instance may have the item's name."""
    address = _address(settings, instance)
    if address and (owner := living.owner(instance, address, lambda _: True)):
        return f"{address} now belongs to {owner}"
    name = str(_expected(settings, instance))
    if settings.prove.equals == PRIVATE_DNS_NAME and (bearer := living.bearer(_DNS_NAME, name)):
        return f"{name} now belongs to {bearer}"
    return None


def _expected(settings: HttpStepSettings, instance: Instance) -> str | None:
    """Returns the instance's value of ``prove.equals``."""
    return instance.instance_id if settings.prove.equals == INSTANCE_ID else _recorded(settings, instance)


def _recorded(settings: HttpStepSettings, instance: Instance) -> str | None:
    by_name = settings.prove.equals == PRIVATE_DNS_NAME
    return instance.private_dns_name if by_name else instance.private_ip


def _address(settings: HttpStepSettings, instance: Instance) -> str | None:
    """Returns the private address that the proof relies on; None for a DNS name formed from the instance id."""
    if settings.prove.equals != PRIVATE_DNS_NAME:
        return instance.private_ip
    label = (instance.private_dns_name or "").partition(".")[0]
    if label == instance.instance_id:
        return None
    match = _NAME_OF_ADDRESS.fullmatch(label)
    return (own_address(4, ".".join(match.groups())) if match else None) or instance.private_ip


# Why an item with the instance's value is kept


def _kept(settings: HttpStepSettings, item: Any) -> str | None:
    """An expression of ``keep`` is true, or cannot be evaluated."""
    for expression in settings.keep:
        try:
            if is_true(expression.search(item)):
                return f"keep: {expression.text} is true"
        except ExpressionError as error:
            return f"keep: {error}"
    return None


def _without_id(settings: HttpStepSettings, item: Any) -> str | None:
    """Its id is neither text nor a whole number, is empty, or is a path segment that servers resolve."""
    try:
        value = settings.find.id.search(item)
    except ExpressionError as error:
        return f"find.id: {error}"
    if as_text(value) in (None, ".", ".."):
        return f"its id ({settings.find.id.text}) is never sent: it is {one_line(value) or 'empty'}"
    return None


def _shares_id(item_id: str | None, stranger_ids: Collection[str]) -> str | None:
    """Another item, not the instance's, has the same id, and the request would remove that one."""
    return "another item, which is not the instance's, has the same id" if item_id in stranger_ids else None


def _cannot_be_sent(settings: HttpStepSettings, instance: Instance, item: Any, item_id: str | None) -> str | None:
    """A value in ``remove`` is not known for this item, or is not allowed in its place."""
    problem = settings.remove.request.problem(latest(settings, instance), item, item_id)
    return f"remove: {problem}" if problem else None


def _target(settings: HttpStepSettings, item: Any) -> str:
    item_id = id_of(settings, item)
    return "an item without an id" if item_id is None else f"item {one_line(item_id)}"
