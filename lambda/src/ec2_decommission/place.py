"""A place is one account and one region. A deployment serves its own place and those of its members."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, order=True)
class Place:
    """An AWS account and a region in it.

    Example:
        >>> str(Place("111111111111", "eu-west-1"))
        '111111111111/eu-west-1'
    """

    account_id: str
    region: str

    def __str__(self) -> str:
        return f"{self.account_id}/{self.region}"


@dataclass(frozen=True)
class Served:
    """The places that this deployment serves.

    Attributes:
        own: the function's account and region; always served.
        members: the served regions of each account. The function's own account may be one of them.
        role_name: the reader role in each member account.
        external_id: sent when a member's role is assumed; None sends none.
        partition: the partition of the ARNs, for example ``aws`` or ``aws-us-gov``.
    """

    own: Place
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    role_name: str = ""
    external_id: str | None = None
    partition: str = "aws"

    def __iter__(self) -> Iterator[Place]:
        """Every served place, the function's own first."""
        yield self.own
        for account_id, regions in self.members.items():
            for region in regions:
                place = Place(account_id, region)
                if place != self.own:
                    yield place

    def __contains__(self, place: object) -> bool:
        if not isinstance(place, Place):
            return False
        return place == self.own or place.region in self.members.get(place.account_id, ())

    def role_arn(self, account_id: str) -> str | None:
        """Returns the role to read an account with; None for the function's own account."""
        if account_id == self.own.account_id:
            return None
        return f"arn:{self.partition}:iam::{account_id}:role/{self.role_name}"
