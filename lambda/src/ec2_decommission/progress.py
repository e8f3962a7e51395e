"""How far a sweep has come that one invocation has not time enough for; the next one reads it from the queue."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import MalformedEvent
from .identity import INSTANCE_ID

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

EVERYBODY = "i-"  # what every instance's id begins with
_PREFIX = re.compile(r"i-[0-9a-f]{0,17}")
_MOST_BYTES = 4_000_000  # of ids, opened


@dataclass(frozen=True)
class Progress:
    """What has been looked at, and what was seen.

    Attributes:
        pending: beginnings of ids that are still to be looked at.
        living: how many instances live in EC2, of those that were looked at; the other numbers likewise.
        ended: how many that are missing EC2 still knows, by their ids.
        recorded: how many are recorded as living.
        refreshed: how many records were brought up to date.
        postponed: how many were not, for want of time.
        gone: ids that are recorded and gone.
        adopted: ids that are not recorded and gone.
        unadopted: how many nodes were left alone.
        accept: ids that an operator has confirmed to be gone.
        dry_run: whether it only lists.
        trouble: what went wrong on the way, in words.
    """

    pending: tuple[str, ...] = (EVERYBODY,)
    living: int = 0
    ended: int = 0
    recorded: int = 0
    refreshed: int = 0
    postponed: int = 0
    gone: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()
    unadopted: int = 0
    accept: tuple[str, ...] = ()
    dry_run: bool = False
    trouble: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON. Ids take about 13 bytes each."""
        return {
            "pending": list(self.pending),
            "living": self.living,
            "ended": self.ended,
            "recorded": self.recorded,
            "refreshed": self.refreshed,
            "postponed": self.postponed,
            "gone": _packed(self.gone),
            "adopted": _packed(self.adopted),
            "unadopted": self.unadopted,
            "accept": _packed(self.accept),
            "dry_run": self.dry_run,
            "trouble": self.trouble,
        }

    @classmethod
    def of(cls, document: Any) -> Progress:
        """Reads it.

        Raises:
            MalformedEvent: it is none that a sweep has written.
        """
        try:
            return cls(
                pending=_texts(document["pending"], _PREFIX),
                living=_number(document["living"]),
                ended=_number(document["ended"]),
                recorded=_number(document["recorded"]),
                refreshed=_number(document["refreshed"]),
                postponed=_number(document["postponed"]),
                gone=_unpacked(document["gone"]),
                adopted=_unpacked(document["adopted"]),
                unadopted=_number(document["unadopted"]),
                accept=_unpacked(document["accept"]),
                dry_run=_only(bool, document["dry_run"]),
                trouble=_only(str, document["trouble"]) if document["trouble"] is not None else None,
            )
        except (LookupError, TypeError, ValueError, zlib.error):
            raise MalformedEvent("the sweep's progress cannot be read") from None


def _only(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise TypeError
    return value


def _number(value: Any) -> int:
    if _only(int, value) < 0:
        raise ValueError
    return int(value)


def _texts(values: Iterable[Any], form: re.Pattern[str]) -> tuple[str, ...]:
    read = tuple(values)
    if not all(isinstance(value, str) and form.fullmatch(value) for value in read):
        raise ValueError
    return read


def _packed(ids: Iterable[str]) -> str:
    return base64.b64encode(zlib.compress("\n".join(ids).encode(), 9)).decode()


def _unpacked(text: str) -> tuple[str, ...]:
    opened = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), _MOST_BYTES).decode()
    return _texts(opened.split("\n") if opened else (), INSTANCE_ID)
