"""The audit: stores each object in S3, complete, before it is removed.

One JSON object per removal, under a key that names the instance first and the day next::

    <prefix>instances/i-0123456789abcdef0/2026-03-01-route53-record_set-5f0c3d9be1a2c4d8.json

``restore`` finds an instance with one ListObjectsV2 by prefix. On the same day, removing the same object again writes
the same key, so a retry adds no second object.

An audit object says what was about to be removed, not that it was: a later check may have kept it. The inventory's
history says what was removed. ``restore.py`` combines the two.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .errors import PermanentError
from .invocation import request_id
from .place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .clients.s3 import S3Bucket
    from .instance import Instance
    from .steps.base import Removal

VERSION = 1
# The kind for a removal without an ``object``: the audit object then holds only the target and the proof.
NO_OBJECT = "other"
_UNUSUAL = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True)
class Kept:
    """One removal as stored in the audit. Attributes as in ``Removal`` and in the JSON object."""

    instance_id: str
    place: Place
    step: str
    kind: str
    action: str
    target: str
    proof: str
    object: Mapping[str, Any] | None
    request_id: str
    at: str

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "version": VERSION,
            "instance_id": self.instance_id,
            "account_id": self.place.account_id,
            "region": self.place.region,
            "step": self.step,
            "kind": self.kind,
            "action": self.action,
            "target": self.target,
            "proof": self.proof,
            "object": self.object,
            "request_id": self.request_id,
            "at": self.at,
        }

    @classmethod
    def parse(cls, text: bytes) -> Kept:
        """Parses an audit object. Raises ValueError if it is not one."""
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise ValueError(f"expected a JSON object with version {VERSION}")
        names = (
            "instance_id",
            "account_id",
            "region",
            "step",
            "kind",
            "action",
            "target",
            "proof",
            "request_id",
            "at",
        )
        wrong = [name for name in names if not isinstance(document.get(name), str)]
        if wrong or not isinstance(document.get("object"), dict | None):
            raise ValueError(
                f"expected a string for {', '.join(wrong) or 'each key'}, and an object or null for object"
            )
        texts: dict[str, str] = {name: document[name] for name in names}
        place = Place(texts.pop("account_id"), texts.pop("region"))
        return cls(place=place, object=document["object"], **texts)


class S3Audit:
    """The audit in an S3 bucket.

    Args:
        prefix: empty, or ends with ``/``.
        now: returns the current time.
    """

    def __init__(
        self, bucket: S3Bucket, prefix: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._now = now

    def keep(self, instance: Instance, step: str, removals: Sequence[Removal]) -> None:
        """Writes each removal. Raises DecommissionError at the first that cannot be written."""
        at = self._now().isoformat(timespec="seconds")
        for removal in removals:
            kept = Kept(
                instance.instance_id,
                instance.place,
                step,
                removal.kind or NO_OBJECT,
                removal.action,
                removal.target,
                removal.proof,
                removal.object,
                request_id(),
                at,
            )
            body = json.dumps(kept.document(), indent=1, default=str).encode()
            self._bucket.put(f"{self._folder(kept.instance_id)}{_name(kept)}", body)

    def read(self, instance_id: str) -> list[Kept]:
        """Returns every removal written for the instance, oldest first.

        Raises:
            PermanentError: an object under the instance's prefix is not a valid audit object.
            DecommissionError: the bucket could not be read.
        """
        found = []
        for key in self._bucket.keys(self._folder(instance_id)):
            try:
                kept = Kept.parse(self._bucket.get(key))
            except (ValueError, RecursionError) as error:
                raise PermanentError(f"audit object {key} in bucket {self._bucket.name}: {error}") from None
            if kept.instance_id != instance_id:
                raise PermanentError(f"audit object {key} in bucket {self._bucket.name}: is for {kept.instance_id}")
            found.append(kept)
        return sorted(found, key=lambda kept: kept.at)

    def _folder(self, instance_id: str) -> str:
        return f"{self._prefix}instances/{instance_id}/"


def _name(kept: Kept) -> str:
    same = json.dumps([kept.step, kept.kind, kept.action, kept.target, kept.object], sort_keys=True, default=str)
    digest = hashlib.sha256(same.encode()).hexdigest()[:16]
    return f"{kept.at[:10]}-{_UNUSUAL.sub('_', kept.step)}-{_UNUSUAL.sub('_', kept.kind)}-{digest}.json"
